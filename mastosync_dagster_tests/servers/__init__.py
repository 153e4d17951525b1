"""Real S3 servers of several makers, and every ordered pair of them: what each keeps, refuses and proves."""
