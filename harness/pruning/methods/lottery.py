"""Lottery ticket: train, prune the smallest weights, rewind the others to where they started, and again.

Frankle & Carbin 2019, https://arxiv.org/abs/1803.03635.  What is left in the end, the ticket, is trained once more; it
is the outcome.  The data are the job's calibration sequences, the loss is what the model is trained on (the next token
for language models), and every training sees the same batches in the same order.  It is meant for models that can be
trained here: `model=tiny-llama`, `model=digits-cnn`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.job import Count, Positive
from harness.patterns import Pattern
from harness.pruning.context import GlobalOutcome, PruningContext
from harness.pruning.methods.base import METHODS
from harness.pruning.methods.whole_model import GlobalMethod
from harness.pruning.numerics.masks import decision_width, keep_mask, keeping, ranks_in_groups, removable

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from harness.blocks.layers import PrunableLinear


@METHODS.register("lottery")
@dataclass(frozen=True, slots=True)
class Lottery(GlobalMethod):
    """Iterative magnitude pruning with rewinding; every round prunes the same fraction of what is left.

    In an N:M pattern every group of M loses its smallest weights one after the other over at most M - N rounds.

    Args:
        rounds: trainings that are followed by pruning, >= 1; the ticket's own training comes on top.
        steps: optimiser steps of each training, >= 1.
        batch: calibration sequences a step, >= 1.
        learning_rate: of Adam, constant, > 0; 0.0012 is the paper's for its small network.
        granularity: weights ranked against each other: those of one `layer`, as in the paper's small networks, or all
            of the `model`.
        start: weights to start from and to rewind to: those of the `checkpoint`, or `random` ones as a new model of
            its configuration has them.
        train: `all` parameters, or nothing but the weights of the prunable `linears`.
        control: the paper's comparisons, trained as long as the ticket: a `random_mask` of the same sparsity, or the
            ticket's mask with new `random_weights`.
    """

    rounds: Count = 5
    steps: Count = 500
    batch: Count = 32
    learning_rate: Positive = 0.0012
    granularity: Literal["layer", "model"] = "layer"
    start: Literal["checkpoint", "random"] = "checkpoint"
    train: Literal["all", "linears"] = "all"
    control: Literal["none", "random_mask", "random_weights"] = "none"

    def without_effect(self, pattern: Pattern) -> frozenset[str]:
        if not ranks_in_groups(pattern):
            return frozenset()
        as_many = min(self.rounds, type(self)().rounds) >= removable(pattern, 0)  # a round for every weight of a group
        return frozenset({"granularity", "rounds"} if as_many else {"granularity"})

    @property
    def comparison_group(self) -> Literal["matrix", "model"]:
        return "matrix" if self.granularity == "layer" else "model"

    def prune_model(self, context: PruningContext) -> GlobalOutcome:
        from harness.blocks.changes import ModelChange
        from harness.blocks.layers import prunable_layers, weight_view
        from harness.pruning.numerics.ranking import none_removed

        model = context.model
        linears = prunable_layers(model)
        if self.start == "random":
            initialise(model, context.seed)
        beginning = {name: value.clone() for name, value in model.state_dict().items()}
        removed = none_removed({name: weight_view(linear) for name, linear in linears.items()})
        notes = []
        for number, target in enumerate(self._targets(context.pattern), 1):
            scores = None
            if self.control != "random_mask":
                loss = self._train(linears, removed, context, f"round {number}")
                notes.append(f"{_share(removed)} of the prunable weights removed: trained to a loss of {loss:.4g}")
                scores = {name: weight_view(linear).abs() for name, linear in linears.items()}
            removed = self._prune(scores or _draw(removed, context.seed + number), removed, target)
            model.load_state_dict(beginning)
        if self.control == "random_weights":
            initialise(model, context.seed + 1)
        loss = self._train(linears, removed, context, "the ticket")
        kind = {"none": "the ticket", "random_mask": "a random mask", "random_weights": "the mask on random weights"}
        notes.append(f"{_share(removed)} of the prunable weights removed: {kind[self.control]} at a loss of {loss:.4g}")
        more = self.train == "all" or self.start == "random" or self.control == "random_weights"
        return GlobalOutcome(notes=tuple(notes), change=ModelChange(tensors=frozenset(beginning if more else ())))

    def _targets(self, pattern: Pattern) -> Iterator[tuple[Pattern, float]]:
        """What every round prunes to: a pattern, and the fraction of it that is removed by then."""
        if ranks_in_groups(pattern):
            group, away = decision_width(pattern, 0), removable(pattern, 0)
            rounds = min(self.rounds, away)
            for number in range(1, rounds + 1):
                yield keeping(group - away * number // rounds, pattern), 1.0
            return
        for number in range(1, self.rounds):
            yield pattern, (1.0 - (1.0 - pattern.sparsity) ** (number / self.rounds)) / pattern.sparsity
        yield pattern, 1.0

    def _prune(
        self, scores: Mapping[str, Tensor], removed: Mapping[str, Tensor], target: tuple[Pattern, float]
    ) -> dict[str, Tensor]:
        from harness.pruning.numerics.ranking import remove_globally

        pattern, progress = target
        if ranks_in_groups(pattern):
            last = {name: scores[name].masked_fill(mask_OI, -1.0) for name, mask_OI in removed.items()}
            return {name: ~keep_mask(scores_OI, pattern, "row") for name, scores_OI in last.items()}
        if self.granularity == "model":
            return remove_globally(scores, removed, pattern, progress)
        return {
            name: remove_globally({name: scores[name]}, {name: mask_OI}, pattern, progress)[name]
            for name, mask_OI in removed.items()
        }

    def _train(
        self,
        linears: Mapping[str, PrunableLinear],
        removed: Mapping[str, Tensor],
        context: PruningContext,
        what: str,
    ) -> float:
        from harness.models.training import Schedule, train

        only = self.train == "linears"
        schedule = Schedule(self.steps, self.batch, self.learning_rate, context.seed, only_removed=only)
        context.reporter.start(f"prune: train {what}, steps", self.steps)
        masks = {linear: removed[name] for name, linear in linears.items()}
        return train(context.model, context.tokens_BL, schedule, masks, after_step=context.reporter.advance)[1]


def initialise(model: PreTrainedModel, seed: int) -> None:
    """Give the model the weights that a new model of its configuration has."""
    import copy

    import torch

    from harness.blocks.experts import split_experts

    with torch.random.fork_rng([]):  # weights are drawn on the CPU
        torch.manual_seed(seed)
        fresh = type(model)(copy.deepcopy(model.config))
    split_experts(fresh)
    model.load_state_dict(fresh.state_dict())


def _draw(removed: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Scores of a random mask."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(mask.shape, generator=generator).to(mask.device) for name, mask in removed.items()}


def _share(removed: Mapping[str, Tensor]) -> str:
    gone = sum(int(mask_OI.sum()) for mask_OI in removed.values())
    return f"{gone / sum(mask_OI.numel() for mask_OI in removed.values()):.2%}"
