"""The golden outcomes and the data are passed over where nobody has them, and missed loudly where CI must."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tests.conftest import FOLDERS, REQUIRED, pytest_configure

CI = Path(__file__).parents[2] / ".ci" / "run"


def test_a_plain_clone_needs_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is required there: the tests that read them skip."""
    for variable in (REQUIRED, *FOLDERS):
        monkeypatch.delenv(variable, raising=False)
    pytest_configure()


@pytest.mark.parametrize("state", ["not set", "no folder", "empty"])
@pytest.mark.parametrize("variable", FOLDERS)
def test_a_required_folder_is_missed_by_its_name(
    variable: str, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not set, a path that is no folder, or an empty folder: pytest ends with a line that names the variable alone."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv(REQUIRED, "required")
    for name in FOLDERS:
        monkeypatch.setenv(name, str(tmp_path / "full"))
    pytest_configure()
    if state == "not set":
        monkeypatch.delenv(variable)
    else:
        monkeypatch.setenv(variable, str(tmp_path / {"no folder": "typo", "empty": "empty"}[state]))
    with pytest.raises(pytest.UsageError, match=f"{REQUIRED} is set.*: {variable}=[^,]*$"):
        pytest_configure()


@pytest.mark.skipif(not CI.exists(), reason="not a checkout")
@pytest.mark.parametrize("beside", [(), ("golden",), ("data",), ("golden", "data")], ids=str)
def test_ci_requires_both_folders_where_it_has_one(beside: tuple[str, ...], tmp_path: Path) -> None:
    """It finds those beside the checkout; without the other one of the two no test is run."""
    (tmp_path / "main" / ".ci").mkdir(parents=True)
    script = shutil.copy(CI, tmp_path / "main" / ".ci" / "run")
    for folder in beside:
        (tmp_path / "shared" / folder).mkdir(parents=True)
    make = tmp_path / "make"
    make.write_text("#!/bin/sh\nenv\n")
    make.chmod(make.stat().st_mode | stat.S_IXUSR)
    clean = {name: value for name, value in os.environ.items() if name not in (*FOLDERS, REQUIRED, "CI")}
    clean["PATH"] = f"{tmp_path}:{clean['PATH']}"
    done = subprocess.run([script], env=clean, capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert (f"{REQUIRED}=required" in said) == bool(beside)
    for variable, folder in zip(FOLDERS, ("golden", "data"), strict=True):
        assert (f"{variable}={tmp_path / 'shared' / folder}" in said) == (folder in beside)
