"""The report of the tests marked `gpu`, made of other tests, for a machine without a device."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from threading import Thread

import pytest
import torch

from harness.cli import gpu_check
from harness.cli.gpu_check import KIT, check_gpu
from harness.cli.main import main


@pytest.fixture
def tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for tests, on what seems to be a machine with a device."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_check, "TESTS", tmp_path / "tests")
    (tmp_path / "tests" / "gpu").mkdir(parents=True)
    return tmp_path / "tests"


def _write(file: Path, *lines: str) -> None:
    file.write_text("import os, signal, time, pytest\npytestmark = pytest.mark.gpu\n" + "\n".join(map(dedent, lines)))


GOOD = """
    def test_good(record_property):
        record_property("says", "Shows this.")
        record_property("facts", '{"number": 1.5}')
"""


def _rows(results: Path) -> dict[str, dict[str, object]]:
    text = (results / "gpu-report.md").read_text()
    return {row["check"]: row for row in json.loads(text.partition("```json")[2].partition("```")[0])["checks"]}


def test_the_report_has_every_test_and_no_secret(
    tests: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table and JSON; what is skipped on a machine with a device has failed, what does not apply to it has not."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    _write(tests / KIT, GOOD, 'def test_elsewhere(): pytest.xfail("needs more")')
    broken = 'def test_broken(): raise RuntimeError(os.path.expandvars("no kernel, $WANDB_API_KEY in $HOME/x"))'
    _write(tests / "test_others.py", broken, 'def test_skipped(): pytest.skip("no data")')
    assert not check_gpu(tmp_path / "results")
    text = (tmp_path / "results" / "gpu-report.md").read_text()
    assert re.search(r"\| test_good \| passed \| \d+\.\d \| Shows this. \|", text)
    rows = _rows(tmp_path / "results")
    verdicts = {"test_good": "passed", "test_elsewhere": "not tried", "test_broken": "FAILED", "test_skipped": "FAILED"}
    assert {name: row["verdict"] for name, row in rows.items()} == verdicts
    assert rows["test_good"]["facts"] == {"number": 1.5}
    assert "RuntimeError: no kernel, *** in ~/x" in str(rows["test_broken"]["facts"])
    assert f'"torch": "{torch.__version__}"' in text
    for said in (text, capsys.readouterr().out):
        assert "0123456789abcdef" not in said
        assert str(tmp_path) not in said.replace(f"report: {tmp_path}", "")
    assert not list((tmp_path / "results" / "scratch").iterdir())


def test_a_fault_that_ends_pytest_leaves_what_it_wrote_and_the_other_tests(tests: Path, tmp_path: Path) -> None:
    """It has failed; the tests of the second process are still there."""
    _write(tests / KIT, "def test_dies(): os.kill(os.getpid(), signal.SIGKILL)")
    _write(tests / "test_others.py", GOOD)
    assert not check_gpu(tmp_path / "results")
    rows = _rows(tmp_path / "results")
    assert [rows[name]["verdict"] for name in ("pytest", "test_good")] == ["FAILED", "passed"]
    assert "test_kit.py::test_dies" in str(rows["pytest"]["facts"])


def test_what_the_time_does_not_suffice_for_is_not_tried(
    tests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was tried until then is in the report."""
    begun = tmp_path / "begun"

    class Clock(Thread):
        """Rings when the second test has begun, however long this machine takes for the first."""

        def __init__(self, _: float, ring: Callable[[int], None], arguments: tuple[int]) -> None:
            super().__init__(daemon=True)
            self._ring, self._arguments = ring, arguments

        def run(self) -> None:
            while not begun.exists():
                time.sleep(0.05)
            self._ring(*self._arguments)

        def cancel(self) -> None:
            self.join()

    _write(tests / KIT, GOOD, f"def test_long(): open({str(begun)!r}, 'w').close(); time.sleep(600)")
    _write(tests / "test_others.py", GOOD)
    monkeypatch.setattr(gpu_check, "BUDGET_S", 0.0)
    monkeypatch.setattr(gpu_check, "Timer", Clock)
    assert check_gpu(tmp_path / "results")
    rows = _rows(tmp_path / "results")
    assert (rows["test_good"]["verdict"], rows["pytest"]["verdict"]) == ("passed", "not tried")
    assert "the 0 s of the kit are over" in str(rows["pytest"]["facts"])


def test_without_cuda_or_tests_there_is_one_line(
    tests: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Code 2, and no folder is made."""
    for available, said in ((True, "has no tests"), (False, "no CUDA device")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        with pytest.raises(SystemExit) as ended:
            main(["doctor", "--gpu", "--results-dir", str(tmp_path / "results")])
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert said in line
    assert not (tmp_path / "results").exists()
