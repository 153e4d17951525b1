"""The demo: its generated instance, its command, its processes."""
