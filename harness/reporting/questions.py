"""Questions as people read them; whoever makes a report hands them in, since records hold no text."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """One question.

    Args:
        content: names it, as `answers.content_id` does.
        asked: what is asked, a line a field of its data set.
        options: in the order of the scores.
    """

    content: str
    asked: str
    options: tuple[str, ...]
