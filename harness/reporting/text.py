"""Text that is safe to show: no control characters, a dash for what is missing."""

import unicodedata

DASH = "–"
"""What a table shows where there is no value."""


def clean(text: str) -> str:
    """One line without control, format (bidirectional), surrogate or unassigned characters; each becomes a blank."""
    if text.isascii() and text.isprintable():  # nearly always: a table of thousands of jobs is cleaned cell by cell
        return text
    return "".join(" " if unicodedata.category(character)[0] in "CZ" else character for character in text)
