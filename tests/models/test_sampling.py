"""Sequences that a model samples itself, against code that spells it out."""

from typing import Any

import pytest
import torch

from harness.config.hydra import compose
from harness.config.request import JobRequest
from harness.errors import UserError
from harness.models.loading import LoadedModel
from harness.models.sampling import sampled
from harness.progress import Silent
from tests.families import tiny_model

CPU = torch.device("cpu")
JOB = ("method=wanda", "evaluation=none", "calibration=self_generated", "calibration.seq_len=8")


def draw(loaded: LoadedModel, shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """On the CPU."""
    return sampled(loaded, shape, seed, CPU, Silent())


@torch.no_grad()
def obvious(model: Any, shape: tuple[int, int], seed: int) -> list[list[int]]:
    """Each token from the whole sequence before it, nothing cached: probabilities summed up to a uniform number."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(shape[0]):
        uniform_L = torch.rand(shape[1], generator=generator, dtype=torch.float64).tolist()
        row = [model.config.bos_token_id]
        for place in range(1, shape[1]):
            p_V = model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1].double().softmax(-1).tolist()
            total, token = 0.0, 0
            for token, p in enumerate(p_V):  # noqa: B007  # read below
                total += p
                if total > uniform_L[place]:
                    break
            row.append(token)
        rows.append(row)
    return rows


@pytest.mark.parametrize("family", ["llama-gqa", "gpt2", "opt", "gemma-2", "mixtral"])
def test_every_token_is_drawn_from_what_the_model_says(family: str) -> None:
    """At temperature 1, from BOS on; more sequences than are sampled at a time."""
    model = tiny_model(family, bos_token_id=3)
    rows_NL = draw(LoadedModel(model, None), (18, 9), seed=5)
    assert rows_NL.tolist() == obvious(model, (18, 9), 5)


def test_the_seed_decides_and_more_sequences_change_none() -> None:
    """Held-out sequences are those behind the job's own; another seed has others."""
    loaded = LoadedModel(tiny_model("llama", bos_token_id=3), None)
    first_NL = draw(loaded, (4, 8))
    assert draw(loaded, (4, 8)).equal(first_NL)
    assert draw(loaded, (6, 8))[:4].equal(first_NL)
    assert len({tuple(row) for row in draw(loaded, (20, 8)).tolist()}) == 20
    assert not draw(loaded, (4, 8), seed=1).equal(first_NL)


def test_a_model_that_begins_with_nothing_is_refused() -> None:
    """Its tokenizer and its configuration name neither BOS nor EOS."""
    model = tiny_model("llama")
    model.config.bos_token_id = model.config.eos_token_id = None
    with pytest.raises(UserError, match="needs a model with a BOS or EOS token"):
        draw(LoadedModel(model, None), (1, 4))


def test_the_job_says_so_and_needs_the_whole_model() -> None:
    """No data are looked for; what samples token by token is all in memory; an image model is refused."""
    (job,) = compose(["model=tiny-llama", *JOB, "calibration.num_sequences=4"], multirun=False).jobs
    assert isinstance(job, JobRequest)
    assert (job.pruning.calibration.data, job.pruning.calibration.sampling) == ("self-generated:v1", "sampled")
    assert job.needs_whole_model == "calibration=self_generated"
    with pytest.raises(UserError, match="offload=disk cannot run calibration=self_generated"):
        compose(["model=tiny-llama", *JOB, "offload=disk"], multirun=False)
    with pytest.raises(UserError, match="self_generated, but model digits-cnn is"):
        compose(["model=digits-cnn", *JOB], multirun=False)
