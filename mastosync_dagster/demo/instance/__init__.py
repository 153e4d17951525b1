"""The generated instance: its rows and objects."""
