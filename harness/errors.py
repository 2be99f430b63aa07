"""The one exception that means "the user can mend this": a line with the value and what is allowed."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

LOGGER = logging.getLogger(__name__)


class UserError(ValueError):
    """A mistake in the user's input; the command line prints its message as one line and exits with 2."""


def unknown(what: str, value: object, allowed: Iterable[object]) -> UserError:
    """`UserError` for a name that is not one of `allowed`."""
    return UserError(f"unknown {what} {value!r}; choose from: {', '.join(str(name) for name in allowed)}")


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
