"""Running jobs through the command line on a tiny model."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from harness.cli.main import main
from harness.errors import UserError
from harness.jobs import launch
from harness.jobs import prune as weights
from harness.jobs import run as runner
from harness.models import saving
from harness.models.loading import LoadedModel
from harness.patterns import SemiStructured
from harness.record import from_json
from harness.tracking import store
from tests.e2e.conftest import Outcome, quick_job
from tests.permutations import layers_that_are_not

pytestmark = pytest.mark.e2e
Cli = Callable[..., Outcome]


def records(root: Path) -> dict[str, dict[str, Any]]:
    """Done records below a results folder, clean or dirty, by job id."""
    found = [path for path in root.rglob("*__*.json") if "failed" not in path.parts]
    return {path.stem: json.loads(path.read_text()) for path in found}


def test_a_sweep_leaves_one_record_a_distinct_job(cli: Cli, job: tuple[str, ...], tmp_path: Path) -> None:
    """N:M jobs that differ only in sparsity are one job, and so is dense whatever the pattern."""
    outcome = cli(
        "run", "-m", *job, "method=dense,magnitude,wanda,sparsegpt", "pattern=unstructured,2:4", "sparsity=0.5,0.7"
    )
    assert outcome.code == 0, outcome.err
    done = records(tmp_path / "results")
    assert len(done) == 1 + 3 * 3
    assert "6 compositions name a job of this sweep again" in outcome.err
    for record in done.values():
        zeros = [layer["achieved_sparsity"] for layer in record["layers"]]
        assert zeros == pytest.approx([record["job"]["sparsity"]] * len(zeros), abs=0.03)
        assert record["results"][0]["value"] > 1
        assert set(record["timings_s"]) >= {"load", "evaluate", "total"}


def test_a_finished_job_is_not_run_twice(cli: Cli, job: tuple[str, ...], tmp_path: Path) -> None:
    """The line says why it is skipped and where its record is; force=true runs it again."""
    assert cli("run", *job, "pattern=2:4").code == 0
    (path,) = (tmp_path / "results").rglob("*__*.json")
    before = path.stat().st_mtime_ns
    skipped = cli("run", *job, "pattern=2:4")
    assert skipped.code == 0
    assert "skipped" in skipped.err
    assert str(path) in skipped.err
    assert path.stat().st_mtime_ns == before
    assert cli("run", *job, "pattern=2:4", "force=true").code == 0
    assert path.stat().st_mtime_ns > before


def test_a_job_that_another_process_finished_meanwhile_is_skipped(
    cli: Cli, job: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is looked for again when the job's turn comes, not only when the sweep is planned."""
    assert cli("run", *job, "pattern=2:4").code == 0
    (path,) = (tmp_path / "results").rglob("*__*.json")
    before = path.stat().st_mtime_ns
    monkeypatch.setattr(launch, "_to_run", lambda jobs: list(jobs))  # as planned before the record was there
    again = cli("run", *job, "pattern=2:4")
    assert again.code == 0
    assert "skipped" in again.err
    assert path.stat().st_mtime_ns == before


SWEEP = ("method=magnitude,wanda,sparsegpt", "pattern=2:4")


def watch_pruning(monkeypatch: pytest.MonkeyPatch, ends_second: BaseException | None = None) -> list[str]:
    """Ids of the jobs that are pruned from now on; the second one ends so when its weights have been changed."""
    pruned: list[str] = []

    def prune(job: runner.JobContext, loaded: runner.LoadedModel) -> object:
        pruned.append(job.request.spec.job_id)
        outcome = weights.prune(job, loaded)
        if ends_second is not None and len(pruned) == 2:
            raise ends_second
        return outcome

    monkeypatch.setattr(runner, "prune", prune)
    return pruned


def stop_second_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C when all of the second record is in its temporary file, which has not got its name."""
    write, written = store.write_file, []

    def interrupted(path: Path, data: bytes) -> None:
        written.append(path)
        with pytest.MonkeyPatch.context() as patch:
            if len(written) == 2:
                patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            write(path, data)

    monkeypatch.setattr(store, "write_file", interrupted)


def left_in(results: Path) -> dict[str, bytes]:
    """Every file below a results folder by its path, but the claims of jobs, the plans of sweeps and Hydra's notes."""
    found = {path.relative_to(results): path for path in results.rglob("*") if path.is_file()}
    kept_anyway = {("scratch", name) for name in ("claims", "sweeps", "hydra")}
    return {str(name): path.read_bytes() for name, path in found.items() if name.parts[:2] not in kept_anyway}


Outcomes = dict[str, tuple[str, list[object], dict[str, float]]]
"""What of every record does not tell the time, by job id."""


def outcomes(results: Path) -> Outcomes:
    """Weights, layers and numbers of every done record."""
    found = {}
    for name, record in records(results).items():
        values = {result["protocol"]: result["value"] for result in record["results"]}
        found[name] = record["weights_fingerprint"], record["layers"], values
    return found


@pytest.fixture(scope="module")
def whole_sweep(tiny_model: Path, tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Of the sweep that nothing stopped, in the order of its jobs."""
    results = tmp_path_factory.mktemp("whole")
    with pytest.raises(SystemExit) as ended:
        main(["run", "-m", *quick_job(tiny_model, tokens, results), *SWEEP])
    assert not ended.value.code
    found = outcomes(results)
    return {name: found[name] for method in ("magnitude", "wanda", "sparsegpt") for name in found if method in name}


@pytest.mark.parametrize("where", ["pruning", "writing"])
def test_a_sweep_that_was_stopped_goes_on_where_it_was(
    where: str,
    cli: Cli,
    job: tuple[str, ...],
    whole_sweep: Outcomes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C in the second of three jobs leaves the first one's record and nothing else: no failure, no half-written
    file, no claim.  The same command then prunes the other two, to what the sweep gives that nothing stopped.
    """
    results, (first, second, third) = tmp_path / "results", whole_sweep
    with monkeypatch.context() as patch:
        if where == "pruning":
            begun = watch_pruning(patch, KeyboardInterrupt())
        else:
            begun = watch_pruning(patch)
            stop_second_write(patch)
        stopped = cli("run", "-m", *job, *SWEEP)
    assert stopped.code == 130
    assert stopped.err.strip().splitlines()[-1].startswith("prunebench: interrupted")
    assert begun == [first, second]
    (path,) = results.rglob(f"{first}.json")
    before, written = left_in(results), path.stat().st_mtime_ns
    assert list(before) == [str(path.relative_to(results))]
    for plan in (results / "scratch" / "sweeps").iterdir():
        assert json.loads(plan.read_text())["ended"] is not None
    again = watch_pruning(monkeypatch)
    outcome = cli("run", "-m", *job, *SWEEP)
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("skipped: ") == 1
    assert again == [second, third]
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before[str(path.relative_to(results))], written)
    assert {Path(name).stem for name in left_in(results)} == set(whole_sweep)
    assert outcomes(results) == whole_sweep


def test_a_sweep_runs_just_the_job_that_failed_again(
    cli: Cli,
    job: tuple[str, ...],
    whole_sweep: Outcomes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job that breaks down when its weights are changed leaves its failure, and the third one runs; the same command
    then prunes that job only, and its record takes the failure's place.
    """
    results, (_, second, _) = tmp_path / "results", whole_sweep
    with monkeypatch.context() as patch:
        begun = watch_pruning(patch, ArithmeticError("no inverse"))
        outcome = cli("run", "-m", *job, *SWEEP)
    assert outcome.code == 1
    assert f"{second}: FAILED: ArithmeticError: no inverse" in outcome.err
    assert begun == list(whole_sweep)
    failure = str(Path("scratch", "failed", f"{second}.json"))
    before = left_in(results)
    assert {Path(name).stem for name in before} == set(whole_sweep)
    assert json.loads(before.pop(failure))["status"] == "failed"
    assert outcomes(results) == {name: whole_sweep[name] for name in begun if name != second}
    again = watch_pruning(monkeypatch)
    outcome = cli("run", "-m", *job, *SWEEP)
    assert outcome.code == 0, outcome.err
    assert again == [second]
    after = left_in(results)
    assert failure not in after
    assert {name: after.get(name) for name in before} == before
    assert len(after) == 3
    assert outcomes(results) == whole_sweep


def test_a_job_that_lacks_an_evaluation_runs_just_that(cli: Cli, job: tuple[str, ...], tmp_path: Path) -> None:
    """What was measured before stays to the last digit, and the new protocol joins it."""
    assert cli("run", *job, "pattern=2:4").code == 0
    (first,) = records(tmp_path / "results").values()
    plan = json.loads(cli("plan", *job, "pattern=2:4", "evaluation.seq_len=8", "--json").out)
    assert [entry["state"] for entry in plan] == ["missing evaluations"]
    assert cli("run", *job, "pattern=2:4", "evaluation.seq_len=8").code == 0
    (second,) = records(tmp_path / "results").values()
    assert len(second["results"]) == 2
    assert first["results"][0] in second["results"]
    assert first["weights_fingerprint"] == second["weights_fingerprint"]


def test_the_saved_model_is_a_plain_folder_with_real_zeros(cli: Cli, job: tuple[str, ...], tmp_path: Path) -> None:
    """Transformers reloads it, and every group of four has two zeros; what the job made is not made again, and no
    other job takes its place.
    """
    folder = tmp_path / "pruned"
    assert cli("run", *job, "method=sparsegpt", "pattern=2:4", f"save_model={folder}").code == 0
    model = AutoModelForCausalLM.from_pretrained(folder)
    weight = model.model.layers[1].mlp.down_proj.weight
    assert ((weight.reshape(-1, 4) == 0).sum(dim=1) == 2).all()
    again = cli("run", *job, "method=sparsegpt", "pattern=2:4", f"save_model={folder}")
    assert (again.code, again.err.count("skipped: ")) == (0, 1)
    assert cli("run", *job, "method=wanda", "pattern=2:4").code == 0
    for sweep in ((), ("-m",)):
        other = cli("run", *sweep, *job, "method=wanda", "pattern=2:4", f"save_model={folder}")
        assert other.code
        assert "exists and is not empty" in other.err


@torch.no_grad()
def test_a_permuted_and_tuned_model_is_what_its_record_says(
    cli: Cli, job: tuple[str, ...], tokens: Path, tmp_path: Path
) -> None:
    """Fine-tuned after a permuted 2:4, the saved model is 2:4 in the orders that the record has and in no other, and
    plain transformers measures with it what the record says.
    """
    tuned = ("recovery=masked_finetune", "recovery.steps=4", "recovery.batch=4", f"save_model={tmp_path / 'saved'}")
    assert cli("run", *job, "method=ria", "method.permutation=assignment", "pattern=2:4", *tuned).code == 0
    (path,) = (tmp_path / "results").rglob("*__*.json")
    record = from_json(path.read_bytes(), str(path))
    assert any("fine-tuned" in note for note in record.notes)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert layers_that_are_not(SemiStructured(2, 4), record.layers, model) == []
    as_they_lie = [replace(layer, details={}) for layer in record.layers]
    virtual = [layer.name for layer in record.layers if layer.details["permuted"] == "virtual"]
    assert layers_that_are_not(SemiStructured(2, 4), as_they_lie, model) == virtual
    assert 0 < len(virtual) < len(record.layers)
    windows = torch.from_numpy(np.load(tokens))
    assert record.results[0].value == pytest.approx(math.exp(float(model(windows, labels=windows).loss)), rel=1e-5)


def test_a_recovery_trains_on_its_own_text_within_its_budget(
    cli: Cli, speaking_model: Path, tiny_model: Path, tokens: Path, tmp_path: Path
) -> None:
    """Beside LoRA on its calibration, in the same process: the record and the report say on what and on how much, each
    2:4 model keeps its zeros, and the job is done.
    """
    text = tmp_path / "own.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 20)
    job = (*quick_job(speaking_model, tokens, tmp_path / "results"), "method=magnitude", "pattern=2:4")
    job += ("recovery=masked_finetune", "recovery.steps=5", "recovery.batch=2")
    own = ("training=ptb", f"training.path={text}", "training.num_sequences=6", "training.seq_len=24")
    assert cli("run", *job, *own, "training.tokens=100").code == 0
    (path,) = (tmp_path / "results").rglob("*__*.json")
    record = from_json(path.read_bytes(), str(path))
    identity = f"sha256:{sha256(text.read_bytes()).hexdigest()}"
    sequences = {"corpus": "ptb", "data": identity, "num_sequences": 6, "seq_len": 24, "sampling": "stream"}
    assert record.job["training"] == {**sequences, "tokens": 100}
    assert any("fine-tuned on 96 of at most 100 tokens" in note for note in record.notes)
    assert cli("run", *job, "recovery=lora", "recovery.rank=2").code == 0
    (lora,) = (each for each in records(tmp_path / "results").values() if each["job"]["recovery"]["name"] == "lora")
    assert any("adapted by LoRA of rank 2 under its masks from a loss" in note for note in lora["notes"])
    assert record.achieved_sparsity == lora["achieved_sparsity"] == 0.5
    again = json.loads(cli("plan", *job, *own, "training.tokens=100", "--json").out)
    assert [(row["state"], row["job_id"]) for row in again] == [("done", record.job_id)]
    report = cli("report", "--results-dir", str(tmp_path / "results"), "--format", "csv").out
    assert report.count("training=ptb 6×24 stream, training.tokens=100") == 1
    assert (report.count("masked_finetune"), report.count("lora")) == (1, 1)
    too_long = cli("run", *job, *own, "training.seq_len=300")
    assert (too_long.code, "training.seq_len=300 is more than the model's 256 positions" in too_long.err) == (2, True)
    silent = cli("run", *job, *own, f"model.path={tiny_model}")
    assert (silent.code, "training=ptb needs a tokenizer, and the model has none" in silent.err) == (2, True)


def test_a_sweep_saves_every_model_in_a_folder_of_its_own(cli: Cli, job: tuple[str, ...], tmp_path: Path) -> None:
    """Below the folder that was given, by job id, whatever characters its name has."""
    folder = tmp_path / "it's, a=folder"
    quoted = str(folder).replace("'", "\\'")
    assert cli("run", "-m", *job, "method=wanda,magnitude", "pattern=2:4", f"save_model='{quoted}'").code == 0
    assert {path.name for path in folder.iterdir()} == set(records(tmp_path / "results"))
    assert all((path / "model.safetensors").is_file() for path in folder.iterdir())


def test_a_failing_job_leaves_a_failed_record_and_the_others_go_on(
    cli: Cli, job: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody foresaw in SparseGPT leaves a traceback, and magnitude its record."""

    def prune_group(*_: object) -> None:
        raise ArithmeticError("no damping makes the Hessian positive definite")

    monkeypatch.setattr("harness.pruning.methods.sparsegpt.SparseGPT.prune_group", prune_group)
    outcome = cli("run", "-m", *job, "method=sparsegpt,magnitude", "pattern=2:4")
    assert outcome.code == 1
    assert "FAILED: ArithmeticError" in outcome.err
    assert "1 of 2 jobs done, 1 failed" in outcome.err
    assert outcome.err.strip().splitlines()[-1].startswith("failed: tiny-llama__sparsegpt")
    (failed,) = (tmp_path / "results" / "scratch" / "failed").glob("*.json")
    record = json.loads(failed.read_text())
    assert record["status"] == "failed"
    assert "Traceback" in record["error"]
    assert [name for name in records(tmp_path / "results") if "magnitude" in name]


def test_activations_that_overflow_refuse_the_methods_that_read_them(
    cli: Cli, job: tuple[str, ...], tiny_model: Path, tmp_path: Path
) -> None:
    """SparseGPT in one line that names the layer; magnitude, which looks at weights only, goes on."""
    broken = tmp_path / "broken"
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"] *= 1e38
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    outcome = cli("run", "-m", *job, f"model.path={broken}", "method=sparsegpt,magnitude", "pattern=2:4")
    assert outcome.code == 2
    lines = [line for line in outcome.err.splitlines() if "overflow float32" in line]  # when it happens, and at the end
    assert lines[0].startswith("broken__sparsegpt")
    assert all("model.layers.0.mlp.down_proj" in line for line in lines)
    assert "Traceback" not in outcome.err
    assert [name for name in records(tmp_path / "results") if "magnitude" in name]


def test_runtime_fields_make_no_new_job(cli: Cli, job: tuple[str, ...]) -> None:
    """Batching, device and tracking do not change what a job is."""
    plain = json.loads(cli("plan", *job, "--json").out)
    changed = json.loads(cli("plan", *job, "batch_tokens=64", "device=cpu", "tracking=wandb", "--json").out)
    assert [entry["job_id"] for entry in plain] == [entry["job_id"] for entry in changed]


def test_batching_does_not_change_the_outcome(cli: Cli, job: tuple[str, ...], tmp_path: Path) -> None:
    """One sequence a pass and all in one pass prune the same weights."""
    assert cli("run", *job, "pattern=2:4", "batch_tokens=16", "results_dir=" + str(tmp_path / "one")).code == 0
    assert cli("run", *job, "pattern=2:4", "batch_tokens=4096", "results_dir=" + str(tmp_path / "all")).code == 0
    (one,), (all_at_once,) = records(tmp_path / "one").values(), records(tmp_path / "all").values()
    assert one["weights_fingerprint"] == all_at_once["weights_fingerprint"]
    assert one["results"][0]["value"] == pytest.approx(all_at_once["results"][0]["value"], rel=1e-6)


def test_the_next_job_of_a_process_starts_from_the_dense_model(cli: Cli, job: tuple[str, ...], tmp_path: Path) -> None:
    """A sweep keeps the model in memory; what an earlier job pruned is dense again, to the last bit."""
    assert cli("run", *job, "method=sparsegpt", "pattern=2:4", f"results_dir={tmp_path / 'alone'}").code == 0
    sweep = ("method=magnitude,wanda,sparsegpt", "pattern=2:4", f"results_dir={tmp_path / 'sweep'}")
    assert cli("run", "-m", *job, *sweep).code == 0
    (alone,) = records(tmp_path / "alone").values()
    after_others = records(tmp_path / "sweep")[str(alone["job_id"])]
    assert after_others["weights_fingerprint"] == alone["weights_fingerprint"]
    assert [result["value"] for result in after_others["results"]] == [result["value"] for result in alone["results"]]


def test_the_offline_wandb_run_mirrors_the_record(cli: Cli, job: tuple[str, ...], tmp_path: Path) -> None:
    """Tracking is one word, and its files lie below the results folder."""
    assert cli("run", *job, "pattern=2:4", "tracking=wandb", "tracking.mode=offline").code == 0
    (run,) = (tmp_path / "results" / "wandb").glob("offline-run-*/*.wandb")
    assert run.stat().st_size > 0


def test_show_and_report_print_the_record(cli: Cli, job: tuple[str, ...], tmp_path: Path) -> None:
    """Both read records only."""
    assert cli("run", *job, "pattern=2:4").code == 0
    results = ("--results-dir", str(tmp_path / "results"))
    (record,) = records(tmp_path / "results").values()
    shown = cli("show", str(record["job_id"]), *results)
    assert shown.code == 0
    assert str(record["job_id"]) in shown.out
    assert json.loads(cli("show", str(record["job_id"]), "--json", *results).out) == record
    assert record["defaults"] == {
        **{"paper_name": None, "method": {}, "allocation": {}, "propagation": "pruned", "has_published_numbers": True}
    }
    value = record["results"][0]["value"]
    assert f"{value:.2f}" in cli("report", *results).out
    for text_format in ("md", "csv", "latex", "json"):
        assert cli("report", "--format", text_format, *results).code == 0


def test_nan_weights_are_refused(cli: Cli, job: tuple[str, ...], tiny_model: Path, tmp_path: Path) -> None:
    """One line, exit code 2, nothing written."""
    broken = tmp_path / "nan"
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(broken)
    weights = load_file(broken / "model.safetensors")
    weights["lm_head.weight"][0, 0] = torch.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    refused(cli, job, tmp_path, f"model.path={broken}", says="not finite")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("method=foo",), "unknown method 'foo'; choose from: adaprune, "),
        (("pattern=5:4",), "pattern=5:4"),
        (("pattern=4:4",), "pattern=4:4"),
        (("pattern=3:7",), "needs in_features divisible by 7"),
        (("sparsity=1.2",), "allowed: 0 < sparsity < 1"),
        (("sparsity=half",), "sparsity=half is not allowed; allowed: a finite number"),
        (("seed=-1",), "seed=-1"),
        (("nonsense=1",), "unknown field 'nonsense'"),
        (("method=wanda,magnitude",), "add -m"),
        (("model.path=missing-folder",), "model.path=missing-folder is not a folder"),
        (("calibration=c4", "calibration.path=null", "calibration.source=embedded"), "tokenizer"),
        (("evaluation=zero_shot", "evaluation.source=embedded"), "tokenizer"),
        (("evaluation.corpora=[nonsense]",), "unknown evaluation.corpora 'nonsense'"),
        (("evaluation.seq_len=64",), "evaluation.seq_len=64"),
        (("evaluation.seq_len=1",), "evaluation.seq_len=1 is not allowed"),
        (("evaluation.max_windows=0",), "evaluation.max_windows=0 is not allowed"),
        (("evaluation.tasks=[piqa]", "evaluation.limit=0"), "evaluation.limit=0 is not allowed"),
        (("evaluation.tasks=[qa]",), "unknown evaluation.tasks 'qa'"),
        (("data.nonsense=folder",), "unknown field 'data.nonsense'"),
        (("calibration.num_sequences=9",), "allowed: 1 to 8"),
        (("calibration.num_sequences=0",), "calibration.num_sequences=0 is not allowed"),
        (("calibration.seq_len=1",), "calibration.seq_len=1 is not allowed"),
        (("method=sparsegpt", "method.damping=-1"), "method.damping=-1 is not allowed"),
        (("method=sparsegpt", "method.damping=much"), "method.damping=much"),
        (("device=tpu",), "device=tpu is not allowed; allowed: auto, cpu, cuda"),
        (("dtype=int8",), "dtype=int8 is not allowed; allowed: auto, float32"),
        (("tracking=wandb", "tracking.mode=loud"), "tracking.mode=loud is not allowed; allowed: auto"),
        (("force=no",), "force=no is not allowed; allowed: true or false"),
        (("compile=off",), "compile=off is not allowed"),
        (("model.trust_remote_code=no",), "model.trust_remote_code=no is not allowed"),
        (("evaluation.bos_every_window=off",), "evaluation.bos_every_window=off is not allowed"),
        (("data=folder",), "data=folder is not allowed"),
        (("calibration.sampling=documents",), "unknown calibration.sampling 'documents'"),
        (("+experiment=demo,digits",), "+experiment takes one name"),
    ],
)
def test_bad_input_is_one_clear_line(
    cli: Cli, job: tuple[str, ...], tmp_path: Path, overrides: tuple[str, ...], says: str
) -> None:
    """The line holds the value and what is allowed; exit code 2, no traceback, nothing half-written."""
    refused(cli, job, tmp_path, *overrides, says=says)


@pytest.mark.parametrize(("ids", "says"), [([[99] * 16], "99"), ([[-1] * 16], "-1"), ([[0.5] * 16], "float64")])
def test_bad_token_arrays_are_refused(
    cli: Cli, job: tuple[str, ...], tmp_path: Path, ids: list[list[float]], says: str
) -> None:
    """Ids outside the vocabulary and arrays that hold no ids."""
    path = tmp_path / "bad.npy"
    np.save(path, np.array(ids))
    refused(cli, job, tmp_path, f"calibration.path={path}", says=says)


def test_a_corpus_shorter_than_a_window_is_refused(cli: Cli, job: tuple[str, ...], tmp_path: Path) -> None:
    """The line says how many tokens there are."""
    path = tmp_path / "short.npy"
    np.save(path, np.zeros((1, 7), dtype=np.int64))
    refused(cli, job, tmp_path, f"data.tokens={path}", says="7 tokens")


def test_a_results_folder_that_cannot_be_is_one_line(cli: Cli, job: tuple[str, ...], tmp_path: Path) -> None:
    """A file in its place, or nothing at all."""
    (tmp_path / "file").write_text("")
    for value in ("null", f"{tmp_path / 'file'}"):
        outcome = cli("run", *job, f"results_dir={value}")
        assert outcome.code == 2
        assert len(outcome.err.strip().splitlines()) == 1
        assert f"results_dir={value}" in outcome.err


def test_a_model_that_cannot_be_saved_costs_no_job(cli: Cli, job: tuple[str, ...], tmp_path: Path) -> None:
    """The folder is tried before anything is pruned."""
    (tmp_path / "file").write_text("")
    refused(cli, job, tmp_path, f"save_model={tmp_path / 'file' / 'model'}", says="Not a directory")
    refused(cli, job, tmp_path, f"save_model={tmp_path / ('x' * 300)}", says="File name too long")
    refused(cli, job, tmp_path, "save_model=/proc", says="is a disk of its own")


def test_a_save_that_fails_leaves_nothing(
    cli: Cli, job: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither half a model nor a done record; an empty folder that was there is as it was."""

    def fail(loaded: LoadedModel, folder: Path) -> None:
        folder.mkdir()
        (folder / "half.safetensors").write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(runner, "save_model", fail)
    (tmp_path / "saved").mkdir()
    assert cli("run", *job, "pattern=2:4", f"save_model={tmp_path / 'saved'}").code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results", "saved"]
    assert not list((tmp_path / "saved").iterdir())
    assert not records(tmp_path / "results")


def test_a_model_that_would_reload_as_another_is_refused_before_it_is_pruned(
    cli: Cli, job: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its configuration shows it already."""
    monkeypatch.setattr(saving, "_unlike", lambda *_: {"a.weight"})
    monkeypatch.setattr(runner, "prune", lambda *_: pytest.fail("it was pruned"))
    outcome = cli("run", *job, "pattern=2:4", f"save_model={tmp_path / 'saved'}")
    assert outcome.code == 2
    assert "would reload as another model, first a.weight" in outcome.err


def test_questions_that_cannot_be_had_cost_no_job(
    cli: Cli, job: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read before anything is pruned, not after hours of it."""
    from harness.data.tasks.base import Task

    def unreachable(task: Task, ref: object) -> list[object]:
        raise UserError("cannot read the questions")

    monkeypatch.setattr(Task, "rows", unreachable)
    monkeypatch.setattr(runner, "check_tokenizer", lambda *_: None)
    monkeypatch.setattr(runner, "prune", lambda *_: pytest.fail("pruned"))
    tasks = ("evaluation.tasks=[piqa]", "evaluation.source=embedded")
    refused(cli, job, tmp_path, *tasks, says="cannot read the questions")


def test_other_weights_never_replace_what_is_not_measured_again(
    cli: Cli, job: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record of a model pruned elsewhere keeps its numbers, unless all of them are asked for."""
    assert cli("run", *job, "pattern=2:4").code == 0
    before = records(tmp_path / "results")
    monkeypatch.setattr(runner, "weights_fingerprint", lambda *_: "sha256:other")
    outcome = cli("run", *job, "pattern=2:4", "evaluation.seq_len=8")
    assert outcome.code == 2
    assert "the weights came out otherwise" in outcome.err
    assert "perplexity:tokens" in outcome.err
    assert records(tmp_path / "results") == before


def test_a_sweep_that_saves_models_goes_on_where_it_was(cli: Cli, job: tuple[str, ...], tmp_path: Path) -> None:
    """Jobs whose models are there are skipped; one whose folder is gone saves it again."""
    sweep = ("run", "-m", *job, "method=magnitude,random", "pattern=2:4", f"save_model={tmp_path / 'saved'}")
    assert cli(*sweep).code == 0
    shutil.rmtree(next((tmp_path / "saved").glob("*random*")))
    outcome = cli(*sweep)
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("skipped: ") == 1
    assert len(list((tmp_path / "saved").glob("*/config.json"))) == 2
    planned = json.loads(cli("plan", *sweep[1:], "--json").out)
    assert [(row["state"], row["estimated_seconds"], row["estimated_peak_bytes"]) for row in planned] == [
        ("done", 0, None)
    ] * 2


def test_whole_numbers_are_numbers(cli: Cli, job: tuple[str, ...]) -> None:
    """5 and 5.0 for the same hyperparameter are one job."""
    ids = {
        json.loads(cli("plan", *job, "allocation=owl", f"allocation.outlier_threshold={value}", "--json").out)[0][
            "job_id"
        ]
        for value in ("5", "5.0", "5.00")
    }
    assert len(ids) == 1


def test_paths_are_no_job_ids_and_folders_no_files(cli: Cli, job: tuple[str, ...], tmp_path: Path) -> None:
    """`show` of a record's file and `report` into a folder end in a line."""
    assert cli("run", *job, "pattern=2:4").code == 0
    results = ("--results-dir", str(tmp_path / "results"))
    for command in (("show", "tiny/job.json"), ("compare", "a/b", "a/b"), ("report", "--output", str(tmp_path))):
        outcome = cli(*command, *results)
        assert outcome.code == 2
        assert len(outcome.err.strip().splitlines()) == 1


def refused(cli: Cli, job: tuple[str, ...], tmp_path: Path, *overrides: str, says: str) -> None:
    """The job with these overrides ends in one line on stderr and leaves no file but its claim."""
    outcome = cli("run", *job, *overrides)
    assert outcome.code == 2, outcome.err
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1, outcome.err
    assert says in lines[0]
    assert not records(tmp_path / "results")
    assert not list((tmp_path / "results").rglob("failed/*"))
