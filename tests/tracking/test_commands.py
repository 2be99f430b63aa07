"""The command line's part: mirror, dashboard, and tables from Weights & Biases alone."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.record import RunRecord
from harness.tracking.store import RecordStore
from tests.tracking.wandb_server import WandbServer

pytestmark = pytest.mark.usefixtures("nobody")
RecordMaker = Callable[..., RunRecord]


@pytest.fixture
def results(tmp_path: Path, make_record: RecordMaker) -> Path:
    """A results folder with a job at two sparsities, one of them with two seeds, and a failed job."""
    store = RecordStore(tmp_path / "results")
    for record in (make_record(), make_record(sparsity=0.5), make_record(sparsity=0.5, seed=1)):
        store.save(record)
    store.save(make_record(seed=9, status="failed"))
    return store.root


@pytest.fixture
def prunebench(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line here; exit status and what it printed."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


@pytest.mark.slow
def test_tables_from_offline_runs_are_those_from_the_records(prunebench, results: Path) -> None:
    """Records -> offline runs -> read back: the comparison, means and a paper's table are equal to the byte."""
    where = ("--results-dir", str(results))
    code, out, _ = prunebench("mirror", *where)
    assert (code, out) == (0, f"4 written, 0 unchanged, 0 failed in {results / 'wandb'}\n")
    assert prunebench("mirror", *where)[1].startswith("0 written, 4 unchanged, 0 failed")
    for options in ((), ("--mean-over", "seed"), ("--table", "WANDA-PPL-LLAMA2"), ("--table", "SGPT-T1")):
        for format in ("md", "json"):
            direct = prunebench("report", *options, "--format", format, *where)
            back = prunebench("report", *options, "--format", format, "--from", str(results / "wandb"))
            assert direct[0] == back[0] == 0
            assert direct[1] == back[1]


def test_table_from_a_project_that_is_not_there(prunebench, server: WandbServer) -> None:
    """No run, no table: one line."""
    code, out, error = prunebench("report", "--from", "wandb:someone/bench")
    assert (code, out) == (2, "")
    assert error == "prunebench: no records in wandb:someone/bench; run some jobs first (prunebench run)\n"


def test_dashboard_without_a_login_is_printed(prunebench, results: Path) -> None:
    """The JSON on the output, the reason beside it."""
    code, out, error = prunebench("dashboard", "--project", "bench", "--results-dir", str(results))
    assert code == 0, error
    assert json.loads(out)["project"] == "bench"
    assert "not logged in" in error


def test_properties_are_a_table_like_any_other(prunebench, results: Path) -> None:
    """`report --table METHODS`, in every format."""
    code, out, _ = prunebench("report", "--table", "METHODS", "--format", "md", "--results-dir", str(results))
    assert code == 0
    assert "| wanda |" in out
