"""The kit for a machine with a GPU, tried with the CPU in its place."""

import json
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from threading import Lock

import pytest
import torch

from harness.cli import gpu_check
from harness.cli.gpu_check import Facts, Kit, NotTriedError, Verdict, check_gpu
from harness.cli.main import main
from harness.jobs.run import PROCESS_CACHE


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kit:
    """The kit on the CPU with a model of two blocks; its commands run in this process, one at a time."""
    lock = Lock()

    def in_process(arguments: Sequence[str], ends: float) -> str:
        assert ends > time.monotonic()
        assert list(arguments[:2]) == ["-m", "harness"]
        with lock, redirect_stdout(StringIO()) as out, pytest.raises(SystemExit) as ended:
            main(arguments[2:])
        PROCESS_CACHE.clear()
        if ended.value.code:
            raise RuntimeError(f"exit {ended.value.code}")
        return out.getvalue()

    monkeypatch.setattr(gpu_check, "python", in_process)
    monkeypatch.setattr(gpu_check, "JOB", (*gpu_check.JOB, "calibration.num_sequences=2", "evaluation.max_windows=1"))
    return Kit("cpu", tmp_path, time.monotonic() + 600, "tiny-llama")


def test_a_sweep_is_compared_job_by_job(kit: Kit) -> None:
    """The CPU against itself: the same weights in all seven jobs, each with its method's tolerance."""
    passed, facts = gpu_check.sweep(kit)
    assert passed
    assert len(facts) == 7
    wanda = facts["tiny-llama__wanda__nm-2-4"]
    assert isinstance(wanda, dict)
    assert (wanda["difference"], wanda["tolerance"], wanda["same_weights"]) == (0, 5e-3, True)


def test_a_perplexity_outside_of_its_tolerance_fails_the_sweep(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundredth is too much for magnitude, whose masks no rounding moves."""
    told = gpu_check.perplexity
    (record,) = kit.records("device", "method=magnitude", "pattern=2:4")
    other = replace(record, results=(replace(record.results[0], value=told(record) * 1.01),))
    monkeypatch.setattr(Kit, "records", lambda *_, device=None: [other if device else record])
    passed, facts = gpu_check.sweep(kit)
    assert not passed
    assert len(facts) == 1


def test_offloading_two_processes_and_types_are_compared(kit: Kit) -> None:
    """Each with its numbers; a job that is done is not run again by a later check."""
    passed, facts = gpu_check.offload(kit)
    assert (passed, list(facts)) == (True, ["none", "cpu", "disk"])
    passed, facts = gpu_check.two_processes(kit)
    assert (passed, list(facts)) == (True, ["a", "b"])
    passed, facts = gpu_check.dtypes(kit)
    assert (passed, set(facts)) == (True, {"float32", "bfloat16", "float16"})
    assert len(list((kit.folder / "none").rglob("*__*.json"))) == 1


def test_other_weights_of_one_process_are_seen(kit: Kit) -> None:
    """Equal perplexities do not hide them."""
    (record,) = kit.records("one", *gpu_check.WANDA)
    assert gpu_check._same({"a": record, "b": record})
    assert not gpu_check._same({"a": record, "b": replace(record, weights_fingerprint="other")})


@pytest.mark.parametrize("check", [gpu_check.memory, gpu_check.semi_structured, gpu_check.prefetch])
def test_what_only_cuda_can_show_is_not_tried_elsewhere(check: Callable[[Kit], Verdict], kit: Kit) -> None:
    """It neither passes nor fails."""
    with pytest.raises(NotTriedError, match="needs a CUDA device"):
        check(kit)


def test_a_job_that_fails_leaves_its_traceback_in_the_report(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record is thrown away with the folder of the kit, so the check's error has it."""

    def no_kernel(*_: object, **__: object) -> None:
        raise ArithmeticError("no kernel image for this device")

    monkeypatch.setattr("harness.jobs.run.evaluate", no_kernel)
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*ArithmeticError: no kernel image.*exit 1$"):
        gpu_check.two_processes(kit)


@pytest.mark.parametrize(
    ("last", "passed"), [("5 passed, 9 deselected", True), ("4 passed, 1 skipped", False), ("5 skipped", False)]
)
def test_the_marked_tests_must_pass_and_not_be_skipped(
    last: str, passed: bool, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their last line is the fact."""
    monkeypatch.setattr(gpu_check, "python", lambda *_: f"....\n{last}\n")
    assert gpu_check.device_tests(kit) == (passed, {"pytest": last})


def test_the_report_has_every_check_and_no_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A check that raises has failed and the others go on; the report is a table and JSON."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")

    def good(kit: Kit) -> Verdict:
        """Shows this."""
        facts: Facts = {"number": 1.5}
        return True, facts

    def broken(kit: Kit) -> Verdict:
        """Shows that."""
        raise RuntimeError(f"no kernel in {kit.folder}/model with 0123456789abcdef in {tmp_path}/x")

    def elsewhere(kit: Kit) -> Verdict:
        """Shows nothing."""
        raise NotTriedError("needs more")

    monkeypatch.setattr(gpu_check, "CHECKS", (broken, elsewhere, good))
    assert not check_gpu(tmp_path / "results", "cpu")
    text = (tmp_path / "results" / "gpu-report.md").read_text()
    assert re.search(r"\| good \| passed \| \d+\.\d \| Shows this. \|", text)
    data = json.loads(text.partition("```json")[2].partition("```")[0])
    assert [row["verdict"] for row in data["checks"]] == ["FAILED", "not tried", "passed"]
    assert data["checks"][0]["facts"] == {"error": "RuntimeError: no kernel in SCRATCH/model with *** in ~/x"}
    assert data["checks"][2]["facts"] == {"number": 1.5}
    assert torch.__version__ in data["machine"]["torch"]
    assert data["provenance"]["packages"]["torch"] == torch.__version__
    for said in (text, capsys.readouterr().out):
        assert "0123456789abcdef" not in said
        assert str(tmp_path) not in said.replace(f"report: {tmp_path}", "")
    assert not list((tmp_path / "results" / "scratch").iterdir())
    monkeypatch.setattr(gpu_check, "CHECKS", (elsewhere, good))
    assert check_gpu(tmp_path / "results", "cpu")


def test_without_cuda_the_kit_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One line and code 2."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--gpu", "--results-dir", str(tmp_path / "results")])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "no CUDA device" in line
    assert not (tmp_path / "results").exists()


def test_a_process_of_its_own_tells_its_error() -> None:
    """The last lines that it wrote; the hub is off for it; it ends with the kit's time, after which none starts."""
    soon = time.monotonic() + 60
    with pytest.raises(RuntimeError, match=r"^exit 3\nfirst\nsecond$"):
        gpu_check.python(["-c", "import sys; print('first\\nsecond', file=sys.stderr); sys.exit(3)"], soon)
    assert gpu_check.python(["-c", "import os; print(os.environ['HF_HUB_OFFLINE'])"], soon) == "1\n"
    with pytest.raises(subprocess.TimeoutExpired):
        gpu_check.python(["-c", "import time; time.sleep(60)"], time.monotonic() + 0.2)
    with pytest.raises(NotTriedError, match="are over"):
        gpu_check.python(["-c", ""], time.monotonic() - 1)
