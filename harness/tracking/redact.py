"""Text that may leave this machine: without secrets, and without the path of the home folder."""

import os
import re
from pathlib import Path

_SECRET_NAME = re.compile(r"token|key|secret|passw|credential", re.IGNORECASE)
"""Environment variables whose values are never printed."""
_SHORTEST = 8
"""Shorter values are words such as `true`, which would be taken out of every line."""
_LOGIN = re.compile(r"(?<=://)[^/\s@]+@")
_HUB_TOKEN = re.compile(r"\bhf_\w{8,}")


def redacted(text: str) -> str:
    """`text` with secrets of the environment, logins in addresses and hub tokens as ``***``, and the home as ``~``."""
    text = _HUB_TOKEN.sub("***", _LOGIN.sub("***@", text))
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST:
            text = text.replace(value, "***")
    home = str(Path.home())
    return text if home == "/" else text.replace(home, "~")
