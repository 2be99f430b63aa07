"""Provenance: commit and dirty flag of a checkout, versions, hardware, memory."""

import logging
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from harness.tracking import provenance

IDENTITY = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *IDENTITY, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one commit."""
    for name in ("harness/job.py", "conf/config.yaml", "results/opt/a.json", "README.md", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one\n")
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-q", "-m", "one")
    return tmp_path


def test_clean_checkout_has_its_commit(checkout: Path) -> None:
    """The commit is HEAD's and nothing is dirty."""
    assert provenance._state_of(checkout) == (_git(checkout, "rev-parse", "HEAD"), False)


@pytest.mark.parametrize("name", ["harness/job.py", "harness/new.py", "conf/config.yaml", "pyproject.toml"])
def test_change_to_code_or_configuration_is_dirty(checkout: Path, name: str) -> None:
    """Edited and untracked files count where they decide numbers."""
    (checkout / name).write_text("two\n")
    assert provenance._state_of(checkout)[1]


@pytest.mark.parametrize("name", ["results/opt/a.json", "results/opt/b.json", "README.md", "notes.txt"])
def test_results_and_documents_do_not_make_a_checkout_dirty(checkout: Path, name: str) -> None:
    """A sweep's own records would otherwise make every job after the first dirty."""
    (checkout / name).write_text("two\n")
    assert not provenance._state_of(checkout)[1]


def test_git_environment_of_a_hook_is_ignored(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIT_DIR of the caller does not lead to another repository."""
    commit = _git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert provenance._state_of(checkout) == (commit, False)


def test_folder_without_git_is_no_checkout(tmp_path: Path) -> None:
    """An installed package has no commit and is not dirty."""
    assert provenance._state_of(tmp_path) == (None, False)


def test_checkout_without_a_commit_has_none(tmp_path: Path) -> None:
    """Before the first commit there is no commit, and the files are uncommitted."""
    _git(tmp_path, "init", "-q")
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "a.py").write_text("one\n")
    assert provenance._state_of(tmp_path) == (None, True)


def test_checkout_that_git_cannot_read_counts_as_dirty(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody knows what code it holds, so it is not clean, and a line says so."""
    (tmp_path / ".git").write_text("gitdir: /nowhere\n")
    with caplog.at_level(logging.WARNING):
        assert provenance._state_of(tmp_path) == (None, True)
    assert str(tmp_path) in caplog.text


def test_collected_provenance_is_complete() -> None:
    """Versions of the packages that decide numbers, a machine with a name, and what was given."""
    made = provenance.collect("cuda:0", "bfloat16", ("method=wanda",), {"name": "GPU", "memory_bytes": 1})
    assert (made.device, made.dtype, made.command) == ("cuda:0", "bfloat16", ("method=wanda",))
    assert set(provenance.PACKAGES) == set(made.packages)
    assert made.hardware["accelerator"] == {"name": "GPU", "memory_bytes": 1}
    assert made.hardware["processor"]
    memory = made.hardware["memory_bytes"]
    assert isinstance(memory, int)
    assert memory > 2**28
    assert datetime.fromisoformat(made.created).utcoffset() is not None


def test_peak_memory_is_bytes_and_stays_until_it_is_forgotten() -> None:
    """It counts an allocation of 64 MiB as at least that many bytes, also when it is freed, until it is reset."""
    provenance.reset_peak_memory()
    before = provenance.peak_memory()
    assert before > 2**23
    block = b"\x01" * (before + 2**26)  # larger than all that was ever resident
    assert provenance.peak_memory() >= before + 2**26
    del block
    peak = provenance.peak_memory()
    assert peak >= before + 2**26
    provenance.reset_peak_memory()
    if Path("/proc/self/clear_refs").exists():
        assert provenance.peak_memory() < peak
