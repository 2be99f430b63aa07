"""Text that may leave this machine: without secrets, and without the path of the home folder."""

import logging
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.record import RunRecord

_SECRET_NAME = re.compile(r"token|key|secret|passw|credential", re.IGNORECASE)
"""Environment variables whose values are never printed."""
_SHORTEST = 8
"""Shorter values are words such as `true`, which would be taken out of every line."""
_SHAPES = (
    r"(://)[^/\s@]+(?=@)"  # a login in an address
    r"|\b()(?:hf_[A-Za-z0-9]{10,}|wandb_v\d_\w{10,})"  # keys that say whose they are
    r"|(\b\w*(?i:token|_key|apikey|secret|passwd|password)['\"]?\s*[=:]\s*['\"]%s)[\w.+/-]{8,}"  # NAME=value
)
_SECRET, _SECRET_IN_CODE = re.compile(_SHAPES % "?"), re.compile(_SHAPES % "")
"""In a line of code what follows NAME= is a name too, or in quotes."""
_CODE = re.compile(r'(^ +File ".+", line \d+.*\n(?: {4,}.*\n?)*)', re.MULTILINE)
"""A frame of a traceback."""


def without_secrets(text: str) -> str:
    """`text` with ``***`` for secrets of the environment, logins in addresses, and what looks like a secret."""
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST:
            text = text.replace(value, "***")
    parts = enumerate(_CODE.split(text))  # every second one is code
    return "".join((_SECRET_IN_CODE if place % 2 else _SECRET).sub(_hidden, part) for place, part in parts)


def _hidden(found: re.Match[str]) -> str:
    return f"{found[1] or found[3] or ''}***"


def redacted(text: str) -> str:
    """`text` without secrets, and the home folder as ``~``."""
    home = str(Path.home())
    text = without_secrets(text)
    return text if home == "/" else text.replace(home, "~")


def record_without_secrets(record: "RunRecord") -> "RunRecord":
    """The record with what people and other programs wrote into it, its command, notes and traceback, made safe."""
    return replace(
        record,
        provenance=replace(record.provenance, command=tuple(map(without_secrets, record.provenance.command))),
        notes=tuple(map(without_secrets, record.notes)),
        error=None if record.error is None else without_secrets(record.error),
    )


class DiscreetFormatter(logging.Formatter):
    """Log lines without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))
