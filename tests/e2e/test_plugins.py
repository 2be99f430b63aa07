"""An axis grows by one file outside of the repository: through a folder that is named, or a distribution's entry point.

Every command runs in a process of its own, or a fork, so that no other test sees what is added here.
"""

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from harness.record import RunRecord, from_json
from tests.e2e.conftest import in_a_fork

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PLUGINS = {
    "method": '''
"""Sign: positive weights go last.  A researcher's own."""

from dataclasses import dataclass

from harness.pruning.methods.base import METHODS, ScoreMethod
from harness.pruning.methods.wanda import Wanda


@METHODS.register("sign")
@dataclass(frozen=True, slots=True)
class Sign(ScoreMethod):
    """S = W * gain.

    Args:
        gain: factor.
    """

    gain: float = 2.0

    def score(self, weight_OI, stats):
        return weight_OI * self.gain
''',
    "allocation": '''
"""Same: the requested pattern everywhere.  A researcher's own."""

from dataclasses import dataclass

from harness.pruning.allocations.base import ALLOCATIONS, Allocation


@ALLOCATIONS.register("same")
@dataclass(frozen=True, slots=True)
class Same(Allocation):
    """What was asked for."""
''',
    "recovery": '''
"""Scale: every weight is multiplied.  A researcher's own."""

from dataclasses import dataclass

from harness.blocks.changes import ModelChange
from harness.blocks.layers import prunable_layers, prunable_shapes
from harness.recovery.base import RECOVERIES, Recovered, Recovery


@RECOVERIES.register("scale")
@dataclass(frozen=True, slots=True)
class Scale(Recovery):
    """W * factor.

    Args:
        factor: of every prunable weight.
    """

    factor: float = 0.5

    def recover(self, context):
        layers = prunable_layers(context.model)
        for layer in layers.values():
            layer.weight.data.mul_(self.factor)
        return Recovered(ModelChange.of_weights(prunable_shapes(context.model)), f"scaled by {self.factor}")
''',
}
"""One file an axis."""

CORPUS = '''
"""Poems, a line each.  A researcher's own."""

from harness.data.corpora.base import CORPORA, TextCorpus
from harness.data.places import Places

CORPORA.add(
    "poems",
    TextCorpus(
        calibration=Places("poems to calibrate on", folder=("poems/train.txt",)),
        evaluation=Places("poems to measure on", folder=("poems/test.txt",)),
        clean=str.strip,
        joined_by="\\n",
    ),
)
'''

TASK = '''
"""Colours of things.  A researcher's own."""

from harness.data.places import Given
from harness.data.tasks.base import TASKS, Task, rows_identity

ROWS = [
    {"thing": "grass", "colours": ["green", "dark red"], "right": 0},
    {"thing": "blood", "colours": ["pale green", "red"], "right": 1},
    {"thing": "snow", "colours": ["white", "black"], "right": 0},
]
TASKS.add(
    "colours",
    Task(
        about="which colour a thing has, 2 options",
        version="1.5",
        metrics=("acc", "acc_norm"),
        asked=("thing",),
        answers=("colours", "right"),
        options=lambda row: row["colours"],
        prompt={
            "doc_to_text": "The colour of {{thing}} is",
            "doc_to_choice": "{{colours}}",
            "doc_to_target": "right",
        },
        split="test",
        embedded=Given("my_task.py", lambda: ROWS, rows_identity(ROWS)),
    ),
)
'''

CHOICES = {
    "method": ("method=sign", "method.gain=3"),
    "allocation": ("allocation=same", "method=magnitude"),
    "recovery": ("recovery=scale", "recovery.factor=0.25", "method=magnitude"),
}


def plugin_folder(tmp_path: Path, axis: str, content: str) -> Path:
    """A folder outside of the repository with one file in it."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / f"my_{axis}.py").write_text(content)
    return folder


def the_record(job: tuple[str, ...]) -> RunRecord:
    """Of the one job that was run."""
    (results,) = (Path(text.partition("=")[2]) for text in job if text.startswith("results_dir="))
    (path,) = (path for path in results.rglob("*__*.json") if "failed" not in path.parts)
    return from_json(path.read_bytes(), str(path))


@pytest.mark.parametrize("axis", PLUGINS)
def test_one_file_in_a_folder_adds_to_an_axis(job: tuple[str, ...], tmp_path: Path, axis: str) -> None:
    """It is chosen on the command line like any other, and the record says which file it came from."""
    folder = plugin_folder(tmp_path, axis, PLUGINS[axis])
    asked = (*job, "sparsity=0.5", *CHOICES[axis], f"plugins={folder}")
    outcome = in_a_fork("run", *asked)
    assert outcome.code == 0, outcome.err
    record = the_record(job)
    digest = sha256(PLUGINS[axis].encode()).hexdigest()
    name = CHOICES[axis][0].partition("=")[2]
    assert f"{axis} {name} is of the plug-in my_{axis}.py, sha256:{digest}" in record.notes
    chosen: Any = record.job[axis]
    assert chosen["name"] == name
    assert sum("plug-in" in note for note in record.notes) == 1  # wanda, which one imports, is ours
    (planned,) = json.loads(in_a_fork("plan", *asked, "--json").out)
    assert planned["state"] == "done"


def test_what_a_folder_adds_is_listed(tmp_path: Path) -> None:
    """With its parameters, as ours are."""
    folder = plugin_folder(tmp_path, "method", PLUGINS["method"])
    facts = json.loads(in_a_fork("list", "methods", "sign", "--plugins", str(folder), "--json").out)
    assert facts["parameters"] == [{"name": "method.gain", "default": 2.0, "values": "float"}]


def test_an_installed_distribution_adds_through_its_entry_point(job: tuple[str, ...], tmp_path: Path) -> None:
    """No field names it; the record says which distribution it was."""
    installed = tmp_path / "installed"
    (installed / "signs-1.2.dist-info").mkdir(parents=True)
    (installed / "signs-1.2.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: signs\nVersion: 1.2\n")
    (installed / "signs-1.2.dist-info" / "entry_points.txt").write_text("[prunebench.plugins]\nsigns = signs\n")
    (installed / "signs.py").write_text(PLUGINS["method"])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), *sys.path])}
    asked = [sys.executable, "-m", "harness", "run", *job, "sparsity=0.5", "method=sign"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    digest = sha256(PLUGINS["method"].encode()).hexdigest()
    assert f"method sign is of the plug-in signs of signs 1.2, sha256:{digest}" in the_record(job).notes


@pytest.mark.parametrize(
    ("content", "said"),
    [("import nothing_of_this_name", "cannot be imported: ModuleNotFoundError"), (None, "is not a folder; allowed: a")],
)
def test_a_plugin_that_cannot_be_loaded_is_one_line(
    job: tuple[str, ...], tmp_path: Path, content: str | None, said: str
) -> None:
    """Before anything runs."""
    folder = tmp_path / "mine" if content is None else plugin_folder(tmp_path, "method", content)
    outcome = in_a_fork("run", *job, f"plugins={folder}")
    assert (outcome.code, len(outcome.err.strip().splitlines())) == (2, 1)
    assert said in outcome.err


def test_a_worker_process_loads_the_plugins_of_its_job(job: tuple[str, ...], tmp_path: Path) -> None:
    """The folder is part of the job's data."""
    folder = plugin_folder(tmp_path, "method", PLUGINS["method"])
    code = (
        "import subprocess, sys\nfrom harness.config.hydra import compose\n"
        "from harness.config.request import to_json\n"
        f"arguments = {[*job, 'sparsity=0.5', 'method=sign', f'plugins={folder}']!r}\n"
        "(request,) = compose(arguments, multirun=False).jobs\n"
        "code = 'import sys; from harness.jobs.launch import run_data; run_data(sys.argv[1])'\n"
        "sys.exit(subprocess.run([sys.executable, '-c', code, to_json(request)]).returncode)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert any("my_method.py" in note for note in the_record(job).notes)


def test_one_file_adds_a_corpus(speaking_model: Path, tmp_path: Path) -> None:
    """It is calibrated and measured on, from the data folder or a path, and listed; the record says whose it is."""
    folder = plugin_folder(tmp_path, "corpus", CORPUS)
    (tmp_path / "data" / "poems").mkdir(parents=True)
    for split, line in (("train", "the woods are lovely, dark and deep"), ("test", "and miles to go before I sleep")):
        (tmp_path / "data" / "poems" / f"{split}.txt").write_text(f" {line} \n" * 20)
    job = (
        *("run", "model=local", f"model.path={speaking_model}", "dtype=float32", f"results_dir={tmp_path / 'results'}"),
        *("calibration=poems", "calibration.num_sequences=4", "calibration.seq_len=16", "evaluation.seq_len=32"),
        *("evaluation.corpora=[poems]", f"plugins={folder}"),
    )
    outcome = in_a_fork(*job, PRUNEBENCH_DATA=str(tmp_path / "data"))
    assert outcome.code == 0, outcome.err
    record = the_record(job)
    (result,) = record.results
    text = "\n".join(["and miles to go before I sleep"] * 20)
    assert result.data_fingerprint == f"sha256:{sha256(text.encode()).hexdigest()}"
    assert (result.data_source, result.num_samples) == ("PRUNEBENCH_DATA/poems/test.txt", len(text) // 32)
    assert result.protocol.startswith("perplexity:poems:seq32:v1:data-")
    digest = sha256(CORPUS.encode()).hexdigest()
    assert f"corpus poems is of the plug-in my_corpus.py, sha256:{digest}" in record.notes
    path = tmp_path / "data" / "poems" / "train.txt"
    measured = in_a_fork(*job, f"data.poems={path}", f"calibration.path={path}", "method=magnitude")
    assert measured.code == 0, measured.err
    listed = json.loads(in_a_fork("list", "corpora", "--plugins", str(folder), "--json").out)
    assert [row["role"] for row in listed if row["name"] == "poems"] == ["calibration", "evaluation"]


def test_one_file_adds_a_zero_shot_task(speaking_model: Path, tokens: Path, tmp_path: Path) -> None:
    """With rows, prompt and metrics of its own: measured, listed, in tables, and its questions are shown."""
    folder = plugin_folder(tmp_path, "task", TASK)
    results = tmp_path / "results"
    job = (
        *("run", "-m", "model=local", f"model.path={speaking_model}", "dtype=float32", f"results_dir={results}"),
        *("calibration=tokens", f"calibration.path={tokens}", "method=dense,random", "sparsity=0.9"),
        *("evaluation=none", "evaluation.tasks=[colours]", f"plugins={folder}"),
    )
    outcome = in_a_fork(*job)
    assert outcome.code == 0, outcome.err
    records = [from_json(path.read_bytes(), str(path)) for path in sorted(results.rglob("*__*.json"))]
    assert [[result.metric for result in record.results] for record in records] == [["acc", "acc_norm"]] * 2
    (result, _) = records[0].results
    assert result.protocol.startswith("zero_shot:colours:v1.5:data-")
    assert (result.num_samples, result.details["requests"]) == (3, 6)
    assert any(note.startswith("zero-shot task colours is of the plug-in my_task.py") for note in records[0].notes)
    where = ("--results-dir", str(results))
    assert "colours" in in_a_fork("report", *where).out
    asked = ("compare", *(record.job_id for record in records), "--format", "json", *where)
    flips = [flip for task in json.loads(in_a_fork(*asked).out)["tasks"] for flip in task["flips"]]
    assert flips, "a random model and one that is nearly empty answer alike"
    unknown = in_a_fork(*asked, "--questions", "3")
    assert (unknown.code, unknown.err.count("\n")) == (2, 1)
    assert "the questions of colours are not at hand" in unknown.err
    shown = in_a_fork(*asked, "--questions", "3", "--plugins", str(folder))
    texts = [flip["question"] for task in json.loads(shown.out)["tasks"] for flip in task["flips"]]
    assert set(texts) <= {"grass", "blood", "snow"}
    (listed,) = [
        row
        for row in json.loads(in_a_fork("list", "tasks", "--plugins", str(folder), "--json").out)
        if row["name"] == "colours"
    ]
    assert listed["metrics"] == "acc, acc_norm"
