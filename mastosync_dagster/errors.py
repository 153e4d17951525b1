"""The base of every error that an admin reads."""

from __future__ import annotations


class AdminError(Exception):
    """Something that an admin can do something about.

    Its message is written for them: one sentence or two, what to change, no secret.
    """
