"""A model of what must be where and readable by whom, and a machine that lives through thousands of steps beside it."""
