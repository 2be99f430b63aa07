"""LLM Surgeon: Kronecker-factored curvature of the loss, one threshold for the model, several shots with updates.

van der Ouderaa et al. 2024, https://arxiv.org/abs/2312.17244.  Every shot estimates the curvature of the loss of the
model as pruned so far, removes the weights that cost least on the way to the requested sparsity (a linear schedule,
over all layers together), and moves the remaining ones to make up for all that is removed.  Damping is that of the
published scripts for unstructured and 2:4 sparsity.

Other than the published code: counts are exact; biases neither count nor change (`prune_bias=true` is the published
way); N:M is any N:M, with groups aligned whether a layer has a bias or not; single inputs and outputs without a signal
get damping like all others and are not removed beforehand.  A layer that the loss does not see at all, as behind one
that lost all its weights, costs nothing and goes next, as published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

from harness.job import Count, Positive
from harness.patterns import Pattern
from harness.pruning.context import GlobalOutcome, PruningContext
from harness.pruning.methods.base import METHODS
from harness.pruning.methods.whole_model import GlobalMethod
from harness.pruning.numerics.masks import ranks_in_groups

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from harness.blocks.layers import PrunableLinear
    from harness.pruning.numerics.kfac import Curvature

LONG_FLOP = 1e13
"""Operations of updates that are worth a warning."""


@METHODS.register("llm_surgeon")
@dataclass(frozen=True, slots=True)
class LLMSurgeon(GlobalMethod):
    """Costs are loss increases, estimated from gradients on the calibration tokens (empirical Fisher information).

    Args:
        shots: steps of the linear schedule, >= 1.
        max_correlate: most removals that one update solves for together, >= 1; a row is never split.  The time grows
            with its square.
        add_update: later updates of a layer see the weights as the earlier ones left them.
        damping_input: fraction of A's mean diagonal added to its diagonal, > 0.
        damping_gradient: the same for G.
        criterion: `surgeon`: the others make up for what is removed.  `damage`: optimal brain damage, costs are
            w^2 G_rr A_cc / 2 and the others stay.
        prune_bias: biases are a column of the weight: they count, are updated, and go as weights do (not in N:M).
    """

    shots: Count = 40
    max_correlate: Count = 2000
    add_update: bool = False
    damping_input: Positive = 0.01
    damping_gradient: Positive = 0.1
    criterion: Literal["surgeon", "damage"] = "surgeon"
    prune_bias: bool = False

    def without_effect(self, pattern: Pattern) -> frozenset[str]:
        of_updates = frozenset({"max_correlate", "add_update", "damping_input", "damping_gradient"})
        return of_updates if self.criterion == "damage" else frozenset()

    def warning(self, shapes: Mapping[str, tuple[int, int]], device: torch.device) -> str | None:
        if self.criterion == "damage":
            return None
        schedule = [0.5 * shot / self.shots for shot in range(1, self.shots + 1)]  # what a job asks for is not known
        flop = sum(_update_flop(shape, gone, self.max_correlate) for shape in shapes.values() for gone in schedule)
        if flop < LONG_FLOP:
            return None
        hours = flop * _seconds_per_flop(device) / 3600
        return (
            f"llm_surgeon updates this model in about {hours:.1f} hours on {device.type} at 50 % sparsity, from a "
            f"short trial; a pass with gradients over the calibration data in each of {self.shots} shots comes on top; "
            "fewer method.shots or a smaller method.max_correlate take less"
        )

    def prune_model(self, context: PruningContext) -> GlobalOutcome:
        from harness.blocks.changes import ModelChange
        from harness.blocks.layers import prunable_layers
        from harness.pruning.numerics.ranking import none_removed

        layers = {name: Layer(linear, self.prune_bias) for name, linear in prunable_layers(context.model).items()}
        removed = none_removed({name: layer.prunable(context.pattern) for name, layer in layers.items()})
        for shot in range(1, self.shots + 1):
            removed = self._shot(layers, removed, context, shot)
        biases = frozenset(f"{name}.bias" for name, layer in layers.items() if layer.has_bias_column)
        details = {name: self._details(layer, removed[name]) for name, layer in layers.items()}
        return GlobalOutcome(details, change=ModelChange(tensors=biases))

    def _shot(
        self, layers: Mapping[str, Layer], removed: Mapping[str, Tensor], context: PruningContext, shot: int
    ) -> dict[str, Tensor]:
        """Masks of all that is removed after this shot; the other weights have made up for it."""
        import torch
        from torch.nn import functional

        from harness.blocks.inputs import check_reached
        from harness.pruning.numerics.kfac import CurvatureObserver
        from harness.pruning.numerics.ranking import remove_globally

        batches, advance = context.batches(), context.reporter.advance
        context.reporter.start(f"prune: curvature for shot {shot} of {self.shots}, batches", len(batches))
        linears = {name: layer.linear for name, layer in layers.items()}
        observer = CurvatureObserver(linears, with_bias=self.prune_bias)  # layers' factors are scaled one at a time
        with context.clock("calibrate"):
            observer.observe(context.model, batches, context.reporter)
        check_reached(linears, observer.inputs)
        context.reporter.start(f"prune: shot {shot} of {self.shots}, layers", 2 * len(layers))
        with torch.no_grad():
            costs = {}
            for name, layer in layers.items():
                costs_OI = self.costs(layer.weight_OI, observer.factors(name))
                costs[name] = costs_OI[:, : removed[name].shape[1]]  # in N:M a bias is in no group
                advance()
            now = remove_globally(costs, removed, context.pattern, shot / self.shots)
            for name, layer in layers.items():
                weight_OI = layer.weight_OI
                mask_OI = functional.pad(now[name], (0, weight_OI.shape[1] - now[name].shape[1]))
                layer.write(self.updated(weight_OI, mask_OI, observer.factors(name)))
                advance()
        return now

    def costs(self, weight_OI: Tensor, curvature: Curvature | None) -> Tensor:
        """Estimated loss increase [O, I] of removing each weight alone: 0 where the loss does not see the layer."""
        from harness.pruning.numerics.kfac import damage_costs, surgeon_costs

        if curvature is None:
            return weight_OI.new_zeros(weight_OI.shape)
        if self.criterion == "damage":
            return damage_costs(weight_OI, curvature)
        return surgeon_costs(weight_OI, curvature.inverse(self.damping_gradient, self.damping_input))

    def updated(self, weight_OI: Tensor, removed_OI: Tensor, curvature: Curvature | None) -> Tensor:
        """The weight without the removed ones."""
        from harness.pruning.numerics.kfac import without

        if self.criterion == "damage" or curvature is None:
            return weight_OI.masked_fill(removed_OI, 0.0)
        inverse = curvature.inverse(self.damping_gradient, self.damping_input)
        return without(weight_OI, removed_OI, inverse, self.max_correlate, add_update=self.add_update)

    def _details(self, layer: Layer, removed_OI: Tensor) -> dict[str, int]:
        if not layer.has_bias_column or removed_OI.shape[1] < layer.weight_OI.shape[1]:
            return {"shots": self.shots}
        return {"shots": self.shots, "removed_biases": int(removed_OI[:, -1].sum())}


class Layer:
    """A linear whose bias, where it has one and where that is wanted, is the last column of its weight."""

    def __init__(self, linear: PrunableLinear, with_bias: bool) -> None:
        self.linear = linear
        self.has_bias_column = with_bias and linear.bias is not None

    @property
    def weight_OI(self) -> Tensor:
        """A new tensor, with the bias."""
        import torch

        from harness.blocks.layers import weight_view

        weight_OI = weight_view(self.linear)
        if not self.has_bias_column:
            return weight_OI.clone()
        assert self.linear.bias is not None, "a bias that is a column is there"
        return torch.cat([weight_OI, self.linear.bias.data[:, None]], dim=1)

    def prunable(self, pattern: Pattern) -> Tensor:
        """The part of the weight that can go: in N:M a bias is in no group."""
        weight_OI = self.weight_OI
        return weight_OI[:, :-1] if self.has_bias_column and ranks_in_groups(pattern) else weight_OI

    def write(self, weight_OI: Tensor) -> None:
        """Put a new weight, with the bias, in the place of the old."""
        from harness.blocks.layers import weight_view

        if self.has_bias_column:
            assert self.linear.bias is not None, "a bias that is a column is there"
            self.linear.bias.data.copy_(weight_OI[:, -1])
            weight_OI = weight_OI[:, :-1]
        weight_view(self.linear).copy_(weight_OI)


def _update_flop(shape: tuple[int, int], sparsity: float, max_correlate: int) -> float:
    """Of one update of one layer: a factorisation a pack, two inverses, and the products with them."""
    rows, columns = shape
    removed = rows * columns * sparsity
    pack = max(columns * sparsity, min(max_correlate, removed))
    solves = removed / pack * (pack**3 / 3 + 2 * pack**2)
    return solves + rows**3 + columns**3 + 2 * rows * columns * (rows + columns)


@cache
def _seconds_per_flop(device: torch.device) -> float:
    """Of a factorisation in float64."""
    import torch

    from harness.pruning.numerics.speed import seconds_of

    size = 1024
    matrix = torch.eye(size, dtype=torch.float64, device=device).add_(0.5 / size)
    return seconds_of(lambda: torch.linalg.cholesky(matrix).sum()) / (size**3 / 3)
