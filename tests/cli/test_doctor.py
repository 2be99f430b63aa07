"""`prunebench doctor` on machines of many kinds."""

import io
import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from harness.cli import machine
from harness.cli.machine import Finding, findings
from harness.cli.main import main
from harness.data.assets import SMOLLM2, wheel
from harness.data.sources import entries

Doctor = Callable[..., tuple[int, dict[str, Finding]]]
SECRET = "0123456789abcdef-not-to-be-seen"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub and pip's index are away, and nobody is logged in to W&B, unless a test says otherwise."""

    def away(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", away)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(machine, "_on_index", lambda _: False)
    monkeypatch.setattr(machine, "logged_in", lambda: False)


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Doctor:
    """Call the command with --json: exit code and findings by name."""

    def call(*arguments: str) -> tuple[int, dict[str, Finding]]:
        with pytest.raises(SystemExit) as ended:
            main(["doctor", "--json", "--results-dir", str(tmp_path / "results"), *arguments])
        rows = json.loads(capsys.readouterr().out)
        return int(ended.value.code or 0), {row["name"]: Finding(**row) for row in rows}

    return call


@pytest.fixture
def wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache with files that count as the pinned wheels."""
    folder = tmp_path / "cache"
    folder.mkdir()
    for asset in machine.ASSETS:
        (folder / asset.filename).touch()
    monkeypatch.setenv("PRUNEBENCH_CACHE", str(folder))
    monkeypatch.setattr(machine, "wheel", lambda asset: folder / asset.filename)
    return folder


def test_a_table_says_what_is_there_and_that_the_demo_can_run(
    wheels: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One line a probe, and a last one; code 0."""
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--results-dir", str(tmp_path)])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert all(name in out for name in machine.PROBES)
    assert out.endswith("the embedded demo can run: `make demo`\n")


def test_what_is_useful_may_be_away(wheels: Path, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data folder, no hub and no W&B: each says what to do, and the demo runs."""
    monkeypatch.delenv("PRUNEBENCH_DATA", raising=False)
    code, found = doctor()
    assert code == 0
    assert (found["data folder"].state, found["W&B"].state, found["hub"].state) == ("off", "off", "missing")
    assert "PRUNEBENCH_DATA" in found["data folder"].advice
    assert "Name or service not known" in found["hub"].found
    assert "wandb login" in found["W&B"].advice


def test_the_data_folder_is_compared_with_the_catalogue(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It says by name what is there, and what is not with the file that is looked for; a file is no folder."""
    monkeypatch.setenv("PRUNEBENCH_DATA", str(tmp_path))
    (tmp_path / "piqa").mkdir()
    (tmp_path / "piqa" / "validation.jsonl").touch()
    found = doctor()[1]["data folder"]
    assert found.state == "missing"
    assert found.found.endswith("has piqa")
    assert "piqa" not in found.advice
    assert "boolq (boolq/validation.jsonl)" in found.advice
    found_in = [entry.places("evaluation") for entry in entries("evaluation").values()]
    found_in += [entry.places("calibration") for entry in entries("calibration").values()]
    for places in found_in:
        for place in places.folder[:1] if places else ():
            (tmp_path / place).parent.mkdir(exist_ok=True)
            (tmp_path / place).touch()
    assert doctor()[1]["data folder"].state == "ok"
    monkeypatch.setenv("PRUNEBENCH_DATA", str(tmp_path / "piqa" / "validation.jsonl"))
    assert "is not a folder" in doctor()[1]["data folder"].found


def test_without_disk_space_the_demo_cannot_run(wheels: Path, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code 1, and the setting that names another disk."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    code, found = doctor()
    assert code == 1
    assert found["results disk"].state == "missing"
    assert "results_dir" in found["results disk"].advice
    assert found["cache disk"].state == "ok"  # all wheels are in it


def test_a_results_folder_below_a_file_cannot_be_written(wheels: Path, doctor: Doctor, tmp_path: Path) -> None:
    """The folder need not exist, but what it would lie in must be a folder."""
    (tmp_path / "file").touch()
    code, found = doctor("--results-dir", str(tmp_path / "file" / "results"))
    assert code == 1
    assert "cannot be written" in found["results disk"].found


def test_wheels_are_in_the_cache_or_on_the_index(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither: code 1 and the file that can be put there by hand.  A file that is another one is said."""
    monkeypatch.setenv("PRUNEBENCH_CACHE", str(tmp_path))
    code, found = doctor()
    assert code == 1
    assert SMOLLM2.filename in found["embedded wheels"].advice
    (tmp_path / SMOLLM2.filename).write_text("no wheel")
    assert machine.wheel is wheel
    assert "delete it" in doctor()[1]["embedded wheels"].found
    (tmp_path / SMOLLM2.filename).unlink()
    monkeypatch.setattr(machine, "_on_index", lambda _: True)
    code, found = doctor()
    assert (code, found["embedded wheels"].state) == (0, "ok")


def test_a_package_that_is_too_old_or_not_there_is_named(
    wheels: Path, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the bound that it misses; packages of extras are not asked for."""
    monkeypatch.setattr(
        metadata, "requires", lambda _: ["transformers>=99", "not-there>=1", "numpy>=1", "no-dev; extra == 'dev'"]
    )
    code, found = doctor()
    assert code == 1
    assert "transformers" in found["packages"].found
    assert "(needs >=99), no not-there (needs >=1)" in found["packages"].found
    assert "numpy" not in found["packages"].found
    assert "no-dev" not in found["packages"].found


def test_the_hub_is_asked_once_and_an_error_of_its_is_an_answer(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One HEAD; a refusal shows that the network is there; offline nobody is asked."""
    from huggingface_hub import constants

    asked = []

    def refuses(request: urllib.request.Request, timeout: float) -> None:
        asked.append((request.get_method(), timeout))
        raise urllib.error.HTTPError(request.full_url, 403, "Forbidden", Message(), io.BytesIO())

    monkeypatch.setattr(urllib.request, "urlopen", refuses)
    assert doctor()[1]["hub"].state == "ok"
    assert asked == [("HEAD", 3.0)]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert doctor()[1]["hub"].state == "off"
    assert len(asked) == 1


def test_no_secret_is_printed(wheels: Path, doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tokens and keys of the environment, logins in addresses and the home folder, even where an error has them."""
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "WANDB_API_KEY", "MY_PASSWORD"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", f"https://me:{SECRET[::-1]}@hub.example")

    def fails(_: Path) -> machine.Outcome:
        raise RuntimeError(f"key {SECRET} and hf_abcdefghijkl in {tmp_path}/x\nsecond line")

    monkeypatch.setitem(machine.PROBES, "CUDA", fails)
    _, found = doctor()
    said = " ".join(each.found + each.advice for each in found.values())
    assert SECRET not in said
    assert SECRET[::-1] not in said
    assert str(tmp_path) not in said
    assert "a token" in found["hub"].found
    assert found["CUDA"].found == "could not be found out: RuntimeError: key *** and *** in ~/x"


def test_a_probe_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The other lines are still printed."""
    monkeypatch.setattr(machine, "TIMEOUT_S", 1.0)
    monkeypatch.setitem(machine.PROBES, "torch", lambda _: time.sleep(5))
    first, second = findings(["torch", "python"], tmp_path)
    assert (first.state, first.found) == ("missing", "no answer within 1 s")
    assert second.state == "ok"


def test_cuda_devices_are_told_with_memory_and_capability(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a CUDA build whose driver answers; one whose driver does not gives torch's reason."""
    properties = SimpleNamespace(name="NVIDIA H100", total_memory=80 * 10**9, major=9, minor=0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    found = doctor()[1]
    assert found["CUDA"].found == "cuda:0 NVIDIA H100, 80.0 GB, capability 9.0"
    assert "CUDA 13.0 build" in found["torch"].found

    def no_driver() -> None:
        raise RuntimeError("Found no NVIDIA driver on your system.\nPlease check")

    monkeypatch.setattr(torch.cuda, "init", no_driver)
    assert doctor()[1]["CUDA"].found == "RuntimeError: Found no NVIDIA driver on your system."


def test_a_cpu_build_beside_a_gpu_is_missing_its_cuda(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's tool is there, so a GPU is, and the line says what to install."""
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert doctor()[1]["CUDA"].state == "off"
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    found = doctor()[1]["CUDA"]
    assert found.state == "missing"
    assert "CUDA build" in found.advice


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    """Neither the command line nor the probes' module loads torch, transformers or wandb."""
    code = "import sys, harness.cli.machine; sys.exit(bool({'torch', 'transformers', 'wandb'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
