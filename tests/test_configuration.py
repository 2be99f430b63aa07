"""The fields of the configuration: which of them decide what a job is, and what names plug-ins."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from harness.config import choices
from harness.config.hydra import compose, parsed
from harness.config.request import JobRequest
from harness.config.schema import roles, with_kinds
from harness.errors import UserError
from harness.job import TrainingSpec
from harness.pruning.methods.base import METHODS

TEXTS = ("calibration.source=embedded", "evaluation.source=embedded", "evaluation.corpora=[wikipedia-sample]")
BASE = ("model=tiny-llama", *TEXTS, "evaluation.tasks=[piqa]", "evaluation.seq_len=64", "calibration.seq_len=64")
HUB = ("model=hub", "model.name=org/tiny", "model.revision=" + "0" * 40)
ARRAY = ("calibration=tokens", "calibration.source=auto", "calibration.path=one.npy", "calibration.seq_len=8")
TEXT_FILE = ("calibration.path=text.txt", "calibration.source=auto")
TRAINED = ("recovery=masked_finetune", "recovery.batch=2")
OWN_ARRAY = (*TRAINED, "training=tokens", "training.path=one.npy", "training.seq_len=8")
OWN_TEXT = (*TRAINED, "training=ptb", "training.path=text.txt")
TOKENS = ("evaluation.corpora=[tokens]", "data.tokens=one.npy")
DIGITS = ("model=digits-cnn", "calibration=digits", "evaluation=digits", "evaluation.tasks=[]", "evaluation.corpora=[]")
SPEED = ("evaluation.efficiency=[speed]",)
CHANGES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "model.name": (HUB, ("model.name=org/other",)),
    "model.source": ((), ("model.source=embedded", "model.name=smollm2-135m")),
    "model.repository": (HUB, ("model.repository=other/tiny",)),
    "model.revision": (HUB, ("model.revision=" + "1" * 40,)),
    "model.path": ((), ("model.path=elsewhere",)),
    "model.trust_remote_code": ((), ("model.trust_remote_code=true",)),
    "model.convert": ((), ("model.convert=true",)),
    "model.size_b": ((), ("model.size_b=7",)),
    "model.paper_name": ((), ("model.paper_name=X",)),
    "method": ((), ("method=magnitude",)),
    "pattern.kind": ((), ("pattern=2:4",)),
    "pattern.keep": (("pattern=2:8",), ("pattern.keep=3",)),
    "pattern.group": (("pattern=2:8",), ("pattern.group=16",)),
    "allocation": ((), ("allocation=owl",)),
    "calibration.corpus": (("calibration=ptb", *TEXT_FILE), ("calibration=wikitext2",)),
    "calibration.source": (ARRAY, ("calibration.source=path",)),
    "calibration.path": (ARRAY, ("calibration.path=copy.npy",)),
    "calibration.num_sequences": ((), ("calibration.num_sequences=3",)),
    "calibration.seq_len": ((), ("calibration.seq_len=32",)),
    "calibration.sampling": ((), ("calibration.sampling=documents",)),
    "calibration.propagation": ((), ("calibration.propagation=dense",)),
    "recovery": ((), ("recovery=masked_finetune",)),
    "training.corpus": (OWN_TEXT, ("training=wikitext2",)),
    "training.source": (OWN_ARRAY, ("training.source=path",)),
    "training.path": (OWN_ARRAY, ("training.path=copy.npy",)),
    "training.num_sequences": (TRAINED, ("training.num_sequences=3",)),
    "training.seq_len": (TRAINED, ("training.seq_len=32",)),
    "training.sampling": (TRAINED, ("training.sampling=documents",)),
    "training.tokens": (TRAINED, ("training.tokens=128",)),
    "evaluation.source": ((), ("evaluation.source=auto",)),
    "evaluation.token_budget": ((), ("evaluation.token_budget=9",)),
    "evaluation.images": ((*DIGITS, "calibration.seq_len=null"), ("evaluation.images=[]",)),
    "evaluation.corpora": ((), ("evaluation.corpora=[]",)),
    "evaluation.seq_len": ((), ("evaluation.seq_len=32",)),
    "evaluation.max_windows": ((), ("evaluation.max_windows=2",)),
    "evaluation.bos_every_window": ((), ("evaluation.bos_every_window=true",)),
    "evaluation.kl": ((), ("evaluation.kl=[wikipedia-sample]",)),
    "evaluation.tasks": ((), ("evaluation.tasks=[boolq]",)),
    "evaluation.generate": ((), ("evaluation.generate=[nq_open]",)),
    "evaluation.max_new_tokens": (("evaluation.generate=[nq_open]",), ("evaluation.max_new_tokens=9",)),
    "evaluation.limit": ((), ("evaluation.limit=2",)),
    "evaluation.subject_limit": (
        ("evaluation.tasks=[mmlu]", "evaluation.source=embedded"),
        ("evaluation.subject_limit=2",),
    ),
    "evaluation.bits_per_byte": ((), ("evaluation.bits_per_byte=[mbpp_bpb]", "evaluation.source=embedded")),
    "evaluation.documents": (("evaluation.bits_per_byte=[mbpp_bpb]",), ("evaluation.documents=2",)),
    "evaluation.efficiency": ((), ("evaluation.efficiency=[size]",)),
    "evaluation.speed_batch": (SPEED, ("evaluation.speed_batch=2",)),
    "evaluation.prompt_tokens": (SPEED, ("evaluation.prompt_tokens=8",)),
    "evaluation.new_tokens": (SPEED, ("evaluation.new_tokens=8",)),
    "evaluation.speed_threads": (SPEED, ("evaluation.speed_threads=2",)),
    "evaluation.speed_rounds": (SPEED, ("evaluation.speed_rounds=2",)),
    "tracking.name": ((), ("tracking=wandb",)),
    "tracking.mode": ((), ("tracking.mode=offline",)),
    "tracking.project": ((), ("tracking.project=X",)),
    "tracking.entity": ((), ("tracking.entity=X",)),
    "tracking.log_model": (("save_model=there",), ("tracking.log_model=true",)),
    "sparsity": ((), ("sparsity=0.25",)),
    "seed": ((), ("seed=1",)),
    "dtype": ((), ("dtype=float32",)),
    "device": ((), ("device=cpu",)),
    "offload": (("evaluation.tasks=[]",), ("offload=disk",)),
    "compile": ((), ("compile=true",)),
    "batch_tokens": ((), ("batch_tokens=9",)),
    "plugins": ((), ("plugins=[.]",)),
    "results_dir": ((), ("results_dir=elsewhere",)),
    "save_model": ((), ("save_model=there",)),
    "force": ((), ("force=true",)),
    "data": (TOKENS, ("data.tokens=copy.npy",)),
}
"""For every field what it is tried on, and how it is changed."""


def one_job(*overrides: str) -> JobRequest:
    """What these overrides ask for, the last value of a field."""
    last = {text.partition("=")[0]: text for text in overrides}
    (job,) = compose(list(last.values()), multirun=False).jobs
    assert isinstance(job, JobRequest)
    return job


def test_every_field_is_identity_or_runtime() -> None:
    """A new field must be declared as one or the other, and be tried below, or this fails."""
    found = roles(with_kinds())
    assert {name for name, role in found.items() if role == "none"} == set()
    assert set(CHANGES) == set(found)


@pytest.mark.parametrize("field", CHANGES)
def test_identity_makes_another_job_and_runtime_does_not(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is declared is so: another id, or another protocol that a number is kept by; or the very same of both."""
    monkeypatch.chdir(tmp_path)
    for name in ("one.npy", "copy.npy"):
        np.save(tmp_path / name, np.zeros((8, 128), dtype=np.int64))
    (tmp_path / "text.txt").write_text("A text. " * 99)
    given, change = CHANGES[field]
    before, after = one_job(*BASE, *given), one_job(*BASE, *given, *change)
    same = [(job.spec.job_id, [protocol.key for protocol in job.spec.evaluation]) for job in (before, after)]
    assert (same[0] == same[1]) == (roles(with_kinds())[field] == "runtime")


@pytest.mark.parametrize(
    "same",
    [
        ("training=calibration",),
        ("training=c4", "training.source=embedded", "training.seq_len=64"),
        ("training.tokens=25600",),  # 200 steps of 2 sequences of 64
        ("training.tokens=null",),
    ],
    ids=str,
)
def test_training_on_what_is_trained_on_anyway_is_the_same_job(same: tuple[str, ...]) -> None:
    """The same sequences by another name, and a budget that no step is cut short by, change no weight."""
    usual, named = one_job(*BASE, *TRAINED), one_job(*BASE, *TRAINED, *same)
    assert named == replace(usual, command=named.command)
    assert "training" not in usual.spec.identity()


@pytest.mark.parametrize("idle", [("recovery=none",), ("method=dense", *TRAINED)], ids=str)
def test_where_nothing_is_trained_training_makes_no_job(idle: tuple[str, ...]) -> None:
    """Without a recovery, and of the dense model: whatever is said of the data, which are not even looked for."""
    said = ("training=tokens", "training.path=nowhere.npy", "training.tokens=1")
    assert one_job(*BASE, *idle).spec.job_id == one_job(*BASE, *idle, *said).spec.job_id


def test_what_is_not_said_of_training_is_as_in_the_calibration() -> None:
    """Of the same text, more and longer sequences; the calibration stays as it was."""
    usual, own = (one_job(*BASE, *TRAINED, *more) for more in ((), ("training.num_sequences=512",)))
    assert own.pruning.calibration == usual.pruning.calibration
    assert own.pruning.training == TrainingSpec(
        **asdict(usual.pruning.calibration.drawn) | {"num_sequences": 512}, tokens=None
    )
    assert own.training is not None
    assert (own.training.role, own.training.identity) == ("training", usual.pruning.calibration.data)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ("training.tokens=127",),
            "training.tokens=127 ends before the first step of recovery=masked_finetune, which sees 128; "
            "allowed: null, or an integer >= 128",
        ),
        (("training.tokens=0",), "training.tokens=0 is not allowed; allowed: tokens >= 1"),
        (("training.propagation=dense",), "unknown field 'training.propagation'"),
        (("training=nothing",), "unknown training 'nothing'"),
        (("training=tokens",), "training.path must be given"),
        (("training=wikitext2", "training.path=gone.txt"), "wikitext2 has path=gone.txt, which does not exist"),
        (
            ("training=c4", "training.sampling=given"),
            "unknown training.sampling 'given'; choose from: documents, stream",
        ),
        (("training=digits",), "training on digits, but model tiny-llama is a language model"),
    ],
    ids=str,
)
def test_training_that_cannot_be_is_refused(overrides: tuple[str, ...], line: str) -> None:
    """In one line, when it is planned."""
    with pytest.raises(UserError) as refused:
        one_job(*BASE, *TRAINED, *overrides)
    assert str(refused.value).startswith(line)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("training=c4",), "training on c4, but model digits-cnn is an image classifier; allowed: training=digits"),
        (("training.tokens=99999",), "training.tokens=99999, but digits has images; allowed: training.tokens=null"),
    ],
)
def test_images_are_trained_on_images_and_count_no_tokens(overrides: tuple[str, ...], line: str) -> None:
    """An image classifier takes no text, and a budget of tokens says nothing of images."""
    with pytest.raises(UserError) as refused:
        one_job("model=digits-cnn", "calibration=digits", "evaluation=digits", *TRAINED, *overrides)
    assert str(refused.value) == line


NOT_THERE = """
from dataclasses import dataclass
from harness.pruning.methods.base import METHODS, ScoreMethod

@METHODS.register("of-experiment")
@dataclass(frozen=True, slots=True)
class OfExperiment(ScoreMethod):
    # higher goes first
    def score(self, weight_OI, stats):
        return -weight_OI
"""


def test_an_experiment_names_its_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are loaded before it is composed, for it may choose what they add."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "of_experiment.py").write_text(NOT_THERE)
    shutil.copytree(choices.conf_dir(), tmp_path / "conf")
    experiment = f"# @package _global_\ndefaults:\n  - override /method: of-experiment\nplugins: {tmp_path / 'mine'}\n"
    (tmp_path / "conf" / "experiment" / "own.yaml").write_text(experiment)
    for module in ("choices", "hydra"):
        monkeypatch.setattr(f"harness.config.{module}.conf_dir", lambda: tmp_path / "conf")
    assert one_job(*BASE, "+experiment=own").pruning.method.name == "of-experiment"
    METHODS._entries.pop("of-experiment")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("save_model=a=b", "save_model='a=b'"),
        ("save_model=~/models", "save_model='~/models'"),
        ("save_model=run#3", "save_model='run#3'"),
        ("save_model=größe", "save_model='größe'"),
        ("save_model=it's", r"save_model='it\'s'"),
        ("save_model=,", "save_model=','"),
        ("=", "FIELD=VALUE"),
        (",", "FIELD=VALUE"),
        ("#", "FIELD=VALUE"),
        ("~", "FIELD=VALUE"),
        ("seed", "FIELD=VALUE"),
        ("--fast", "FIELD=VALUE"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, says: str) -> None:
    """With the override as it was given, and as it can be read: what is proposed means the value that was meant."""
    with pytest.raises(UserError) as refused:
        parsed(text)
    assert f"cannot read the override {text}; allowed:" in str(refused.value)
    assert says in str(refused.value)
    if says != "FIELD=VALUE":
        assert parsed(says).value() == text.partition("=")[2]
