"""A few tokens taken through a loaded language model: what every job relies on is tried before hours are spent."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.blocks.experts import is_routed
from harness.blocks.layers import decoder_blocks, leave_out, prunable_linears
from harness.blocks.offload import InMemory, Offloading
from harness.blocks.runner import BlockRunner
from harness.errors import UserError

LENGTH = 8
"""Tokens of a rehearsed sequence."""


@torch.no_grad()
def rehearse(name: str, model: PreTrainedModel, offloading: Offloading) -> None:
    """See that a model is causal and is the sequence of its blocks; leave out linears that it does not call.

    Two sequences that share their first token go from block to block.  That token is put back in front of every block,
    so that no rounding adds up: where a block then makes something else of it, the block sees later tokens.

    Raises:
        UserError: it is not causal, or the blocks, one after the other, say something else than the whole model.
    """
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding), "token ids go through an embedding"
    ids_BL = torch.arange(3, 3 + 2 * LENGTH).view(2, LENGTH) % embedding.num_embeddings
    ids_BL[1, 0] = ids_BL[0, 0]
    batches = list(ids_BL.split(1))
    runner = BlockRunner(model, batches, offloading, torch.device("cpu"))
    called: list[set[str]] = []
    _check_causal(name, model, runner.hidden)
    for step in runner.rest():
        with _called(step.block) as names:
            step.hand_on()
        called.append(names)
        _check_causal(name, model, step.hidden)
        first_1LH, other_1LH = step.hidden
        other_1LH[:, 0] = first_1LH[:, 0]
    _leave_out(decoder_blocks(model)[1], called)
    if isinstance(offloading, InMemory):
        with runner.returning(runner.hidden[0]):
            by_blocks_1LV = model(input_ids=batches[0], use_cache=False).logits
        if _differ(model(input_ids=batches[0], use_cache=False).logits, by_blocks_1LV):
            raise UserError(
                f"model {name} is more than its blocks, one after the other: a {type(model).__name__} passes on "
                "something beside their hidden state; allowed: models whose blocks need nothing else"
            )


def _check_causal(name: str, model: nn.Module, hidden: Any) -> None:
    first_1LH, other_1LH = hidden
    if _differ(first_1LH[:, 0], other_1LH[:, 0]):
        raise UserError(
            f"model {name} sees the future: in this {type(model).__name__} a later token changes what is made of an "
            "earlier one, so that next tokens are no secret to it; allowed: a causal language model"
        )


def _differ(one: Tensor, other: Tensor) -> bool:
    """Whether two results are further apart than rounding takes those of one computation."""
    apart = (one.float() - other.float()).norm()
    return bool(apart > 0.1 * torch.finfo(one.dtype).eps ** 0.5 * one.float().norm())


@contextmanager
def _called(block: nn.Module) -> Iterator[set[str]]:
    """The linears of a block that are called in the body."""
    names: set[str] = set()
    handles = [
        linear.register_forward_pre_hook(lambda *_, name=name: names.add(name))
        for name, linear in prunable_linears(block).items()
    ]
    try:
        yield names
    finally:
        for handle in handles:
            handle.remove()


def _leave_out(blocks: nn.ModuleList, called: list[set[str]]) -> None:
    """Each weight is pruned once, where it is called first; one of an expert that had no token yet, where it is first.

    What is no expert and is not called has its weight read by other code, which no statistic sees, or is not used.
    """
    paths = {
        (index, path): id(linear.weight)
        for index, block in enumerate(blocks)
        for path, linear in prunable_linears(block).items()
    }
    calls = [key for key in paths if key[1] in called[key[0]]]
    may_call = [key for key in paths if is_routed(blocks[key[0]], key[1])]
    owner: dict[int, tuple[int, str]] = {}
    for key in (*calls, *may_call):
        owner.setdefault(paths[key], key)
    for index, block in enumerate(blocks):
        leave_out(block, {path for of, path in paths if of == index and owner.get(paths[of, path]) != (of, path)})
