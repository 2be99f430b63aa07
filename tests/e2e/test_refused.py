"""What the user got wrong is one line with the value and what is allowed, before anything is loaded or written."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.config.hydra import compose
from harness.config.request import JobRequest
from harness.jobs import run as runner
from tests.e2e.conftest import Outcome

pytestmark = pytest.mark.e2e
Cli = Callable[..., Outcome]
PRUNES = ("method=wanda", "sparsity=0.5")


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that gets as far as its model is too far."""

    def run_job(*_: object) -> None:
        raise AssertionError("the job was started")

    monkeypatch.setattr(runner, "run_job", run_job)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ("seed=9223372036854775808",),
            "seed=9223372036854775808 is not allowed; allowed: seed <= 9223372036854775807",
        ),
        (
            ("allocation=sensitivity",),
            "num_sequences=8 leaves none of 8 sequences for allocation=sensitivity",
        ),
        (("allocation=owl", "sparsity=0.995"), "it leaves every block 0.01 to 0.99 zeros, which 0.995 is not between"),
        (("allocation=alphapruning", "sparsity=0.005"), "0.01 to 0.99 zeros, which 0.005 is not between"),
        (("method=null",), "method=null is not allowed; allowed: a name that `prunebench list` shows"),
        (("recovery=null",), "recovery=null is not allowed"),
        (("method.name=sparsegpt",), "method.name=sparsegpt is not allowed; allowed: method=NAME"),
        (("~method.name",), "~method.name is not allowed; allowed: method=NAME"),
        (("+sparcity=0.9",), "unknown field 'sparcity'; choose from: model, method"),
        (("+calibration.num_seqs=3",), "unknown field 'calibration.num_seqs'; choose from: calibration.corpus"),
        (("+recovery.foo=1",), "unknown parameter of recovery none 'foo'"),
        (("recovery=masked_finetune", "+recovery.foo=1"), "unknown parameter of recovery masked_finetune 'foo'"),
        ((f"model.name={'x' * 200}",), "has 200 characters, and names the record's file; allowed: up to 100"),
        (("save_model=true",), "save_model=true is not allowed; allowed: a path"),
        (("model=../experiment/demo",), "unknown model '../experiment/demo'"),
        (("results_dir=",), "results_dir= is not allowed; allowed: a path"),
        (
            ("method=sparsegpt", f"method.damping={10**400}"),
            "0... of 401 characters is not allowed; allowed: a finite number",
        ),
        (("method=wanda", "method.foo=1"), "unknown parameter of method wanda 'foo'"),
        (
            ("method=dsnot", "method.variance_power=9"),
            "method.variance_power=9 is not allowed; allowed: variance_power <= 8",
        ),
    ],
)
def test_one_line(cli: Cli, job: tuple[str, ...], tmp_path: Path, overrides: tuple[str, ...], line: str) -> None:
    """Exit code 2; no results folder."""
    given = {text.partition("=")[0]: text for text in (*job, *PRUNES, *overrides)}
    outcome = cli("run", *given.values())
    assert outcome.code == 2
    assert line in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not (tmp_path / "results").exists()


def test_a_sweep_of_refused_jobs_only_is_a_mistake(cli: Cli, job: tuple[str, ...]) -> None:
    """Every reason is said; with one job that fits the others are said and skipped."""
    outcome = cli("run", "-m", *job, "method=obc,wanda", "pattern=channel", "sparsity=0.5")
    assert outcome.code == 2
    assert "method obc with pattern channel" in outcome.err
    assert "method wanda with pattern channel" in outcome.err


def test_one_setting_of_a_recovery_is_one_job(cli: Cli, job: tuple[str, ...]) -> None:
    """1 and 1.0 are the same learning rate."""
    sweep = ("recovery=masked_finetune", "recovery.learning_rate=1,1.0")
    rows = json.loads(cli("plan", "-m", *job, *PRUNES, *sweep, "--json").out)
    assert [row["named"] for row in rows] == [2]


def test_one_sparsity_is_one_job(cli: Cli, job: tuple[str, ...]) -> None:
    """0.3 made of tenths is 0.3."""
    (alone,) = json.loads(cli("plan", *job, "method=magnitude", "sparsity=0.3", "--json").out)
    rows = json.loads(cli("plan", "-m", *job, "method=magnitude", "sparsity=range(0.1,0.4,0.1)", "--json").out)
    assert [row["sparsity"] for row in rows[:3]] == [0.1, 0.2, 0.3]
    assert rows[2]["job_id"] == alone["job_id"]


@pytest.mark.parametrize(
    ("method", "sweep", "idle", "counts"),
    [
        ("magnitude", "granularity=tensor,row", ("pattern=2:4",), ("pattern=unstructured",)),
        ("random", "granularity=tensor,row", ("pattern=2:4",), ("pattern=unstructured",)),
        ("adaprune", "granularity=tensor,row", ("pattern=2:4",), ("pattern=unstructured",)),
        ("adaprune", "tolerance=0.1,0.2", ("method.solver=adam",), ("method.solver=auto",)),
        ("adaprune", "learning_rate=0.1,0.2", ("method.solver=auto",), ("method.solver=adam",)),
        ("adaprune", "steps=7,8", ("method.solver=closed_form",), ("method.solver=auto",)),
        ("ria", "comparison_group=matrix,row", ("pattern=2:4",), ("pattern=unstructured",)),
        ("lottery", "granularity=layer,model", ("pattern=2:4",), ("pattern=unstructured",)),
        ("lottery", "rounds=2,7", ("pattern=2:4",), ("pattern=4:8",)),
        ("dsnot", "accept=all_rows,better_rows", ("method.max_cycles=0",), ("method.max_cycles=1",)),
        ("llm_surgeon", "max_correlate=7,8", ("method.criterion=damage",), ("method.criterion=surgeon",)),
    ],
)
def test_a_parameter_without_effect_makes_no_other_job(
    cli: Cli, job: tuple[str, ...], method: str, sweep: str, idle: tuple[str, ...], counts: tuple[str, ...]
) -> None:
    """Where nothing reads a parameter, jobs that differ in it only are one; elsewhere they are two."""
    plan = ("plan", "-m", *job, f"method={method}", f"method.{sweep}", "sparsity=0.5", "--json")
    assert [row["named"] for row in json.loads(cli(*plan, *idle).out)] == [2]
    assert [row["named"] for row in json.loads(cli(*plan, *counts).out)] == [1, 1]


def test_the_seed_of_a_job_is_that_of_what_its_method_draws(job: tuple[str, ...]) -> None:
    """Random masks spread over the seeds of a sweep; one of the method's own is kept."""
    seeds = [
        (request.pruning.seed, request.pruning.method.params["seed"])
        for own in ((), ("method.seed=7",))
        for request in compose([*job, "method=random", "seed=0,3", *own], multirun=True).jobs
        if isinstance(request, JobRequest)
    ]
    assert seeds == [(0, 0), (3, 3), (0, 7), (3, 7)]
