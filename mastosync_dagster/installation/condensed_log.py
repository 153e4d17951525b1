"""The log of a service whose disk cannot be written: a sentence with the cure, a few times an hour.

Dagster's loops come back every few seconds, and each time write a hundred lines of stack, onto the same disk.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from mastosync_dagster.installation.disk_errors import sentence

if TYPE_CHECKING:
    from pathlib import Path

SECONDS_BETWEEN = 400.0
"""Nine an hour."""
_CHAIN = 10
"""Errors behind an error, at the most: the cause of a cause."""


def condense(home: Path) -> None:
    """Let the loggers that this process makes from now on say in a sentence what is wrong with the home's disk."""
    said: dict[str, float] = {}

    class Condensed(logging.Logger):
        """A logger whose errors about the disk are short and seldom."""

        def handle(self, record: logging.LogRecord) -> None:
            """Pass a record on, unless it has been said."""
            short = sentence(home, _text(record)) if record.levelno >= logging.WARNING else None
            if short is not None:
                now = time.monotonic()
                if now - said.get(short, -SECONDS_BETWEEN) < SECONDS_BETWEEN:
                    return
                said[short] = now
                record.msg, record.args, record.exc_info, record.exc_text = short, None, None, None
            super().handle(record)

    logging.setLoggerClass(Condensed)


def _text(record: logging.LogRecord) -> str:
    """Return all that a record tells of its cause."""
    texts = [record.getMessage()]
    error = record.exc_info[1] if record.exc_info else None
    while error is not None and len(texts) < _CHAIN:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    return "\n".join(texts)
