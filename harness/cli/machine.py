"""What this machine has and lacks, one probe a line; nothing is downloaded."""

import os
import platform
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from threading import Thread
from typing import Literal

from harness.data.assets import ASSETS, CACHE_VARIABLE, Asset, cache_dir, wheel
from harness.data.places import DATA_VARIABLE, Role
from harness.data.sources import entries
from harness.errors import first_line
from harness.models.devices import multiplies_bfloat16
from harness.tracking.provenance import collect
from harness.tracking.redact import redacted
from harness.tracking.wandb.client import logged_in

State = Literal["ok", "missing", "off"]
"""``missing`` asks for something to be done; ``off`` is a choice, or something that most jobs do without."""
Outcome = tuple[State, str, str]
"""State, what was found, what to do."""
Probe = Callable[[Path], Outcome]
"""Finds something out, given the results folder; it may raise."""

GB = 10**9
DEMO_MEMORY, DEMO_RESULTS, DEMO_CACHE = 2 * GB, GB // 10, GB
TIMEOUT_S, HUB_TIMEOUT_S = 60.0, 3.0
CUDA_BUILD = "install torch's CUDA build, see https://pytorch.org/get-started/locally"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what it is about, its state, what was found, what to do, and whether the embedded demo needs it."""

    name: str
    state: State
    found: str
    advice: str
    needed: bool


def findings(names: Iterable[str], results_dir: Path) -> list[Finding]:
    """What these probes say; one that raises or takes too long says so in its line.  No secret is in it."""
    return [_finding(name, results_dir) for name in names]


def _finding(name: str, results_dir: Path) -> Finding:
    outcomes: list[Outcome] = []

    def probe() -> None:
        try:
            outcomes.append(PROBES[name](results_dir))
        except Exception as error:  # whatever is wrong with a machine, the other lines are still wanted
            outcomes.append(("missing", f"could not be found out: {first_line(error)}", ""))

    thread = Thread(target=probe, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    state, found, advice = outcomes[0] if outcomes else ("missing", f"no answer within {TIMEOUT_S:g} s", "")
    return Finding(name, state, redacted(found), redacted(advice), name in NEEDED)


def _packages(_: Path) -> Outcome:
    """Every requirement of this package, against what is installed."""
    from packaging.requirements import Requirement

    count, wrong = 0, []
    for requirement in map(Requirement, metadata.requires("prunebench") or ()):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"no {requirement.name} (needs {requirement.specifier})")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} (needs {requirement.specifier})")
    if wrong:
        return "missing", ", ".join(wrong), "`make setup`, or pip install -c constraints.txt -e ."
    return "ok", f"transformers {metadata.version('transformers')} and {count - 1} others as required", ""


def _torch(_: Path) -> Outcome:
    import torch

    return "ok", f"{torch.__version__}, {f'CUDA {torch.version.cuda}' if torch.version.cuda else 'CPU'} build", ""


def _processor(_: Path) -> Outcome:
    machine = collect("cpu", "auto", (), None).hardware
    found = f"{machine['processor']}, {machine['cores_available']} of {machine['cores']} cores"
    if multiplies_bfloat16():
        return "ok", f"{found}, multiplies bfloat16", ""
    return "off", f"{found}, does not multiply bfloat16", "dtype=auto computes in float32 on this processor"


def _memory(_: Path) -> Outcome:
    sizes = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (int(sizes[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    found = f"{available / GB:.1f} of {total / GB:.1f} GB are free"
    if available < DEMO_MEMORY:
        return "missing", found, f"the demo needs {DEMO_MEMORY / GB:g} GB; `prunebench plan` says what a job needs"
    return "ok", found, ""


def _all_cached() -> bool:
    return all((cache_dir() / asset.filename).exists() for asset in ASSETS)


def _disk(folder: Path, needed: int, setting: str) -> Outcome:
    folder = folder.absolute()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    found = f"{folder}: {free / GB:.1f} GB are free"
    if not there.is_dir() or not os.access(there, os.W_OK):
        return "missing", f"{folder} cannot be written", f"choose another folder with {setting}"
    if free < needed:
        return "missing", found, f"the demo needs {needed / GB:g} GB there; choose another disk with {setting}"
    return "ok", found, ""


def _cuda(_: Path) -> Outcome:
    import torch

    if torch.version.cuda is None:
        if shutil.which("nvidia-smi"):
            return "missing", "a GPU's driver is here, but torch is a CPU build", CUDA_BUILD
        return "off", "torch is a CPU build, and no GPU's driver is here", "jobs run on the CPU"
    try:
        torch.cuda.init()
    except RuntimeError as error:  # no driver, one too old, or no device: torch says which
        return "off", first_line(error), "mend the driver (`nvidia-smi`) or CUDA_VISIBLE_DEVICES"
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    found = (f"{each.name}, {each.total_memory / GB:.1f} GB, capability {each.major}.{each.minor}" for each in devices)
    return "ok", "; ".join(f"cuda:{index} {text}" for index, text in enumerate(found)), "check it with `make gpu`"


def _data(_: Path) -> Outcome:
    root = os.environ.get(DATA_VARIABLE)
    if not root:
        advice = (
            f"set {DATA_VARIABLE} to a folder of corpora and tasks (README, Data); wheels and the hub serve until then"
        )
        return "off", f"{DATA_VARIABLE} is not set", advice
    if not Path(root).is_dir():
        return "missing", f"{DATA_VARIABLE}={root} is not a folder", f"mend or unset {DATA_VARIABLE}"
    roles: tuple[Role, ...] = ("calibration", "evaluation")
    files = {
        f"{name} {role}" if name in entries("calibration") else name: places.folder
        for role in roles
        for name, entry in entries(role).items()
        if (places := entry.places(role)) and places.folder
    }
    has = [name for name, places in files.items() if any(Path(root, file).is_file() for file in places)]
    lacks = [f"{name} ({' or '.join(files[name])})" for name in files if name not in has]
    found = f"{root} has {', '.join(dict.fromkeys(name.split()[0] for name in has)) or 'none'}"
    return ("missing", found, f"lacks {', '.join(lacks)}") if lacks else ("ok", found, "")


def _wheels(_: Path) -> Outcome:
    found = []
    for asset in ASSETS:
        if (cache_dir() / asset.filename).exists():
            wheel(asset)  # raises where the file is not the pinned one
            found.append(f"{asset.requirement} in the cache")
        elif _on_index(asset):
            found.append(f"{asset.requirement} on pip's index")
        else:
            advice = f"mend pip's index settings (PIP_INDEX_URL), or put {asset.filename} into {cache_dir()}"
            return "missing", f"{asset.requirement} is neither in {cache_dir()} nor on pip's index", advice
    return "ok", ", ".join(found), ""


def _on_index(asset: Asset) -> bool:
    command = [sys.executable, "-m", "pip", "index", "versions", asset.package, "--retries=0", "--timeout=3"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    return outcome.returncode == 0 and asset.version in outcome.stdout


def _hub(_: Path) -> Outcome:
    from huggingface_hub import constants, get_token

    about = f"{'a token' if get_token() else 'no token'}; downloads in {constants.HF_HOME}"
    if constants.HF_HUB_OFFLINE:
        return "off", f"HF_HUB_OFFLINE is set; {about}", "unset HF_HUB_OFFLINE to load models of the hub"
    started = time.monotonic()
    head = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(head, timeout=HUB_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        pass  # an answer, too
    except OSError as error:
        advice = "for models of the hub: mend the network, HTTPS_PROXY or HF_ENDPOINT; the demo needs none"
        return "missing", f"{constants.ENDPOINT} does not answer ({getattr(error, 'reason', error)}); {about}", advice
    advice = "" if get_token() else "`hf auth login` for models with a licence to accept"
    return "ok", f"{constants.ENDPOINT} answers in {time.monotonic() - started:.1f} s; {about}", advice


def _wandb(_: Path) -> Outcome:
    if logged_in():
        return "ok", "logged in", ""
    return "off", "not logged in: runs are kept offline", "`wandb login`, later `prunebench sync`"


PROBES: dict[str, Probe] = {
    "python": lambda _: ("ok", f"{platform.python_version()} on {platform.platform()}", ""),
    "packages": _packages,
    "torch": _torch,
    "processor": _processor,
    "memory": _memory,
    "results disk": lambda results_dir: _disk(results_dir, DEMO_RESULTS, "results_dir=DIR"),
    "cache disk": lambda _: _disk(cache_dir(), 0 if _all_cached() else DEMO_CACHE, CACHE_VARIABLE),
    "embedded wheels": _wheels,
    "CUDA": _cuda,
    "data folder": _data,
    "hub": _hub,
    "W&B": _wandb,
}
NEEDED = {"python", "packages", "torch", "memory", "results disk", "cache disk", "embedded wheels"}
"""The embedded demo cannot run without these."""
