"""Planning, listing and starting quickly."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
from omegaconf import OmegaConf

from harness.cli.listing import KINDS
from harness.config import choices
from harness.config import hydra as compose
from harness.config.launcher import hydra_launcher
from harness.config.request import JobRequest
from harness.errors import UserError
from harness.pruning.allocations import sensitivity
from harness.pruning.methods import obc
from tests.e2e.conftest import Outcome

pytestmark = pytest.mark.e2e
Cli = Callable[..., Outcome]
HEAVY = ("torch", "transformers", "lm_eval", "datasets", "wandb", "pandas")


def test_plan_names_every_distinct_job_once(cli: Cli, job: tuple[str, ...]) -> None:
    """As JSON: objects with job_id, method, pattern, sparsity, model and state."""
    outcome = cli(
        "plan", "-m", *job, "method=dense,wanda", "pattern=unstructured,2:4,3:4", "sparsity=0.5,0.7", "--json"
    )
    assert outcome.code == 0
    rows = json.loads(outcome.out)
    assert [(row["method"], row["pattern"], row["sparsity"]) for row in rows] == [
        ("dense", "dense", 0.0),
        ("wanda", "unstructured", 0.5),
        ("wanda", "unstructured", 0.7),
        ("wanda", "2:4", 0.5),
        ("wanda", "3:4", 0.25),
    ]
    assert len({row["job_id"] for row in rows}) == len(rows)
    assert {row["state"] for row in rows} == {"new"}


def test_plan_runs_nothing(cli: Cli, job: tuple[str, ...], tmp_path: object) -> None:
    """Not even the results folder is made."""
    assert cli("plan", *job).code == 0
    results = next(text.partition("=")[2] for text in job if text.startswith("results_dir="))
    assert subprocess.run(["ls", results], capture_output=True, check=False).returncode != 0


def test_plan_says_what_methods_warn_of(cli: Cli, job: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The hours of a long job are said before it runs, once for all jobs of the method on the model."""
    sweep = ("plan", "-m", *job, "method=wanda,obc", "pattern=unstructured", "sparsity=0.5,0.7")
    assert all(row["warnings"] == [] for row in json.loads(cli(*sweep, "--json").out))
    monkeypatch.setattr(obc, "LONG_HOURS", 0.0)
    warned = {row["method"]: row["warnings"] for row in json.loads(cli(*sweep, "--json").out)}
    assert warned["wanda"] == []
    assert "up to 48: about 0.0 hours on cpu" in warned["obc"][0]
    assert cli(*sweep).out.count("warning: obc works in the cube of in_features") == 1


def test_plan_says_what_allocations_warn_of(cli: Cli, job: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan's most trials and hours, beside what the method warns of."""
    scan = ("plan", *job, "method=obc", "pattern=unstructured", "sparsity=0.5", "allocation=sensitivity")
    scan += ("calibration.num_sequences=6",)
    assert json.loads(cli(*scan, "--json").out)[0]["warnings"] == []
    monkeypatch.setattr(obc, "LONG_HOURS", 0.0)
    monkeypatch.setattr(sensitivity, "LONG_FLOP", 0.0)
    of_method, of_allocation = json.loads(cli(*scan, "--json").out)[0]["warnings"]
    assert of_method.startswith("obc works")
    assert "up to 252 times on 16 sequences" in of_allocation  # 18 for each of 2 x 7 layers
    (bisected,) = json.loads(cli(*scan, "method=magnitude", "allocation.search=bisect", "--json").out)[0]["warnings"]
    assert "up to 70 times" in bisected


@pytest.mark.parametrize("kind", KINDS)
def test_list_says_what_there_is(cli: Cli, kind: str) -> None:
    """Every entry has a name and one line."""
    rows = json.loads(cli("list", kind, "--json").out)
    assert rows
    assert all(row["name"] and row["description"] for row in rows)


@pytest.mark.parametrize(
    ("kind", "axis"), [("methods", "method"), ("allocations", "allocation"), ("recoveries", "recovery")]
)
def test_list_explains_every_method_and_allocation(cli: Cli, kind: str, axis: str) -> None:
    """Its parameters as they are written in overrides, each told of in the text, with its default and values."""
    for row in json.loads(cli("list", kind, "--json").out):
        facts = json.loads(cli("list", kind, row["name"], "--json").out)
        shown = cli("list", kind, row["name"]).out
        assert facts.get("patterns") == row.get("patterns")
        assert facts["description"].startswith(row["description"])
        for parameter in facts["parameters"]:
            written, name = parameter["name"].split(".")
            assert written == axis
            assert f" {name}" in facts["description"]  # `name: what it is`, alone or with its like
            assert parameter["name"] in shown
    obc = json.loads(cli("list", "methods", "obc", "--json").out)
    assert obc["propagation"] == "dense"
    assert obc["parameters"] == [{"name": "method.rel_damp", "default": 0.0, "values": "float"}]
    assert "wanda | magnitude | sparsegpt" in cli("list", "methods", "dsnot").out


def test_listing_changes_nothing(cli: Cli) -> None:
    """What is listed beside the files of a folder is no file of it afterwards."""
    files = {kind: dict(choices.descriptions(kind)) for kind in ("pattern", "evaluation")}
    for kind in ("patterns", "evaluations"):
        assert cli("list", kind).code == 0
    assert {kind: choices.descriptions(kind) for kind in files} == files


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("methods", "wonda"), "unknown method 'wonda'"),
        (("allocations", "wanda"), "unknown allocation 'wanda'"),
        (("models", "demo"), "list models demo: only one of methods or allocations or recoveries is explained"),
    ],
)
def test_list_cannot_explain_what_there_is_not(cli: Cli, arguments: tuple[str, ...], line: str) -> None:
    """One line, exit code 2."""
    outcome = cli("list", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert line in outcome.err


@pytest.mark.parametrize(
    "command",
    [["--help"], ["list", "models"], ["list", "methods", "obc"], ["plan", "-m", "+experiment=demo"], ["report"]],
)
def test_light_commands_import_nothing_heavy(command: list[str]) -> None:
    """Start-up time is what is imported: torch alone takes over a second."""
    code = (
        "import sys\nfrom harness.cli.main import main\n"
        f"try:\n    main({command!r})\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", sorted(choices.experiments()))
def test_every_experiment_composes(name: str) -> None:
    """All of its jobs, with distinct ids."""
    planned = compose.compose([f"+experiment={name}"], multirun=True).jobs
    assert planned
    assert any(isinstance(entry, JobRequest) for entry in planned)


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=sparsegpt", "method.damping=0.1", "pattern=2:4", "sparsity=0.7"),
        ("+experiment=demo", "method=wanda", "pattern=4:8", "calibration=wikitext2", "calibration.source=hub"),
        ("evaluation=zero_shot", "evaluation.tasks=[boolq, piqa]", "data.boolq=here", "seed=3"),
        ("tracking=wandb", "tracking.mode=online", "save_model='a b'", "model=opt-125m"),
    ],
)
def test_quick_composition_is_hydras_own(overrides: tuple[str, ...]) -> None:
    """A sweep composes a choice once and puts it in place; the outcome is what Hydra composes for the whole."""
    choices.offer_choices([])
    added = [f"++{text}" if text.startswith("data.") else text for text in overrides]  # Hydra knows no free names
    with compose.hydra_session():
        whole = hydra.compose(compose.CONFIG_NAME, overrides=added)
        composer = compose.Composer(overrides)
        others = [("model=opt-350m", "method=ria", "pattern=4:8"), ("method=obc", "pattern=2:4")]
        composer.choose([*others, overrides])
        quick = composer.document(overrides)
    assert json.loads(quick) == OmegaConf.to_container(whole, resolve=True)


def test_a_sweep_takes_one_composition(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hydra's compositions take a tenth of a second: 24 jobs over 4 methods need one, and launching none."""
    composed = []
    real = hydra.compose

    def counted(*arguments: Any, **options: Any) -> Any:
        composed.append(options)
        return real(*arguments, **options)

    arguments = ["model=smollm2-135m", "method=magnitude,wanda,sparsegpt,ria", "pattern=unstructured,2:4"]
    arguments += ["sparsity=0.4,0.5,0.6", "calibration.source=embedded", "evaluation=none"]
    monkeypatch.setattr(hydra, "compose", counted)
    whole = compose.compose(arguments, multirun=True)
    assert len(whole.jobs) == 24
    done = hydra_launcher(whole.hydra, tmp_path, json.loads)(['{"a": "${b}"}', "no JSON"])
    assert done[0] == {"a": "${b}"}
    assert isinstance(done[1], json.JSONDecodeError)
    assert len(composed) == 1


def test_several_values_need_multirun() -> None:
    """A sweep is asked for with -m."""
    with pytest.raises(UserError, match="add -m"):
        compose.expand(["seed=1,2"], compose.Sweep(), multirun=False)


def test_several_products_need_multirun() -> None:
    """So is an experiment of several products, even when each is one job."""
    with pytest.raises(UserError, match="the experiment has several values; add -m"):
        compose.expand([], compose.Sweep(products=[{"method": "dense"}, {"method": "wanda"}]), multirun=False)


RIA = {"method": "ria", "method.permutation": "none"}
PRODUCTS = compose.Sweep({"seed": "0,1"}, [{"method": "dense,random"}, RIA])


def test_products_are_swept_one_after_the_other() -> None:
    """Each product has the common values, and its own fields only."""
    assert compose.expand([], PRODUCTS, multirun=True) == [
        ("seed=0", "method=dense"),
        ("seed=0", "method=random"),
        ("seed=1", "method=dense"),
        ("seed=1", "method=random"),
        ("seed=0", "method=ria", "method.permutation=none"),
        ("seed=1", "method=ria", "method.permutation=none"),
    ]


def test_the_command_line_replaces_a_key_and_what_lies_below_it() -> None:
    """Another method takes the fields of the experiment's method away, which it may not have."""
    assert compose.expand(["method=wanda", "seed=3"], PRODUCTS, multirun=True) == [("method=wanda", "seed=3")] * 2
    field = compose.expand(["method.permutation=heuristic"], compose.Sweep(RIA), multirun=True)
    assert field == [("method=ria", "method.permutation=heuristic")]
