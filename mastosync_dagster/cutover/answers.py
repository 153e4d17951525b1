"""What a check of the cutover found: a line for each question, and what to do where the answer is no."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Answer(str, Enum):
    """The answer to one question."""

    YES = "ok"
    NO = "no"
    STOP = "stop"
    """No as long as Mastodon writes: it passes once Mastodon stands still and the last delta has run."""
    NOTE = "note"
    """Nothing that decides, and worth reading."""


@dataclass(frozen=True, slots=True)
class Line:
    """The answer to one question; ``text`` says what was found and, after a no, what to do."""

    name: str
    answer: Answer
    text: str

    @property
    def passes(self) -> bool:
        """Whether the answer is no reason against it."""
        return self.answer in {Answer.YES, Answer.NOTE}


def yes_or_no(name: str, problems: Iterable[str], good: str) -> Line:
    """Return a line: no, with all problems, or yes."""
    found = "; ".join(problems)
    return Line(name, Answer.NO, found) if found else Line(name, Answer.YES, good)
