"""Bits per byte are those of plain log-likelihoods and stock lm-eval's, and never pass for an accuracy."""

import copy
import math
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from harness.data.sources import resolve
from harness.data.tasks.base import GOLD_ANSWERS, TASKS, rows_identity
from harness.evaluation.base import EvaluationContext, Ready
from harness.evaluation.kinds.bits_per_byte import BitsPerByte, BitsPerByteProtocol
from harness.models.cache import Cache
from harness.progress import Silent
from harness.record import EvalResult
from tests.evaluation.test_zero_shot import log_likelihood, write

ROWS = [
    {"context": "Question: what is it?\nAnswer:", "continuation": " a cat"},
    {"context": "Question: what is it?\nAnswer:", "continuation": " a cat sees"},
    {"context": "Question: 3 + 4?\nAnswer:", "continuation": " größer als 6 €"},
    {"context": "def f(x):\n", "continuation": "    return x\n"},
]


def measured(model: Any, tokenizer: Any, path: Path, documents: int | None = None) -> EvalResult:
    """The answers of a file, on a model in memory."""
    ref = resolve("gsm8k_bpb", "evaluation", path=path)
    ((protocol, data),) = BitsPerByte(("gsm8k_bpb",), documents).ask(lambda _: ref)
    loaded: Any = SimpleNamespace(model=model, tokenizer=tokenizer, cache=Cache())
    asked = Ready(protocol, data, BitsPerByte.prepare(protocol, data, loaded))
    options: Any = SimpleNamespace(zero_shot_token_budget=256)
    (result,) = BitsPerByte.measure([asked], EvaluationContext(loaded, torch.device("cpu"), Silent(), options)).results
    return result


def test_it_is_the_mean_over_answers_of_bits_by_bytes(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    """With its standard error; bytes, not characters; a subset is said; lower is better."""
    path = write(tmp_path / "rows.jsonl", ROWS)
    bits = []
    for row in ROWS:
        before = row["context"].rstrip()  # lm-eval asks for blanks at the end of a prompt together with the answer
        after = row["context"].removeprefix(before) + row["continuation"]
        nats = -log_likelihood(model, tokenizer, before, after)
        bits.append(nats / math.log(2) / len(row["continuation"].encode()))
    whole, some = measured(model, tokenizer, path), measured(model, tokenizer, path, 3)
    assert whole.value == pytest.approx(statistics.fmean(bits), abs=1e-5)
    assert whole.stderr == pytest.approx(statistics.stdev(bits) / 2, abs=1e-5)
    assert some.value == pytest.approx(statistics.fmean(bits[:3]), abs=1e-5)
    assert (whole.metric, whole.higher_is_better, whole.num_samples, whole.subset) == ("bits_per_byte", False, 4, None)
    assert (some.num_samples, some.subset) == (3, "first 3 of 4 answers")
    assert measured(model, tokenizer, path, 1).stderr is None
    assert model.training


def test_log_likelihoods_are_those_of_stock_lm_eval(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    """One answer at a time, to 1e-4 nats."""
    stock = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), backend="causal", batch_size=1)
    for row in ROWS:
        request = Instance("loglikelihood", {}, (row["context"], row["continuation"]), 0)
        ((theirs, _),) = stock.loglikelihood([request], disable_tqdm=True)
        value = measured(model, tokenizer, write(tmp_path / "row.jsonl", [row])).value
        assert value is not None
        assert -value * math.log(2) * len(row["continuation"].encode()) == pytest.approx(theirs, abs=1e-4)


def test_a_broken_model_has_no_value(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    """Likelihoods that are no numbers are missing."""
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    result = measured(model, tokenizer, write(tmp_path / "rows.jsonl", ROWS))
    assert (result.value, result.stderr) == (None, None)


def test_its_names_are_no_tasks() -> None:
    """A set is told from a task of accuracy by its name, and its protocol by the kind."""
    assert not set(GOLD_ANSWERS.all()) & set(TASKS.all())
    assert BitsPerByteProtocol("gsm8k_bpb", "1", None, 40).key == "bits_per_byte:gsm8k_bpb:first40:v1"


@pytest.mark.parametrize("name", GOLD_ANSWERS.all())
def test_pinned_identities_of_the_wheels_answers(name: str) -> None:
    """The identity that planning states is that of the rows, and no answer is empty."""
    ref = resolve(name, "evaluation", source="embedded")
    rows = GOLD_ANSWERS.get(name).rows(ref)
    assert ref.official
    assert rows_identity(rows) == ref.identity
    assert all(row["continuation"].strip() and row["context"].strip() for row in rows)
