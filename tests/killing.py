"""What a sweep leaves when it is killed, and what the rerun makes of it: `python -m tests.killing` tries every moment.

A process that is killed before a write leaves what lay there at that moment. So one sweep is watched, its folder copied
before each of its writes (files opened, folders made, names changed or removed), and every copy is given to a rerun.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch

from harness.cli.main import main as prunebench
from harness.jobs.run import PROCESS_CACHE

PLACES = {"open": 0, "os.mkdir": 0, "os.remove": 0, "os.rmdir": 0, "os.rename": 1}
"""Audit events by the argument that is the path; of a renaming the new name."""
NO_STATE = ("results/scratch/sweeps/", "results/scratch/hydra/", "results/scratch/claims/")
"""What is kept of every sweep, killed or not, and what Hydra keeps."""
NO_PROCESS = 2**22 + 1
"""Linux gives no such process id."""
OF_THE_RUN = ("provenance", "timings_s", "peak_memory_bytes")
"""Fields of a record that say how its job was run."""
QUESTIONS = [
    {"goal": f"To keep the {thing} {how}", "sol1": f"put it in a {place}", "sol2": f"leave it {how}", "label": n % 2}
    for n, (thing, how, place) in enumerate(
        (("bread", "soft", "box"), ("knife", "sharp", "block"), ("tea", "hot", "pot"))
    )
]


@dataclass(frozen=True)
class Sweep:
    """Two jobs in a folder.

    Args:
        overrides: of the sweep.
        before: overrides of a sweep that ended before it.
    """

    overrides: tuple[str, ...]
    before: tuple[str, ...] = ()


def sweeps(model: Path, given: Path) -> dict[str, Sweep]:
    """Jobs with answers per question that save their models, jobs from disk that do or do not, and jobs measured on.

    Args:
        given: folder for their data.
    """
    np.save(given / "tokens.npy", np.random.default_rng(0).integers(0, 64, (8, 16)))
    (given / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    common = (
        "model=local", f"model.path={model}", "calibration=tokens", f"calibration.path={given / 'tokens.npy'}",
        f"data.piqa={given / 'questions.jsonl'}", f"data.tokens={given / 'tokens.npy'}", "evaluation.seq_len=16",
        "dtype=float32", "method=magnitude,wanda", "pattern=2:4", "device=cpu", "results_dir=results",
    )  # fmt: skip
    asked = (*common, "evaluation.corpora=[]", "evaluation.tasks=[piqa]")
    from_disk = (*common, "evaluation.corpora=[tokens]", "offload=disk")
    return {
        "saved": Sweep((*asked, "save_model=saved")),
        "saved from disk": Sweep((*from_disk, "save_model=saved")),
        "from disk": Sweep(from_disk),
        "measured on": Sweep((*asked, "evaluation.limit=2"), before=asked),
    }


@dataclass
class Moments:
    """Copies of a folder before each write below it; moments between which nothing changed have one."""

    folder: Path
    copies: Path
    found: list[tuple[str, Path]] = field(default_factory=list)
    """What was about to be written, and the copy."""
    active: bool = False
    last: object = None

    def watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        """The audit hook."""
        if not self.active or event not in PLACES:
            return
        path = _written(event, arguments)
        if path is not None and path.startswith(f"{self.folder}{os.sep}"):
            self.active = False  # what copying opens is no write of the sweep
            here = {each: each.stat().st_mtime_ns for each in self.folder.rglob("*")}
            if here != self.last:
                copy = self.copies / str(len(self.found))
                shutil.copytree(self.folder, copy)
                self.found.append((f"{event} {path.removeprefix(f'{self.folder}{os.sep}')}", copy))
                self.last = here
            self.active = True


class Trial:
    """A sweep, what it leaves when nothing disturbs it, and the moments at which it could have been killed.

    Args:
        root: an empty folder for it all.
    """

    def __init__(self, sweep: Sweep, root: Path) -> None:
        self._sweep, self._folder = sweep, root / "sweep"
        self._folder.mkdir(parents=True)
        if sweep.before:
            run(self._folder, sweep.before)
        moments = Moments(self._folder, root / "moments")
        sys.addaudithook(moments.watch)  # for good, so it is told when to listen
        moments.active = True
        try:
            run(self._folder, sweep.overrides)
        finally:
            moments.active = False
        self.moments = moments.found
        self._expected = state(self._folder)

    def differences(self, copy: Path) -> list[str]:
        """What is otherwise than it should be when the sweep is run again where it was killed at the moment `copy`."""
        shutil.rmtree(self._folder)
        shutil.copytree(copy, self._folder)
        _bury_claimants(self._folder)
        try:
            run(self._folder, self._sweep.overrides)
        except AssertionError as error:
            return [str(error)]
        found = state(self._folder)
        return sorted(name for name in {*found, *self._expected} if found.get(name) != self._expected.get(name))


def _bury_claimants(folder: Path) -> None:
    """Who claimed a job is this process, which was not really killed."""
    for path in folder.rglob("*.claim/*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": NO_PROCESS}))


def run(folder: Path, overrides: tuple[str, ...]) -> None:
    """Run a sweep in `folder`, in this process.

    Raises:
        AssertionError: a job failed or was refused.
    """
    PROCESS_CACHE.clear()
    with contextlib.chdir(folder), _announcing_tensors(), pytest.raises(SystemExit) as ended:
        prunebench(("run", "-m", *overrides))
    assert not ended.value.code, f"the sweep ends with exit code {ended.value.code}"


@contextlib.contextmanager
def _announcing_tensors() -> Iterator[None]:
    """Safetensors are written by a library of its own, which tells the audit hooks nothing."""
    original = safetensors.torch.serialize_file

    def serialize_file(tensors: Any, filename: Any, *arguments: Any, **options: Any) -> Any:
        sys.audit("open", os.fspath(filename), "w", os.O_WRONLY | os.O_CREAT)
        return original(tensors, filename, *arguments, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(safetensors.torch, "serialize_file", serialize_file)
        yield


def _written(event: str, arguments: tuple[Any, ...]) -> str | None:
    """The path that is about to be written; None where that is nothing, or has no name."""
    path = arguments[PLACES[event]]
    if not isinstance(path, str | bytes | os.PathLike):
        return None
    if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return None
    base = os.getcwd()
    if event in ("os.remove", "os.rmdir") and arguments[1] >= 0:
        base = os.readlink(f"/proc/self/fd/{arguments[1]}")
    return os.path.join(base, os.fsdecode(path))


def state(folder: Path) -> dict[str, str]:
    """All that lies in `folder` and is no news of a run, with what is in it; of records all but times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not name.startswith(NO_STATE):
            content = b"" if path.is_dir() else path.read_bytes()
            if path.suffix == ".json" and b'"job_id"' in content:
                content = json.dumps(_without_times(json.loads(content))).encode()
            found[name] = hashlib.sha256(content).hexdigest()
    return found


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: each for key, each in value.items() if key not in OF_THE_RUN and "seconds" not in key}
        return {key: _without_times(each) for key, each in kept.items()}
    return [_without_times(each) for each in value] if isinstance(value, list) else value


def main(*names: str) -> None:
    """Try every moment of every sweep (or those of these names), and print what differs after the rerun."""
    from tests.e2e.conftest import save_speaking_model

    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        save_speaking_model(root / "tiny")
        for name, sweep in sweeps(root / "tiny", root).items():
            if names and name not in names:
                continue
            trial, wrong = Trial(sweep, root / name), 0
            for before, copy in trial.moments:
                if differing := trial.differences(copy):
                    wrong += 1
                    print(f"{name}: killed before {before}: {'; '.join(differing)}", flush=True)
            print(f"{name}: {wrong} of {len(trial.moments)} kills leave what a rerun does not mend", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
