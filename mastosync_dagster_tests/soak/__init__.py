"""Hours of nights under faults, in the processes that live long in production."""
