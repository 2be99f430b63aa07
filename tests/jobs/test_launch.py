"""Jobs as data: what a launcher hands to its workers."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf.errors import ConfigAttributeError

from harness.cli.main import main
from harness.config.hydra import compose
from harness.config.launcher import Launcher
from harness.config.request import JobRequest, Refusal, from_json, to_json
from harness.data.places import DataRef
from harness.evaluation.kinds.accuracy import AccuracyProtocol
from harness.evaluation.kinds.perplexity import PerplexityProtocol
from harness.evaluation.kinds.zero_shot import ZeroShotProtocol
from harness.job import (
    CalibrationSpec,
    Choice,
    JobSpec,
    ModelSpec,
    PruningSpec,
    RunOptions,
    TrackingOptions,
    TrainingSpec,
)
from harness.jobs import launch
from harness.jobs.plan import PlannedJob, distinct_jobs
from harness.models.checkpoint import Checkpoint
from harness.patterns import Channels, SemiStructured, Structured, Unstructured
from harness.tracking.store import RecordStore

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
COUNTS = st.integers(1, 2**40)
SPARSITIES = st.floats(0.01, 0.99)
CHOICES = st.builds(Choice, st.text(), st.dictionaries(st.text(), SCALARS))
PATHS = st.text(st.characters(exclude_characters="\0"), min_size=1).map(Path)
PATTERNS = (
    st.builds(Unstructured, SPARSITIES)
    | st.builds(lambda keep, more: SemiStructured(keep, keep + more), COUNTS, COUNTS)
    | st.builds(Channels, SPARSITIES)
    | st.builds(Structured, SPARSITIES)
)
PROTOCOLS = (
    st.builds(PerplexityProtocol, st.text(), st.none() | st.text(), COUNTS, st.none() | COUNTS, st.booleans())
    | st.builds(ZeroShotProtocol, st.text(), st.text(), st.none() | st.text(), st.none() | COUNTS)
    | st.builds(AccuracyProtocol, st.text())
)
DATA = st.builds(DataRef, st.text(), st.just("evaluation"), st.just("path"), st.text(), st.text(), st.booleans())
SPECS = st.builds(
    JobSpec,
    model=st.builds(ModelSpec, st.text(), st.text(), st.sampled_from(["auto", "float16"])),
    pruning=st.none()
    | st.builds(
        PruningSpec,
        CHOICES,
        PATTERNS,
        CHOICES,
        st.builds(CalibrationSpec, st.text(), st.text(), COUNTS, COUNTS, st.just("stream"), st.just("dense")),
        CHOICES,
        COUNTS,
        st.none()
        | st.builds(TrainingSpec, st.text(), st.text(), COUNTS, COUNTS, st.just("stream"), st.none() | COUNTS),
    ),
    evaluation=st.lists(PROTOCOLS).map(tuple),
)
OPTIONS = st.builds(
    RunOptions,
    device=st.text(),
    results_dir=PATHS,
    save_model=st.none() | PATHS,
    force=st.booleans(),
    batch_tokens=COUNTS,
    zero_shot_token_budget=COUNTS,
    tracking=st.builds(TrackingOptions, st.just("wandb"), st.just("offline"), st.text(), st.none() | st.text()),
    sweep=st.text(),
    in_sweep=st.booleans(),
)
REQUESTS = st.builds(
    JobRequest,
    spec=SPECS,
    options=OPTIONS,
    checkpoint=st.builds(Checkpoint, st.just("hub"), st.text(), st.none() | st.text(), st.none() | st.text()),
    calibration=st.none() | DATA,
    evaluation=st.dictionaries(st.text(), DATA),
    command=st.lists(st.text()).map(tuple),
    paper_name=st.none() | st.text(),
    training=st.none() | DATA,
)


@given(REQUESTS)
def test_a_request_survives_as_json(request_: JobRequest) -> None:
    """Every field of every kind of job is what it was, and so is the job's id."""
    read = from_json(to_json(request_))
    assert read == request_
    assert read.spec.job_id == request_.spec.job_id


def one_job(arguments: Sequence[str]) -> JobRequest:
    """What these overrides ask for."""
    (planned,) = compose(arguments, multirun=False).jobs
    assert isinstance(planned, JobRequest)
    return planned


def test_of_several_jobs_each_saves_its_model_in_a_folder_of_its_own() -> None:
    """Below the folder that was given; a single job saves just there."""
    request = one_job(["model=tiny-llama", "method=dense", "evaluation=none", "save_model=here"])
    other = one_job(["model=tiny-llama", "method=magnitude", "evaluation=none", "save_model=here"])
    refusal = Refusal(("method=none",), "no such method")
    for sweep, folders in (
        ([request], {Path("here")}),
        ([request, refusal, request], {Path("here")}),
        ([request, other], {Path("here", each.spec.job_id) for each in (request, other)}),
    ):
        planned = [job for job in distinct_jobs(sweep) if isinstance(job, PlannedJob)]
        assert {job.request.options.save_model for job in planned} == folders


def test_a_bug_of_ours_is_no_mistake_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Hydra and OmegaConf say of overrides is one line; the same from our own code is a traceback."""

    def broken(*_: object) -> None:
        raise ConfigAttributeError("Key 'foo' is not in struct")

    monkeypatch.setattr(launch, "distinct_jobs", broken)
    with pytest.raises(ConfigAttributeError):
        main(["run", "model=tiny-llama", "method=dense", "evaluation=none"])


def test_a_job_that_another_process_runs_is_neither_done_nor_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sweep beside another one on the same folder says what it did itself."""
    job = ["model=tiny-llama", "calibration.source=embedded", "evaluation=none", f"results_dir={tmp_path}"]
    request = one_job(job)
    with RecordStore(tmp_path).claim(request.spec.job_id):
        assert launch.run_data(to_json(request)) == launch.ELSEWHERE
    outcomes = [launch.ELSEWHERE, ValueError("boom"), "a job id"]
    monkeypatch.setattr(launch, "hydra_launcher", lambda *_: lambda jobs: outcomes)
    with pytest.raises(launch.JobsFailedError):
        launch.launch([*job, "sparsity=0.3,0.4,0.6"], multirun=True)
    said = capsys.readouterr().err
    assert "1 of 3 jobs done, 1 failed, 1 left to another process that is running them" in said


@pytest.mark.e2e
@pytest.mark.slow
def test_any_process_can_run_a_job_from_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher of ours, with a process that knows nothing but the JSON: no environment variable, no command line."""

    def pool_launcher(hydra: object, results_dir: Path, task: object) -> Launcher:
        def run(jobs: Sequence[str]) -> list[Exception | None]:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                return [done.exception() for done in [pool.submit(launch.run_data, job) for job in jobs]]  # type: ignore[misc]

        return run

    monkeypatch.setattr(launch, "hydra_launcher", pool_launcher)
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(0, 64, (4, 16)))
    calibration = ("calibration=tokens", f"calibration.path={tmp_path / 'tokens.npy'}")
    job = ("model=tiny-llama", "evaluation=none", *calibration, f"results_dir={tmp_path}")
    launch.launch([*job, "seed=0,1", "method=magnitude,dense"], multirun=True)
    assert len(list(tmp_path.rglob("tiny-llama__*.json"))) == 3
