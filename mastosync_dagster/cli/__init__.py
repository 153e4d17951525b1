"""The ``mastosync`` command."""
