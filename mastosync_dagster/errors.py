"""The base of every error that an admin reads."""

from __future__ import annotations


class AdminError(Exception):
    """An error that an admin can correct. The message says in one or two sentences what to change, without secrets."""

    def in_full(self) -> str:
        """Return the message with what another program says itself: for one error, not for the thousands of a run."""
        return str(self)
