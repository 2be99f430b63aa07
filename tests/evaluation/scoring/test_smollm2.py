"""On a real model and real tasks the numbers are stock HFLM's at batch size 1."""

import copy
import os
import warnings
from dataclasses import replace

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from harness.data.sources import resolve
from harness.data.tasks.base import TASKS as ENTRIES
from harness.evaluation.scoring import lm
from harness.evaluation.scoring.lm import PackedLM
from harness.evaluation.scoring.packing import Layout, Rows, lay_out
from harness.evaluation.upstream import load_task, quiet
from harness.models.checkpoint import Checkpoint
from harness.models.loading import LoadedModel, load_model

# The first questions of each task. 200 take about ten minutes on two cores: by hand, PRUNEBENCH_QUESTIONS=200.
QUESTIONS = int(os.environ.get("PRUNEBENCH_QUESTIONS", "4"))
TASKS = ("boolq", "piqa", "arc_easy", "arc_challenge", "hellaswag", "winogrande")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("PRUNEBENCH_DATA" not in os.environ, reason="needs the data folder (PRUNEBENCH_DATA)"),
]


@pytest.fixture(scope="module")
def smollm2() -> LoadedModel:
    """The embedded model in float32."""
    return load_model(Checkpoint("embedded", "smollm2-135m", None, None, False), torch.float32)


@pytest.fixture(scope="module")
def instances() -> list[Instance]:
    """All requests of the first questions of all tasks, in one list."""
    made: list[Instance] = []
    for name in TASKS:
        entry = ENTRIES.get(name)
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            task = load_task(name, entry.version, entry.rows(resolve(name, "evaluation"))[:QUESTIONS])
            task.build_all_requests()
        made += task.instances
    return made


@pytest.fixture(scope="module")
def theirs(smollm2: LoadedModel, instances: list[Instance]) -> list[tuple[float, bool]]:
    """What stock HFLM says, one request at a time."""
    stock = HFLM(pretrained=smollm2.model, tokenizer=copy.deepcopy(smollm2.tokenizer), backend="causal", batch_size=1)
    answers: list[tuple[float, bool]] = stock.loglikelihood(instances, disable_tqdm=True)
    return answers


def test_log_likelihoods_and_greedy_flags_are_those_of_stock_lm_eval(
    smollm2: LoadedModel, instances: list[Instance], theirs: list[tuple[float, bool]]
) -> None:
    """Every log-likelihood to 1e-4, every flag, with trees on."""
    assert smollm2.tokenizer is not None
    scorer = PackedLM(smollm2.model, smollm2.tokenizer)
    assert scorer.details["tree"] is True, scorer.details["tree_reason"]
    ours = scorer.loglikelihood(instances)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert max(abs(one - other) for (one, _), (other, _) in zip(ours, theirs, strict=True)) < 1e-4


@pytest.mark.parametrize("fault", ["mask", "rows"])
def test_a_planted_fault_fails_the_comparison(
    fault: str,
    smollm2: LoadedModel,
    instances: list[Instance],
    theirs: list[tuple[float, bool]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A mask that shows the choices before, or rows off by one, is far off 1e-4."""
    assert smollm2.tokenizer is not None
    scorer = PackedLM(smollm2.model, smollm2.tokenizer)

    def faulty(rows: Rows) -> Layout:
        layout = lay_out(rows)
        if fault == "mask":
            return replace(layout, ends=[[len(row)] * len(row) for row in layout.ends])
        return replace(layout, states=[max(0, state - 1) for state in layout.states])

    monkeypatch.setattr(lm, "lay_out", faulty)
    some = slice(0, len(instances), 7)
    ours = scorer.loglikelihood(instances[some])
    assert max(abs(one - other) for (one, _), (other, _) in zip(ours, theirs[some], strict=True)) > 1
