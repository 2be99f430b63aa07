"""What a recovery is: what is done to a pruned model before it is measured.

A recovery is a frozen dataclass of its hyperparameters and has no state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from harness.blocks.changes import ModelChange
from harness.job import Count, Positive
from harness.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from harness.blocks.layers import PrunableLinear
    from harness.models.kinds.base import Objective
    from harness.models.loading import LoadedModel
    from harness.progress import Reporter

NO_RECOVERY = "none"
"""The recovery that leaves the pruned weights as they are."""


@dataclass(frozen=True, slots=True)
class RecoveryContext:
    """What a recovery works on.

    Args:
        model: pruned; changed in place.
        rows_BL: the sequences that it is trained on, the calibration's or its own.
        seed: of the job, for whatever the recovery draws.
        device: where the model is trained.
        batch_tokens: most tokens in one forward pass of the dense model, >= 1.
        teacher: the dense model, its blocks given out by its offloading; None where the recovery asks for none.
        tokens: the most that training may see in all its steps, not less than those of one step; None = all steps.
        kept: file in which the state of the training outlives a process that is killed; None = it does not.
    """

    model: PreTrainedModel
    rows_BL: Tensor
    seed: int
    device: torch.device
    reporter: Reporter
    batch_tokens: int
    teacher: LoadedModel | None = None
    tokens: int | None = None
    kept: Path | None = None


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a recovery did.

    Args:
        change: of the pruned model.
        note: a line for the record.
    """

    change: ModelChange
    note: str


class Training(NamedTuple):
    """How many tokens a recovery sees, when no budget ends it, in one step and in all of them."""

    step: int
    all_steps: int


@dataclass(frozen=True, slots=True)
class Recovery(ABC):
    """Base of all recoveries.

    Attributes:
        needs_teacher: whether it looks at the dense model, which is then opened before the pruning.
        changes_model: whether it does anything; one that does needs the whole model in memory.
    """

    needs_teacher: ClassVar[bool] = False
    changes_model: ClassVar[bool] = True

    def training(self, num_sequences: int, seq_len: int) -> Training | None:
        """What it sees of so many sequences; None where it counts no tokens, and can keep to no budget of them."""
        return None

    @abstractmethod
    def recover(self, context: RecoveryContext) -> Recovered:
        """Recover the model in place, on the context's device, where it stays.

        Raises:
            ArithmeticError: the loss is not finite any more.
        """


@dataclass(frozen=True, slots=True)
class MaskedTraining(Recovery):
    """What trains the weights of the prunable layers that pruning left; its fields are those of every such recovery."""

    steps: Count = 200
    batch: Count = 64
    learning_rate: Positive = 0.001

    def training(self, num_sequences: int, seq_len: int) -> Training:
        step = min(self.batch, num_sequences) * seq_len
        return Training(step, self.steps * step)

    def trained(self, context: RecoveryContext, rows_BL: Tensor, objective: Objective | None, how: str) -> Recovered:
        """Train the model in place and in float32, within the budget: Adam, with the masks applied after every step.

        Args:
            rows_BL: what batches are drawn from.
            objective: what is minimised on them; None = what the model is trained on.
            how: for the record.
        """
        from harness.blocks.layers import prunable_shapes
        from harness.models.objective import in_float32
        from harness.models.training import Schedule, train

        model, (step, all_steps) = context.model, self.training(*context.rows_BL.shape)
        steps = min(all_steps, context.tokens or all_steps) // step
        model.to(context.device)  # type: ignore[arg-type]  # transformers annotates `to` with another signature
        schedule = Schedule(steps, self.batch, self.learning_rate, context.seed, only_removed=True, kept=context.kept)
        with in_float32(model), self.learnt(model, context.seed) as removed:
            context.reporter.start("recover: train under the masks, steps", steps)
            first, last = train(
                model,
                rows_BL,
                schedule,
                removed,
                after_step=context.reporter.advance,
                objective=objective,
            )
        seen = "" if context.tokens is None else f" on {steps * step:,} of at most {context.tokens:,} tokens"
        note = f"{how}{seen} under its masks from a loss of {first:.4g} to {last:.4g}"
        change = ModelChange.of_weights(prunable_shapes(model))
        return Recovered(change, f"{note}; the layers' output errors are those before it")

    @contextmanager
    def learnt(self, model: nn.Module, seed: int) -> Iterator[dict[PrunableLinear, Tensor]]:
        """The linears whose weights learn, each with the mask [O, I] of those that stay zero.

        Args:
            seed: of new weights, where there are any.
        """
        from harness.blocks.layers import prunable_layers, weight_view

        yield {linear: weight_view(linear) == 0 for linear in prunable_layers(model).values()}


RECOVERIES: Registry[type[Recovery]] = Registry("recovery", "harness.recovery")
"""Recoveries by name."""
