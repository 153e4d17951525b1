"""The shipped Docker files, in a real engine (make containers)."""
