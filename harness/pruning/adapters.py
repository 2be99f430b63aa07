"""Adapters of low rank are trained while channels and heads are switched off: how LoRAPrune finds what goes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from harness.blocks.changes import ModelChange
from harness.blocks.layers import PrunableLinear, decoder_blocks, prunable_linears, weight_view
from harness.models.objective import in_float32, objective_of, trainable
from harness.pruning.context import PruningContext, PruningOutcome
from harness.pruning.cutting import Adapted
from harness.pruning.numerics.lora_gradients import progress, sensitivity
from harness.surgery.channels import slices_of

if TYPE_CHECKING:
    from harness.pruning.methods.loraprune import LoraPrune
    from harness.pruning.shares import Cuttable
    from harness.surgery.dependencies import DependencyGroup


SMOOTHING = 0.9
CLIPPED = 1.0


@dataclass(slots=True, eq=False)
class Adapter:
    """B A of one linear, and which of its outputs are on; called behind the linear's forward pass.

    Args:
        a_RI, b_OR: what is trained.
        scale: of their product.
        on_O: 1 = on, 0 = switched off.
    """

    linear: PrunableLinear
    a_RI: Tensor
    b_OR: Tensor
    scale: float
    on_O: Tensor

    @classmethod
    def of(cls, linear: PrunableLinear, rank: int, alpha: int, generator: torch.Generator) -> Adapter:
        """As LoRA begins: A is drawn, B is zero."""
        weight_OI = weight_view(linear)
        rows, columns = weight_OI.shape
        a_RI = (torch.rand(rank, columns, generator=generator) * 2 - 1) / math.sqrt(columns)
        b_OR = weight_OI.new_zeros((rows, rank))
        return cls(
            linear, a_RI.to(b_OR).requires_grad_(), b_OR.requires_grad_(), alpha / rank, weight_OI.new_ones(rows)
        )

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return (output + self.scale * (args[0] @ self.a_RI.T @ self.b_OR.T)) * self.on_O

    @torch.no_grad()
    def sensitivity(self) -> Tensor:
        """S [O, I] by the gradients of the step."""
        weight_OI, gradients = weight_view(self.linear), (self.a_RI.grad, self.b_OR.grad)
        if gradients[0] is None or gradients[1] is None:  # of an expert that no token was sent to
            return torch.zeros_like(weight_OI)
        return sensitivity(weight_OI, (self.a_RI, self.b_OR), (gradients[0], gradients[1]), self.scale)

    @torch.no_grad()
    def merge(self) -> None:
        """Add the product to the weight."""
        weight_view(self.linear).add_(self.b_OR @ self.a_RI, alpha=self.scale)


@torch.no_grad()
def group_importance(group: DependencyGroup, sensitivities: Mapping[str, Tensor]) -> Tensor:
    """What every channel or head of a group counts at one step [C].

    Args:
        sensitivities: S [O, I] of the layers of its block, by path in it.
    """
    of_layers = [each_CMI.sum(dim=(1, 2)) for each_CMI in slices_of(group, sensitivities)]
    return torch.stack([layer_C / (layer_C.norm() + 1e-8) for layer_C in of_layers]).sum(dim=0)


@dataclass(slots=True, eq=False)
class Candidate:
    """A dependency group on its way to the cut.

    Args:
        adapters: of the linears of its block, by path in it.
        going: how many of it are to go.
        mean_C: the running mean of their importance.
        on_C: 0 = switched off.
    """

    group: DependencyGroup
    adapters: Mapping[str, Adapter]
    going: int
    mean_C: Tensor
    on_C: Tensor

    def see(self, sensitivities: Mapping[str, Tensor]) -> None:
        """Another step; one whose gradients are no numbers does not count."""
        now_C = group_importance(self.group, sensitivities)
        if now_C.isfinite().all():
            self.mean_C = SMOOTHING * self.mean_C + (1 - SMOOTHING) * now_C

    @property
    def ranking_C(self) -> Tensor:
        """By which they stay: what is switched off comes first."""
        return self.mean_C * self.on_C

    def switch_off(self, part: float) -> None:
        """So much of what is to go is off, rounded down; nothing is switched on again."""
        lowest = self.ranking_C.sort(stable=True).indices[: int(self.going * part)]
        self.on_C[lowest] = 0.0
        for name, rows_CM in self.group.producers.items():
            self.adapters[name].on_O[rows_CM[lowest.cpu()].flatten().to(self.on_C.device)] = 0.0


def trained_importances(
    method: LoraPrune,
    context: PruningContext,
    found: Sequence[Sequence[Cuttable]],
    counts: Sequence[Sequence[int]],
) -> Adapted:
    """Train adapters of a model's blocks and add them to its weights; the importance [C] of every group then.

    Args:
        found: what can be cut, by block; counts: how many of each stay.

    Raises:
        ArithmeticError: the loss is not finite any more.
    """
    model = context.model
    model.to(context.device)  # type: ignore[arg-type]  # transformers annotates `to` with another signature
    with in_float32(model), trainable(model, lambda _: False), context.clock("prune"):
        with _adapted(method, context) as adapters:
            blocks = [
                [_candidate(each, kept, of_block) for each, kept in zip(groups, of_group, strict=True)]
                for groups, of_group, of_block in zip(found, counts, adapters, strict=True)
            ]
            first, last = _train(method, context, adapters, blocks)
        prefix = decoder_blocks(model)[0]
        shapes: dict[str, tuple[int, int]] = {}
        for index, of_block in enumerate(adapters):
            for name, adapter in of_block.items():
                adapter.merge()
                rows, columns = weight_view(adapter.linear).shape
                shapes[f"{prefix}.{index}.{name}"] = rows, columns
    note = (
        f"adapters of rank {method.rank} were trained from a loss of {first:.4g} to {last:.4g} and added to the weights"
    )
    importances = [[each.ranking_C for each in block] for block in blocks]
    return Adapted(importances, PruningOutcome(change=ModelChange.of_weights(shapes), notes=(note,)))


@contextmanager
def _adapted(method: LoraPrune, context: PruningContext) -> Iterator[list[dict[str, Adapter]]]:
    """The adapters of every block's linears, by path in it, at work for the time of the body."""
    generator = torch.Generator().manual_seed(context.seed)
    adapters = [
        {
            name: Adapter.of(linear, method.rank, method.alpha, generator)
            for name, linear in prunable_linears(block).items()
        }
        for block in decoder_blocks(context.model)[1]
    ]
    handles = [each.linear.register_forward_hook(each) for of_block in adapters for each in of_block.values()]
    try:
        yield adapters
    finally:
        for handle in handles:
            handle.remove()


def _candidate(each: Cuttable, kept: int, adapters: Mapping[str, Adapter]) -> Candidate:
    like, count = weight_view(adapters[each.group.consumer].linear), each.group.num_channels
    return Candidate(each.group, adapters, count - kept, like.new_zeros(count), like.new_ones(count))


def _train(
    method: LoraPrune,
    context: PruningContext,
    adapters: Sequence[Mapping[str, Adapter]],
    blocks: Sequence[Sequence[Candidate]],
) -> tuple[float, float]:
    """The loss of the first and of the last step."""
    weights = [weight for of_block in adapters for each in of_block.values() for weight in (each.a_RI, each.b_OR)]
    optimizer = torch.optim.AdamW(weights, lr=method.learning_rate, weight_decay=0.0)
    losses = []
    context.reporter.start("prune: train adapters, steps", method.steps)
    for step, batch_BL in enumerate(_batches(method, context), start=1):
        losses.append(_backward(context, batch_BL))
        nn.utils.clip_grad_norm_(weights, CLIPPED)
        for of_block, candidates in zip(adapters, blocks, strict=True):
            if candidates:
                sensitivities = {name: each.sensitivity() for name, each in of_block.items()}
                for candidate in candidates:
                    candidate.see(sensitivities)
        for group in optimizer.param_groups:
            group["lr"] = method.learning_rate * (1 - (step - 1) / method.steps)
        optimizer.step()
        optimizer.zero_grad()
        if step % method.every == 0 or step == method.steps:
            for candidate in (each for candidates in blocks for each in candidates):
                candidate.switch_off(1.0 if step == method.steps else progress(step, method.steps))
        context.reporter.advance()
    return losses[0], losses[-1]


def _batches(method: LoraPrune, context: PruningContext) -> Iterator[Tensor]:
    """Of every step, drawn without replacement, pass after pass."""
    rows_BL, generator = context.tokens_BL, torch.Generator().manual_seed(context.seed)
    size = min(method.batch, len(rows_BL))
    order: list[int] = []
    for _ in range(method.steps):
        if len(order) < size:
            order = torch.randperm(len(rows_BL), generator=generator).tolist()
        yield rows_BL[order[:size]].to(context.device)
        order = order[size:]


def _backward(context: PruningContext, batch_BL: Tensor) -> float:
    """The mean loss of a batch, whose gradients are added up; as many tokens at a time as a pass may have."""
    from harness.blocks.runner import in_batches

    objective, total = objective_of(context.model), 0.0
    for part_BL in in_batches(batch_BL, context.batch_tokens):
        loss = objective(context.model, part_BL) * (len(part_BL) / len(batch_BL))
        loss.backward()
        total += float(loss.detach())
    if not math.isfinite(total):
        raise ArithmeticError("the loss is not finite any more; allowed: a smaller method.learning_rate")
    return total
