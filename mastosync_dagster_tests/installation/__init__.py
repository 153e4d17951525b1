"""Tests of what `mastosync init` writes and `mastosync ui` starts."""
