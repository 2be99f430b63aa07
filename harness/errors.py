"""The one exception that means "the user can mend this": a line with the value and what is allowed."""

from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in the user's input; the command line prints its message as one line and exits with 2."""


def unknown(what: str, value: object, allowed: Iterable[object]) -> UserError:
    """`UserError` for a name that is not one of `allowed`."""
    return UserError(f"unknown {what} {value!r}; choose from: {', '.join(str(name) for name in allowed)}")
