"""Where blocks are is chosen by what fits; what fits nowhere is refused at once, and the end of memory is one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.cli.main import main
from harness.config.hydra import compose
from harness.config.request import JobRequest
from harness.errors import UserError
from harness.jobs import placement, run
from harness.jobs.peak_memory import PeakMemory, estimated_peak
from harness.jobs.placement import out_of_memory, placed
from harness.models.devices import main_memory
from tests.accelerator import CPU, DEVICE
from tests.families import VOCAB, tiny_model

GB = 10**9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of twelve small blocks, and token ids beside it."""
    made = tmp_path_factory.mktemp("placement")
    tiny_model("llama", num_hidden_layers=12).save_pretrained(made / "model")
    np.save(made / "tokens.npy", np.random.default_rng(0).integers(0, VOCAB, (8, 16)))
    return made


@pytest.fixture
def asked(folder: Path, tmp_path: Path) -> Callable[..., JobRequest]:
    """What overrides of a small job ask for."""

    def ask(*more: str) -> JobRequest:
        (job,) = compose(overrides(folder, tmp_path, *more), multirun=False).jobs
        assert isinstance(job, JobRequest)
        return job

    return ask


def overrides(folder: Path, results: Path, *more: str) -> list[str]:
    """A job that prunes the model and measures nothing."""
    return [
        "model=local", f"model.path={folder / 'model'}", "calibration=tokens", "dtype=float32", "evaluation=none",
        f"calibration.path={folder / 'tokens.npy'}", f"results_dir={results}", *more,
    ]  # fmt: skip


def estimate(request: JobRequest, offload: Any) -> PeakMemory:
    """Of a job whose sizes are known."""
    peak = estimated_peak(request, offload)
    assert peak is not None
    return peak


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give this machine so much memory, on an accelerator and beside it."""

    def give(on_device: int, beside: int = 1000 * GB) -> None:
        monkeypatch.setattr(placement, "memory_of", lambda device: beside if device == CPU else on_device)
        monkeypatch.setattr(placement, "main_memory", lambda: beside)

    return give


def test_the_first_place_that_fits_is_chosen(asked: Callable[..., JobRequest], machine: Callable[..., None]) -> None:
    """On an accelerator the whole model, then one block from memory, then one from disk; hidden states may move."""
    request = asked()
    none, cpu, disk = (estimate(request, mode) for mode in ("none", "cpu", "disk"))
    assert cpu.on_accelerator < none.on_accelerator
    assert disk.beside_accelerator < cpu.beside_accelerator
    for on_device, beside, expected in (
        (none.on_accelerator, 1000 * GB, "none"),
        (none.on_accelerator - none.movable - 1, 1000 * GB, "cpu"),
        (cpu.on_accelerator - cpu.movable, cpu.beside_accelerator, "cpu"),
        (cpu.on_accelerator, cpu.beside_accelerator - 1, "disk"),
    ):
        machine(on_device, beside)
        there, chosen = placed(request, DEVICE)
        assert there.options.offload == chosen.offload == expected
        assert there.spec == request.spec
        assert chosen.facts == {
            "offload": expected,
            "asked": "auto",
            "estimated_peak_bytes": estimate(request, expected).on_accelerator,
            "memory_bytes": on_device,
        }
        assert chosen.reserved == estimate(request, expected).reserved
        assert chosen.note is None


def test_on_a_processor_it_is_memory_or_disk(asked: Callable[..., JobRequest], machine: Callable[..., None]) -> None:
    """There blocks that wait in main memory take no less of it than those that do not."""
    request = asked()
    machine(0, estimate(request, "none").on_cpu)
    assert placed(request, CPU)[1].offload == "none"
    machine(0, estimate(request, "none").on_cpu - 1)
    assert placed(request, CPU)[1].offload == "disk"


def test_what_fits_nowhere_is_refused_unless_it_is_asked_for(
    asked: Callable[..., JobRequest], machine: Callable[..., None]
) -> None:
    """In one line with both sizes and what runs it all the same; that is then noted."""
    machine(1000)
    with pytest.raises(
        UserError, match=r"offload=disk takes an estimated .* GB on meta, which has 0\.0 GB.*; allowed: "
    ):
        placed(asked(), DEVICE)
    there, chosen = placed(asked("offload=cpu"), DEVICE)
    assert there.options.offload == "cpu"
    assert chosen.note is not None
    assert chosen.note.startswith("offload=cpu was asked for, though it takes an estimated")


@pytest.mark.parametrize("whole", ["compile=true", "recovery=masked_finetune"])
def test_what_takes_the_whole_model_is_not_offloaded(
    whole: str, asked: Callable[..., JobRequest], machine: Callable[..., None]
) -> None:
    """Where that does not fit, the line says what takes it."""
    request = asked(whole)
    machine(estimate(request, "none").on_accelerator)
    assert placed(request, DEVICE)[1].offload == "none"
    machine(1000)
    with pytest.raises(UserError, match=f"which {whole} takes"):
        placed(request, DEVICE)


def test_without_an_estimate_the_whole_model_is_there(
    asked: Callable[..., JobRequest], machine: Callable[..., None]
) -> None:
    """A method that sees all of it has none; the record says so."""
    machine(1000)
    chosen = placed(asked("method=llm_surgeon"), DEVICE)[1]
    assert (chosen.offload, chosen.estimated) == ("none", None)


def test_the_job_is_the_same_wherever_its_blocks_are(asked: Callable[..., JobRequest]) -> None:
    """The choice is no part of its identity."""
    assert len({asked(f"offload={mode}").spec.job_id for mode in ("auto", "none", "cpu", "disk")}) == 1


def test_a_record_says_what_was_chosen(folder: Path, tmp_path: Path) -> None:
    """With the estimate and the memory that it was chosen by."""
    with pytest.raises(SystemExit) as ended:
        main(["run", *overrides(folder, tmp_path, "device=cpu", "pattern=2:4")])
    assert not ended.value.code
    (path,) = tmp_path.rglob("*__*.json")
    found = json.loads(path.read_text())["provenance"]["placement"]
    assert (found["offload"], found["asked"], found["memory_bytes"]) == ("none", "auto", main_memory())
    assert 0 < found["estimated_peak_bytes"] < GB


def test_memorys_end_is_one_line_with_what_to_try_next(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No record, exit code 2, no traceback; the next job of the process runs."""
    with monkeypatch.context() as patched:
        patched.setattr(run, "prune", lambda *_: torch.empty(2**55))
        with pytest.raises(SystemExit) as ended:
            main(["run", *overrides(folder, tmp_path, "device=cpu", "pattern=2:4")])
    assert ended.value.code == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "memory" in line)
    assert "is out of memory on cpu with offload=none and batch_tokens=4096; try next: offload=disk" in line
    assert not list(tmp_path.rglob("*__*.json"))
    with pytest.raises(SystemExit) as ended:
        main(["run", *overrides(folder, tmp_path, "device=cpu", "pattern=2:4")])
    assert not ended.value.code


@pytest.mark.parametrize(
    ("more", "device", "advice"),
    [
        (("offload=none",), DEVICE, "offload=cpu"),
        (("offload=cpu",), DEVICE, "offload=disk"),
        (("offload=none",), CPU, "offload=disk"),
        (("offload=disk",), DEVICE, "batch_tokens=2048"),
        (("offload=disk", "batch_tokens=20"), DEVICE, "batch_tokens=16"),
        (("offload=disk", "batch_tokens=16"), DEVICE, "a smaller model"),
        (("offload=none", "compile=true"), DEVICE, "batch_tokens=2048"),
    ],
)
def test_what_to_try_next_takes_less(
    more: tuple[str, ...], device: torch.device, advice: str, asked: Callable[..., JobRequest]
) -> None:
    """First where the blocks are, then how many tokens at once, then what the user alone can change."""
    assert f"try next: {advice}" in str(out_of_memory(asked(*more), device))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_end_of_a_devices_memory_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An allocation that no device can make; memory that the job had is free again."""
    monkeypatch.setattr(run, "prune", lambda *_: torch.empty(2**55, device="cuda"))
    with pytest.raises(SystemExit) as ended:
        main(["run", *overrides(folder, tmp_path, "device=cuda", "pattern=2:4")])
    assert ended.value.code == 2
    assert "is out of memory on cuda:0 with offload=none and batch_tokens=4096; try next: offload=cpu" in (
        capsys.readouterr().err
    )
    assert torch.cuda.memory_allocated() < GB // 100
