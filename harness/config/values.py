"""Values of a composed configuration, checked: the user's mistake is one line with the value and what is allowed."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from harness.errors import UserError, unknown


def path(field: str, value: object) -> Path | None:
    """A path, `~` expanded; null is None."""
    if isinstance(value, bool) or value == "":
        raise UserError(f"{field}={value} is not allowed; allowed: a path, or null")
    return None if value is None else Path(str(value)).expanduser()


def folder(field: str, value: object) -> Path:
    """A folder, as it is written."""
    if value is None or isinstance(value, bool) or value == "":
        raise UserError(f"{field}={'null' if value is None else value} is not allowed; allowed: a folder")
    return Path(str(value))


def folders(field: str, value: object) -> tuple[Path, ...]:
    """No folder, one, or a list of them, as absolute paths: a worker may stand elsewhere."""
    if value is None:
        return ()
    several = cast("Iterable[object]", value) if isinstance(value, list) or OmegaConf.is_list(value) else [value]
    return tuple(folder(field, each).expanduser().absolute() for each in several)


def names(field: str, value: object) -> tuple[str, ...]:
    """A list of names, each once."""
    if not OmegaConf.is_list(value):
        raise UserError(f"{field}={value!r} is not a list; write {field}=[{value}]")
    return tuple(dict.fromkeys(str(name) for name in cast("Iterable[object]", value)))


def one_of(field: str, value: Any, allowed: Iterable[Any]) -> Any:
    """One of the allowed values."""
    if value not in (choices := list(allowed)):
        raise unknown(field, value, choices)
    return value


def number(field: str, value: object) -> float:
    """A number, no truth value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{field}={value!r} is not a number")
    return float(value)


def boolean(field: str, value: object) -> bool:
    """True or false; Hydra reads words such as `no` as text, which is neither."""
    if not isinstance(value, bool):
        raise UserError(f"{field}={value} is not allowed; allowed: true or false")
    return value


def integer(field: str, value: object, *, least: int, most: int | None = None) -> int:
    """An integer of at least `least` and at most `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        allowed = f"an integer >= {least}" if most is None else f"an integer from {least} to {most}"
        raise UserError(f"{field}={value} is not allowed; allowed: {allowed}")
    return value


def optional(field: str, value: object, least: int) -> int | None:
    """An integer of at least `least`, or null."""
    return None if value is None else integer(field, value, least=least)


def extent(field: str, value: object, least: int, most: int | None) -> int:
    """A size; of an array that has `most`, null means all."""
    if value is None and most is not None:
        return most
    number = integer(field, value, least=least)
    if most is not None and number > most:
        raise UserError(f"{field}={number} is more than the array has; allowed: {least} to {most}")
    return number
