"""Secrets of the environment and of the command line, and what a job leaves."""

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.record import to_json
from harness.tracking.store import RecordStore
from harness.tracking.wandb.read import read_back
from tests.e2e.conftest import Outcome

pytestmark = pytest.mark.e2e
KEY, TOKEN, LOGIN = "0123456789abcdef" * 2, "Environment-t0ken", "p4ss"
OVERRIDE, SHAPED = "0verridden-key", "hf_abcDEF0123"


def test_no_secret_is_in_what_a_job_leaves(
    cli: Callable[..., Outcome], job: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in records, done and failed, nor in what is printed, the W&B run or the page."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    given = ("tracking=wandb", "tracking.mode=offline", f"+hydra.job.env_set.ANY_API_KEY={OVERRIDE}")
    outcomes = [cli("run", *job, *given)]

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError(f"no answer of https://me:{LOGIN}@hub.example to {TOKEN}, {SHAPED} and key {KEY}")

    monkeypatch.setattr("harness.jobs.run.evaluate", fails)
    outcomes += [cli("run", *job, *given, "seed=1"), cli("run", "-m", *job, *given, "seed=2,3")]
    results, page = tmp_path / "results", tmp_path / "results" / "page.html"
    outcomes.append(cli("report", "--html", str(page), "--results-dir", str(results)))
    assert [outcome.code for outcome in outcomes] == [0, 1, 1, 0]
    store = RecordStore(results)
    (done,) = store.all()
    assert "+hydra.job.env_set.ANY_API_KEY=***" in done.provenance.command
    (failed, *others) = store.failures()
    assert "RuntimeError: no answer of https://***@hub.example to ***, *** and key ***" in str(failed.error)
    records = [done, failed, *others, *read_back(str(results / "wandb"))]
    left = [path.read_bytes() for path in results.rglob("*") if path.is_file()] + [to_json(each) for each in records]
    left += [(outcome.out + outcome.err).encode() for outcome in outcomes]
    for secret in (KEY, TOKEN, LOGIN, OVERRIDE, SHAPED):
        assert not [text for text in left if secret.encode() in text], secret


def test_a_bug_of_ours_is_told_without_secrets(
    cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The traceback that Python prints when the command ends, and what is logged."""
    import logging
    import sys

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(logging.root, "handlers", [])
    assert cli("list", "methods").code == 0
    try:
        raise AssertionError(f"a layer is called {TOKEN}")
    except AssertionError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    logging.getLogger("any").warning("it has %s", TOKEN)
    said = capsys.readouterr().err
    assert "AssertionError: a layer is called ***" in said
    assert "it has ***" in said
    assert TOKEN not in said
