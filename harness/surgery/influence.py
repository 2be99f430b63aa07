"""What the rows of one layer change in the inputs of all others: found by scaling them on a copy of the block."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harness.blocks.layers import PrunableLinear, prunable_linears, weight_view

Run = Callable[[nn.Module], Tensor]
"""Runs a float32 block on one fixed input; its output."""

UNCHANGED = 1e-5  # of the largest input: less is rounding


def scratch_copy(block: nn.Module) -> nn.Module:
    """A float32 copy to try things on: in half precision rounding looks like a change."""
    return copy.deepcopy(block).float().eval()


class Influence:
    """A block whose rows are scaled to see what follows; the block itself is left as it is.

    Attributes:
        linears, norms: prunable linears and batch normalisations of the copy that is tried on, by path.
    """

    def __init__(self, block: nn.Module, run: Run) -> None:
        self._block, self._run = scratch_copy(block), run
        self.linears = prunable_linears(self._block)
        self.norms = {name: part for name, part in self._block.named_modules() if isinstance(part, _BatchNorm)}
        self._before = self._inputs()

    def of_rows(self, name: str, scale_R: Tensor) -> dict[str, Tensor | None]:
        """Which features of every linear's input change when the rows of one layer are scaled, by the linear's path.

        None stands for an input that has another shape then, or that is there in neither case: tokens were routed
        otherwise, or none to an expert.
        """
        tensors = row_tensors(self._block.get_submodule(name)).values()
        kept = [tensor_R.clone() for tensor_R in tensors]
        for tensor_R in tensors:
            tensor_R.mul_(scale_R.view(-1, *[1] * (tensor_R.dim() - 1)).to(tensor_R))
        try:
            now = self._inputs()
        finally:
            for tensor_R, old_R in zip(tensors, kept, strict=True):
                tensor_R.copy_(old_R)
        return {linear: _changed(self._before.get(linear), now.get(linear)) for linear in self.linears}

    def num_rows(self, name: str) -> int:
        return len(next(iter(row_tensors(self._block.get_submodule(name)).values())))

    def _inputs(self) -> dict[str, Tensor]:
        """The inputs [N, J] that the linears are given, by path."""
        with _watched(self.linears) as seen:
            self._run(self._block)
        return {name: torch.cat(parts) for name, parts in seen.items()}


def row_tensors(part: nn.Module) -> dict[str, Tensor]:
    """Views of a linear's or normalisation's tensors that have one row an output, [O, ...] by name."""
    weight = weight_view(part) if isinstance(part, PrunableLinear) else part.weight
    named = {"weight": weight} | {name: getattr(part, name, None) for name in ("bias", "running_mean", "running_var")}
    return {name: tensor.data for name, tensor in named.items() if isinstance(tensor, Tensor)}


def num_inputs(linear: PrunableLinear) -> int:
    """Features of a linear's input; channels of a convolution's."""
    return linear.in_channels if isinstance(linear, nn.Conv2d) else weight_view(linear).shape[1]


def _changed(old_NJ: Tensor | None, new_NJ: Tensor | None) -> Tensor | None:
    if old_NJ is None or new_NJ is None or new_NJ.shape != old_NJ.shape:
        return None
    return ((new_NJ - old_NJ).abs().amax(dim=0) > UNCHANGED * old_NJ.abs().max()).cpu()


@contextmanager
def _watched(linears: Mapping[str, PrunableLinear]) -> Iterator[dict[str, list[Tensor]]]:
    """The inputs that the layers are given inside the body, by path, a tensor a call."""
    seen: dict[str, list[Tensor]] = {}

    def watcher(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].movedim(1, -1) if isinstance(module, nn.Conv2d) else args[0]
            seen.setdefault(name, []).append(x.reshape(-1, x.shape[-1]).clone())

        return hook

    handles = [linear.register_forward_pre_hook(watcher(name)) for name, linear in linears.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
