"""The identity of a job: what makes another one, and what does not."""

import json
import math
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.evaluation.kinds.perplexity import PerplexityProtocol
from harness.evaluation.kinds.zero_shot import ZeroShotProtocol
from harness.job import (
    JOB_ID_VERSION,
    CalibrationSpec,
    Choice,
    JobSpec,
    ModelSpec,
    PruningSpec,
    RunOptions,
    TrainingSpec,
    canonical_json,
)
from harness.patterns import SemiStructured, Unstructured

CALIBRATION = CalibrationSpec("c4", "sha256:abc", 128, 2048, "documents", "pruned")
TRAINING = TrainingSpec("c4", "sha256:abc", 128, 2048, "documents", None)
PRUNING = PruningSpec(
    method=Choice("wanda"),
    pattern=SemiStructured(2, 4),
    allocation=Choice("uniform"),
    calibration=CALIBRATION,
    recovery=Choice("none"),
    seed=0,
)
WANDA = JobSpec(
    model=ModelSpec("opt-125m", "hub:facebook/opt-125m@27dcfa7", "float16"),
    pruning=PRUNING,
    evaluation=(PerplexityProtocol("wikitext2", None, 2048),),
)
SPARSEGPT = replace(
    WANDA,
    pruning=replace(
        PRUNING, method=Choice("sparsegpt", {"damping": 0.01, "block_size": 128}), pattern=Unstructured(0.5), seed=3
    ),
)
DENSE = replace(WANDA, pruning=None)


def test_frozen_ids() -> None:
    """Records on disk are found by these: a change here makes every finished job unknown, so JOB_ID_VERSION must be
    raised with it, knowingly.
    """
    assert JOB_ID_VERSION == 1
    assert WANDA.job_id == "opt-125m__wanda__nm-2-4__0decff6a"
    assert SPARSEGPT.job_id == "opt-125m__sparsegpt__unstructured-0.5__3b366dde"
    assert DENSE.job_id == "opt-125m__dense__bfb98ae1"


@pytest.mark.parametrize(
    "changes",
    [
        {"model": ModelSpec("opt-125m", "hub:facebook/opt-125m@other", "float16")},
        {"model": ModelSpec("opt-125m", "hub:facebook/opt-125m@27dcfa7", "float32")},
        {"method": Choice("magnitude")},
        {"method": Choice("wanda", {"alpha": 1})},
        {"pattern": SemiStructured(4, 8)},
        {"pattern": Unstructured(0.5)},
        {"allocation": Choice("owl")},
        {"recovery": Choice("lora")},
        {"seed": 1},
        *({"training": replace(TRAINING, **change)} for change in (
            {},
            {"corpus": "ptb"},
            {"data": "sha256:abd"},
            {"num_sequences": 127},
            {"seq_len": 2047},
            {"sampling": "stream"},
            {"tokens": 10**6},
        )),
        *({"calibration": replace(CALIBRATION, **change)} for change in (
            {"corpus": "ptb"},
            {"data": "sha256:abd"},
            {"num_sequences": 127},
            {"seq_len": 2047},
            {"sampling": "stream"},
            {"propagation": "dense"},
        )),
    ],
    ids=str,
)  # fmt: skip
def test_what_decides_weights_makes_another_job(changes: Mapping[str, Any]) -> None:
    """Each field of the identity counts, alone; so does what a recovery trains on, where that is said."""
    changed = replace(WANDA, **changes) if "model" in changes else replace(WANDA, pruning=replace(PRUNING, **changes))
    assert changed.job_id != WANDA.job_id
    trained = replace(WANDA, pruning=replace(PRUNING, training=TRAINING))
    assert (changed.job_id == trained.job_id) == (changes.get("training") == TRAINING)


def test_evaluations_make_no_other_job() -> None:
    """Results are keyed by their protocols; asking for more of them asks the same job."""
    protocols = (ZeroShotProtocol("piqa", "1.0", None), PerplexityProtocol("ptb", "sha256:x", 2048))
    for evaluation in ((), protocols):
        assert replace(WANDA, evaluation=evaluation).job_id == WANDA.job_id
    assert "evaluation" not in WANDA.identity()


def test_run_options_are_no_part_of_a_job() -> None:
    """Devices, paths and tracking lie in `RunOptions`, which a job does not hold."""
    assert not {field.name for field in fields(RunOptions)} & {field.name for field in fields(JobSpec)}
    for name in ("device", "results_dir", "save_model", "tracking", "batch_tokens"):
        assert f'"{name}"' not in canonical_json(WANDA.identity())


def test_the_order_of_parameters_is_no_identity() -> None:
    """Hyperparameters are named, not ordered."""
    turned = Choice("sparsegpt", {"block_size": 128, "damping": 0.01})
    assert SPARSEGPT.pruning is not None
    assert replace(SPARSEGPT, pruning=replace(SPARSEGPT.pruning, method=turned)).job_id == SPARSEGPT.job_id


def test_the_identity_says_the_pattern_in_words() -> None:
    """The record of a job holds label and sparsity, and everything is plain JSON."""
    assert (WANDA.identity()["pattern"], WANDA.identity()["sparsity"]) == ("2:4", 0.5)
    assert (DENSE.identity()["pattern"], DENSE.identity()["sparsity"]) == ("dense", 0.0)
    assert json.loads(canonical_json(WANDA.identity())) == WANDA.identity()


def test_a_job_cannot_be_changed() -> None:
    """An identity that moved under a running job would name other weights."""
    with pytest.raises(FrozenInstanceError):
        WANDA.pruning = None  # type: ignore[misc]


@pytest.mark.parametrize(
    ("protocol", "key"),
    [
        (PerplexityProtocol("wikitext2", None, 2048), "perplexity:wikitext2:seq2048:v1"),
        (PerplexityProtocol("c4", None, 128, 8, True), "perplexity:c4:seq128:first8:bos:v2"),
        (PerplexityProtocol("tokens", "sha256:1", 64), "perplexity:tokens:seq64:v1:data-5b7bc24d"),
        (ZeroShotProtocol("piqa", "1.0", None), "zero_shot:piqa:v1.0"),
        (ZeroShotProtocol("boolq", "2.0", None, 100), "zero_shot:boolq:first100:v2.0"),
    ],
)
def test_frozen_protocol_keys(protocol: PerplexityProtocol | ZeroShotProtocol, key: str) -> None:
    """Results in records are found by these; whatever makes two numbers incomparable is in the key."""
    assert protocol.key == key


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(PLAIN)
def test_canonical_json_reads_back(value: Any) -> None:
    """Plain data survives, in ASCII and on one line."""
    text = canonical_json(value)
    assert text.isascii()
    assert "\n" not in text
    assert json.loads(text) == value


@given(st.dictionaries(st.text(), st.integers()))
def test_canonical_json_knows_no_order(value: dict[str, int]) -> None:
    """Equal mappings have one spelling."""
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)


def test_canonical_json_has_no_blanks_and_no_nan() -> None:
    """NaN is not JSON, and is no identity."""
    assert canonical_json({"b": [1, 2.5], "a": "é"}) == '{"a":"\\u00e9","b":[1,2.5]}'
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="JSON"):
            canonical_json(value)
