"""Candidates: the loss with edits is that of a model that has them, whatever was kept of the candidates before."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.blocks.layers import decoder_blocks, weight_view
from harness.blocks.offload import InMemory
from harness.blocks.runner import BlockRunner
from harness.blocks.trial import Edits, OtherWeights, Skipped
from harness.evaluation.perplexity import TrialLoss
from tests.families import tiny_model

CPU = torch.device("cpu")
ZEROS = OtherWeights({"mlp.down_proj": torch.zeros(32, 48)})


def expected(edits: Edits, tokens_BL: Tensor) -> float:
    """The mean loss of a model that was made to be so, by its own forward pass."""
    model: Any = tiny_model("llama-gqa", num_hidden_layers=4)
    blocks = decoder_blocks(model)[1]
    for index, edit in edits.items():
        if isinstance(edit, Skipped):
            blocks[index].forward = lambda hidden_states, *_, **__: hidden_states  # type: ignore[assignment]
        else:
            weight_view(blocks[index].get_submodule("mlp.down_proj")).zero_()  # type: ignore[arg-type]
    with torch.no_grad():
        logits = model(input_ids=tokens_BL).logits[:, :-1]
    return float(nn.functional.cross_entropy(logits.flatten(0, 1), tokens_BL[:, 1:].flatten()))


CANDIDATES: list[tuple[Edits, Edits]] = [
    ({}, {}),
    ({1: Skipped()}, {}),
    ({2: Skipped()}, {1: Skipped()}),
    ({3: Skipped()}, {1: Skipped()}),
    ({3: ZEROS}, {1: Skipped()}),
    ({3: ZEROS}, {}),
    ({3: Skipped()}, {0: ZEROS, 1: Skipped()}),
    ({2: ZEROS, 3: Skipped()}, {0: ZEROS}),
    ({0: Skipped()}, {3: ZEROS}),
]


@pytest.mark.parametrize("shift", range(len(CANDIDATES)))
def test_a_candidate_is_measured_as_if_it_were_made(shift: int, random_tokens: Callable[..., Tensor]) -> None:
    """In every order of candidates, with and without a base; the model is dense afterwards."""
    model: Any = tiny_model("llama-gqa", num_hidden_layers=4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tokens_BL = random_tokens(3)
    trial = TrialLoss(model, InMemory(model), tokens_BL, batch_tokens=24, device=CPU)
    for edits, base in CANDIDATES[shift:] + CANDIDATES[:shift]:
        assert trial(edits, base) == pytest.approx(expected({**base, **edits}, tokens_BL), rel=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_is_in_front_of_the_edits_is_computed_once(
    random_tokens: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Candidates from front to back on one base: every block in front runs once in all."""
    model: Any = tiny_model("llama-gqa", num_hidden_layers=4)
    trial = TrialLoss(model, InMemory(model), random_tokens(2), batch_tokens=48, device=CPU)
    made, ran = itertools.count(), itertools.count()
    init, next_block = BlockRunner.__init__, BlockRunner.next_block

    def counted(self: BlockRunner, *args: Any) -> None:
        next(made)
        init(self, *args)

    def stepped(self: BlockRunner, **options: bool) -> Any:
        next(ran)
        return next_block(self, **options)

    monkeypatch.setattr(BlockRunner, "__init__", counted)
    monkeypatch.setattr(BlockRunner, "next_block", stepped)
    for index in (1, 2, 3):
        trial({index: Skipped()}, {0: ZEROS})
    assert next(made) == 1
    assert next(ran) == 3 + (3 + 2 + 1)  # once up to the last candidate's edit, and every candidate to the end
