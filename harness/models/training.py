"""Training a model under masks: weights that are removed have no gradient and stay zero."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from harness.blocks.layers import PrunableLinear
from harness.models.kinds.base import Objective
from harness.models.objective import objective_of, trainable
from harness.models.training_state import TrainingState


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a model is trained: Adam at one rate, on batches drawn without replacement, pass after pass.

    Args:
        steps: optimiser steps, >= 1.
        batch: calibration rows a step, >= 1.
        learning_rate: > 0.
        seed: of the order of the rows and of dropout; equal seeds make equal batches.
        only_removed: nothing but the weights of the linears that have a mask changes; the model is then in evaluation
            mode, so that running statistics stay, and dropout is off.
        kept: file that the state is kept in now and then, and taken up from where it is there; None = it is not.
    """

    steps: int
    batch: int
    learning_rate: float
    seed: int
    only_removed: bool = False
    kept: Path | None = None


def train(
    model: nn.Module,
    rows_BL: Tensor,
    schedule: Schedule,
    removed: Mapping[PrunableLinear, Tensor],
    *,
    after_step: Callable[[], None],
    objective: Objective | None = None,
) -> tuple[float, float]:
    """Train `model` in place; the mean losses of the first and of the last tenth of the steps.

    Args:
        rows_BL: calibration rows, on any device.
        removed: boolean masks [O, I] of the weights of linears that are zero all the time.
        after_step: called after every step.
        objective: what is minimised, given rows; None = what models of this kind are trained on.

    Raises:
        ArithmeticError: the loss is not finite any more.
    """
    objective, device = objective or objective_of(model), next(model.parameters()).device
    weights = [(linear.weight, _as_stored(linear, mask_OI)) for linear, mask_OI in removed.items()]
    _hold_at_zero(weights)
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        _training(model, [weight for weight, _ in weights] if schedule.only_removed else None),
    ):
        torch.manual_seed(schedule.seed)
        learnt = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.Adam(learnt, lr=schedule.learning_rate)
        begun = (schedule, rows_BL.tolist())
        state = None if schedule.kept is None else TrainingState(schedule.kept, learnt, optimizer, begun)
        losses = [] if state is None else state.resumed()
        done = len(losses)
        for number, batch in zip(range(schedule.steps), _batches(rows_BL, schedule), strict=False):
            if number < done:
                after_step()
                continue
            optimizer.zero_grad()
            loss = objective(model, batch.to(device))
            loss.backward()
            for weight, mask in weights:
                if weight.grad is not None:
                    weight.grad.masked_fill_(mask, 0.0)
            optimizer.step()
            _hold_at_zero(weights)
            losses.append(float(loss.detach()))
            if not abs(losses[-1]) < float("inf"):
                raise ArithmeticError(f"the loss is {losses[-1]} at step {len(losses)}; a lower learning rate may help")
            if state is not None:
                state.keep(losses)
            after_step()
    tenth = max(1, len(losses) // 10)
    return sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth


def _as_stored(linear: PrunableLinear, mask_OI: Tensor) -> Tensor:
    """A matrix as `weight_view` shows it, in the form that the layer stores its weight in."""
    return mask_OI.T if isinstance(linear, Conv1D) else mask_OI.reshape(linear.weight.shape)


def _hold_at_zero(weights: list[tuple[Tensor, Tensor]]) -> None:
    for weight, mask in weights:
        weight.data.masked_fill_(mask, 0.0)


def _batches(rows_BL: Tensor, schedule: Schedule) -> Iterator[Tensor]:
    """Batches without end: rows in random order, and in another one every time they are used up."""
    generator = torch.Generator().manual_seed(schedule.seed)
    size = min(schedule.batch, len(rows_BL))
    while True:
        order = torch.randperm(len(rows_BL), generator=generator)
        for chosen in order[: len(order) // size * size].split(size):
            yield rows_BL[chosen]


@contextmanager
def _training(model: nn.Module, only: list[Tensor] | None) -> Iterator[None]:
    """Gradients, and the mode that goes with what is trained; afterwards evaluation mode, in which models are kept."""
    chosen = None if only is None else {id(weight) for weight in only}
    ids = {name: id(weight) for name, weight in model.named_parameters()}
    model.train(only is None)
    try:
        with trainable(model, lambda name: chosen is None or ids[name] in chosen):
            yield
    finally:
        model.eval()
