"""The folder of a job while it runs: what of it outlives a power cut."""

import os
from pathlib import Path

import pytest

from harness.jobs.workplace import MADE_BY, mark


def test_a_model_is_on_the_disk_before_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file and the names of all, up to the folder that the workplace is in; the record is written after it."""
    model = tmp_path / "saved" / ".job" / "model"
    (model / "code").mkdir(parents=True)
    for name in ("model.safetensors", "config.json", "code/modeling.py"):
        (model / name).write_text("bytes")
    on_disk: set[Path] = set()
    monkeypatch.setattr(os, "fsync", lambda file: on_disk.add(Path(os.readlink(f"/proc/self/fd/{file}"))))
    mark(model, "job", "sha256:1")
    assert model / MADE_BY in on_disk
    assert on_disk == {*model.rglob("*"), model, model.parent, tmp_path / "saved"}
