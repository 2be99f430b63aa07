"""The one exception that means "the user can mend this": a line with the value and what is allowed."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

LOGGER = logging.getLogger(__name__)


class UserError(ValueError):
    """A mistake in the user's input; the command line prints its message as one line and exits with 2."""


def unknown(what: str, value: object, allowed: Iterable[object]) -> UserError:
    """`UserError` for a name that is not one of `allowed`."""
    return UserError(f"unknown {what} {value!r}; choose from: {', '.join(str(name) for name in allowed)}")


ALLOWED = {
    "bool_type": "true or false",
    "int_type": "an integer",
    "float_type": "a finite number",
    "string_type": "text",
    "tuple_type": "a list, as in [a,b]",
}
"""What a field takes, for pydantic's kinds of error; other messages of its say it."""
MOST_SHOWN = 60
BOUNDS = {"greater than or equal to": ">=", "greater than": ">", "less than or equal to": "<=", "less than": "<"}


def refused(path: str, details: ErrorDetails) -> UserError:
    """`UserError` for the value of a field that pydantic does not take: the field, its value, and what is allowed."""
    given = details["input"]
    value = f"{given:g}" if isinstance(given, float) else given if isinstance(given, str) else json.dumps(given)
    shown = value if len(value) <= MOST_SHOWN else f"{value[:MOST_SHOWN]}... of {len(value)} characters"
    said = re.sub("^(Input should be|Value error,) ", "", details["msg"]).replace("'", "")
    for words, sign in BOUNDS.items():
        if said.startswith(words):
            said = said.replace(words, f"{path.rpartition('.')[2]} {sign}")
    return UserError(f"{path}={shown} is not allowed; allowed: {ALLOWED.get(details['type'], said)}")


def first_line(error: Exception) -> str:
    """An error of any kind in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


SET_ASIDE: dict[str, None] = {}
"""What this process could not read and went on without, in the order it was met."""


@contextmanager
def setting_aside() -> Iterator[None]:
    """Around the reading of one file of many: what cannot be read is named, once, and the command goes on without it.

    Its exit code will tell.
    """
    try:
        yield
    except UserError as error:
        if str(error) not in SET_ASIDE:
            SET_ASIDE[str(error)] = None
            LOGGER.warning("set aside: %s", error)
