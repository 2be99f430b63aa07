"""On a real model and real tasks the numbers are stock HFLM's at batch size 1."""

import copy
import os
import warnings

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from harness.data.sources import resolve
from harness.data.tasks.base import TASKS as ENTRIES
from harness.evaluation.scoring.lm import PackedLM
from harness.evaluation.upstream import load_task, quiet
from harness.models.checkpoint import Checkpoint
from harness.models.loading import load_model

# The first questions of each task. 200 take about ten minutes on two cores: by hand, PRUNEBENCH_QUESTIONS=200.
QUESTIONS = int(os.environ.get("PRUNEBENCH_QUESTIONS", "2"))
TASKS = ("boolq", "piqa", "arc_easy", "arc_challenge", "hellaswag", "winogrande")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("PRUNEBENCH_DATA" not in os.environ, reason="needs the data folder (PRUNEBENCH_DATA)"),
]


def asked() -> list[Instance]:
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


def test_log_likelihoods_and_greedy_flags_are_those_of_stock_lm_eval() -> None:
    """Every log-likelihood of the embedded model in float32 to 1e-4, every flag, one request at a time, with trees."""
    loaded = load_model(Checkpoint("embedded", "smollm2-135m", None, None, False), torch.float32)
    assert loaded.tokenizer is not None
    instances = asked()
    stock = HFLM(pretrained=loaded.model, tokenizer=copy.deepcopy(loaded.tokenizer), backend="causal", batch_size=1)
    theirs = stock.loglikelihood(instances, disable_tqdm=True)
    scorer = PackedLM(loaded.model, loaded.tokenizer)
    assert scorer.details["tree"] is True, scorer.details["tree_reason"]
    ours = scorer.loglikelihood(instances, disable_tqdm=True)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert max(abs(one - other) for (one, _), (other, _) in zip(ours, theirs, strict=True)) < 1e-4
