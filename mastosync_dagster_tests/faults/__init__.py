"""What becomes of objects when servers misbehave and machines die."""
