"""A candidate change of a model, tried without being made: some blocks are given out otherwise than they are."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from harness.blocks.layers import prunable_linears, weight_view
from harness.blocks.offload import Offloading


class BlockEdit(Protocol):
    """What a candidate makes of one block; two that are equal make the same."""

    @contextmanager
    def applied_to(self, block: nn.Module) -> Iterator[nn.Module]:
        """What is run in the place of `block`, for the time of the body; the block is dense again afterwards."""
        ...


Edits = Mapping[int, BlockEdit]
"""A candidate: its edits by index of the block; all other blocks are as they are."""


class Trials(Protocol):
    """How good a model is with a candidate: the lower, the better."""

    def __call__(self, edits: Edits, base: Edits = {}) -> float:  # noqa: B006  # nobody writes to it
        """The loss with `edits` on top of those of `base`, of which there may be some in the same block.

        What comes in front of the first edit is kept from one candidate to the next with the same base: candidates that
        go through the model from front to back compute half of it on average.
        """
        ...


@runtime_checkable
class SampledTrials(Trials, Protocol):
    """Trials on windows of text, some of which may be drawn."""

    @property
    def shape(self) -> tuple[int, int]:
        """How many windows there are, and how many tokens each has."""
        ...

    def on(self, windows: Sequence[int], tokens: int) -> Trials:
        """Trials on the first so many tokens of these windows alone, each predicted token counting the same."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class OtherWeights:
    """Other weights [O, I] in some linears, by path in the block and on any device."""

    weights: Mapping[str, Tensor]

    @contextmanager
    def applied_to(self, block: nn.Module) -> Iterator[nn.Module]:
        linears = prunable_linears(block)
        dense = {name: linears[name].weight.data for name in self.weights}
        try:
            for name, trial_OI in self.weights.items():
                linears[name].weight.data = dense[name].clone()
                weight_view(linears[name]).copy_(trial_OI)
            yield block
        finally:
            for name, old in dense.items():
                linears[name].weight.data = old


@dataclass(frozen=True, slots=True)
class Skipped:
    """The block hands on its input."""

    @contextmanager
    def applied_to(self, block: nn.Module) -> Iterator[nn.Module]:
        yield _Identity()


class _Identity(nn.Module):
    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states


class Edited:
    """The blocks of a model as a candidate has them; the blocks themselves are never written to."""

    def __init__(self, dense: Offloading, edits: Edits) -> None:
        self._dense, self._edits = dense, edits

    @contextmanager
    def block(self, index: int, device: torch.device, *, writes: bool = False) -> Iterator[nn.Module]:
        assert not writes, "a candidate is only measured"
        with self._dense.block(index, device) as block:
            if index not in self._edits:
                yield block
                return
            with self._edits[index].applied_to(block) as edited:
                yield edited

    def activations(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        return self._dense.activations(shape, dtype, device)

    def save(self, folder: Path) -> None:
        raise AssertionError("a candidate is only measured")
