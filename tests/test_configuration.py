"""The fields of the configuration: which of them decide what a job is, and what names plug-ins."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from harness.config import choices
from harness.config.hydra import compose, parsed
from harness.config.request import JobRequest
from harness.config.schema import roles, with_kinds
from harness.errors import UserError
from harness.pruning.methods.base import METHODS

TEXTS = ("calibration.source=embedded", "evaluation.source=embedded", "evaluation.corpora=[wikipedia-sample]")
BASE = ("model=tiny-llama", *TEXTS, "evaluation.tasks=[piqa]", "evaluation.seq_len=64", "calibration.seq_len=64")
HUB = ("model=hub", "model.name=org/tiny", "model.revision=" + "0" * 40)
ARRAY = ("calibration=tokens", "calibration.source=auto", "calibration.path=one.npy", "calibration.seq_len=8")
TEXT_FILE = ("calibration.path=text.txt", "calibration.source=auto")
TOKENS = ("evaluation.corpora=[tokens]", "data.tokens=one.npy")
DIGITS = ("model=digits-cnn", "calibration=digits", "evaluation=digits", "evaluation.tasks=[]", "evaluation.corpora=[]")
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
    "evaluation.source": ((), ("evaluation.source=auto",)),
    "evaluation.token_budget": ((), ("evaluation.token_budget=9",)),
    "evaluation.images": ((*DIGITS, "calibration.seq_len=null"), ("evaluation.images=[]",)),
    "evaluation.corpora": ((), ("evaluation.corpora=[]",)),
    "evaluation.seq_len": ((), ("evaluation.seq_len=32",)),
    "evaluation.max_windows": ((), ("evaluation.max_windows=2",)),
    "evaluation.bos_every_window": ((), ("evaluation.bos_every_window=true",)),
    "evaluation.tasks": ((), ("evaluation.tasks=[boolq]",)),
    "evaluation.limit": ((), ("evaluation.limit=2",)),
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
