"""The wall time of a job before it starts: by its likes, else by its work."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.config.hydra import compose
from harness.config.request import JobRequest
from harness.jobs import wall_time
from harness.jobs.plan import PlannedJob, with_state
from harness.record import LayerReport, RunRecord
from tests.reporting.conftest import make_perplexity, make_record

WEIGHTS = 2e9
LAYER = LayerReport("model.layers.0.up", (100, 50), 0.5, 0.5, None, 0)


@pytest.fixture
def job(tmp_path: Path) -> tuple[str, ...]:
    """Calibrated on 8 sequences of 100 tokens and measured on 7 windows; of a model of which its size is known."""
    np.save(tmp_path / "tokens.npy", np.zeros((8, 100), dtype=np.int64))
    tokens = tmp_path / "tokens.npy"
    calibration = ("calibration=tokens", f"calibration.path={tokens}", "calibration.num_sequences=8")
    evaluation = ("evaluation.corpora=[tokens]", f"data.tokens={tokens}", "evaluation.seq_len=100")
    model = ("model=tiny-llama", f"model.size_b={WEIGHTS / 1e9}", f"results_dir={tmp_path}")
    return (*model, *calibration, "calibration.seq_len=100", *evaluation, "evaluation.max_windows=7")


def planned(*overrides: str) -> PlannedJob:
    """The job of these overrides, the last value of each field."""
    last = {text.partition("=")[0]: text for text in overrides}
    (request,) = compose(list(last.values()), multirun=False).jobs
    assert isinstance(request, JobRequest)
    return with_state(request)


@pytest.mark.parametrize(
    ("method", "tokens"),
    [
        (("method=dense",), 700),
        (("method=magnitude",), 700 + 1.72 * 800),  # all are too few to measure errors on
        (("method=wanda",), 700 + 1.72 * 800),
        (("method=sparsegpt",), 700 + 2.32 * 800),
        (("method=wanda", "evaluation.corpora=[]"), 1.72 * 800),
        (("method=llm-pruner", "pattern=structured"), 700 + 4.0 * 800),
    ],
    ids=str,
)
def test_work_is_tokens_times_weights(
    method: tuple[str, ...], tokens: float, job: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the rate of a trial, which this test sets, where nothing has finished."""
    monkeypatch.setattr(wall_time, "_trial", lambda: 3e-12)
    found = wall_time.estimated(planned(*job, *method), [])
    assert found is not None
    assert found.seconds == pytest.approx(tokens * WEIGHTS * 3e-12)
    assert "short trial" in found.basis


@pytest.mark.parametrize(
    "more",
    [
        ("method=lottery",),
        ("method=adaprune",),
        ("method=ria", "method.permutation=assignment", "pattern=2:4"),
        ("allocation=owl",),
        ("recovery=masked_finetune",),
        ("evaluation.tasks=[boolq]", "evaluation.source=hub", "evaluation.corpora=[]"),
        ("model.size_b=null",),
    ],
    ids=" ".join,
)
def test_work_that_is_not_known_makes_no_time(more: tuple[str, ...], job: tuple[str, ...]) -> None:
    """Training, searches, questions of unknown length, and a model of unknown size."""
    assert wall_time.estimated(planned(*job, *more), []) is None


def timed(**fields: object) -> RunRecord:
    """A finished job of 5,000 weights that measured 1,000 tokens in half a second."""
    result = make_perplexity(9.0)
    details = {"seconds": 0.5, "predicted_tokens": 1000}
    return make_record(results=(replace(result, details=details),), layers=(LAYER,), **fields)  # type: ignore[arg-type]


def test_finished_jobs_tell_the_rate(job: tuple[str, ...]) -> None:
    """Of whatever model, on whatever device they ran."""
    found = wall_time.estimated(planned(*job, "method=dense"), [timed(), make_record()])
    assert found is not None
    assert found.seconds == pytest.approx(700 * WEIGHTS * 0.5 / 1000 / 5000)
    assert found.basis.endswith("finished jobs here")


def test_a_job_like_it_tells_the_time(job: tuple[str, ...]) -> None:
    """Whatever its sparsity; one of another method does not."""
    asked = planned(*job, "method=wanda", "sparsity=0.7", "evaluation.corpora=[]")
    other = planned(*job, "method=wanda", "sparsity=0.5", "evaluation.corpora=[]").request.spec.identity()
    record = replace(make_record(), job=other)  # type: ignore[arg-type]
    assert wall_time.estimated(asked, [record]) == wall_time.WallTime(3.0, wall_time.LIKE_IT)
    magnitude = planned(*job, "method=magnitude", "evaluation.corpora=[]")
    assert wall_time.measured_seconds(magnitude, [record]) is None


def test_a_trial_times_this_processor() -> None:
    """A multiplication takes less than a microsecond everywhere, and some time."""
    assert 0 < wall_time._trial() < 1e-6
