"""What a method is given to prune a model with, and what it says afterwards."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from harness.blocks.changes import ModelChange
from harness.progress import Clock, Reporter, Silent

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from harness.blocks.offload import Offloading
    from harness.blocks.trial import Trials
    from harness.job import Propagation
    from harness.patterns import Pattern
    from harness.pruning.allocations.base import Allocation
    from harness.record import JsonValue, LayerReport

FoundT = TypeVar("FoundT")


class CalibrationCache(Protocol):
    """What was found once, for later jobs of the model that have the same calibration."""

    def __call__(self, key: Hashable, find: Callable[[], FoundT], /) -> FoundT:
        """What is cached under `key`, found now if nothing is."""
        ...


def _nothing_cached(key: Hashable, find: Callable[[], FoundT]) -> FoundT:
    return find()


def _nothing_held_out(num_sequences: int) -> Trials:
    raise AssertionError(f"the context gives no {num_sequences} held-out sequences")


@dataclass(frozen=True, slots=True)
class PruningOutcome:
    """What pruning did to a model or one of its blocks.

    Args:
        layers: reports in model order.
        notes: lines for the record.
        share_gone: fraction of all parameters of the model that were cut out, where that was asked for.
    """

    layers: Sequence[LayerReport] = ()
    change: ModelChange = field(default_factory=ModelChange)
    notes: tuple[str, ...] = ()
    share_gone: float | None = None

    def then(self, later: PruningOutcome) -> PruningOutcome:
        """This outcome and a later one as one."""
        share = self.share_gone if later.share_gone is None else later.share_gone
        notes = (*self.notes, *later.notes)
        return PruningOutcome([*self.layers, *later.layers], self.change.then(later.change), notes, share)


@dataclass(frozen=True, slots=True)
class PruningContext:
    """A model that is to be pruned, and all that decides how.

    Args:
        model: dense; changed in place.
        offloading: gives out the blocks of `model`.
        tokens_BL: calibration sequences, all of one length, as the model takes them for `input_ids`.
        pattern: what was asked for, of the whole model.
        propagation: where the inputs of the next block come from.
        device: where a block, or for a global method the whole model, is computed.
        batch_tokens: most tokens in one forward pass, >= 1; at least one sequence is run at a time.
        seed: of the job, for whatever the method draws.
        clock: told how long was spent on what: `calibrate`, `allocate` or `prune`.
        allocation: spreads the sparsity over the layers; None = all have the pattern.
        held_out: makes what measures candidates, on at most that many held-out sequences (a classifier: on all): by the
            mean negative log-likelihood a token of a language model, the share of wrong answers of an image classifier.
        cache: of what does not depend on the requested pattern.
        caches_statistics: whether there is memory for the statistics of other jobs.
        saves: whether the model will be saved, so that its configuration must be able to say what became of it.
    """

    model: PreTrainedModel
    offloading: Offloading
    tokens_BL: Tensor
    pattern: Pattern
    propagation: Propagation
    device: torch.device
    batch_tokens: int
    seed: int = 0
    reporter: Reporter = field(default_factory=Silent)
    clock: Clock = field(default_factory=Clock)
    allocation: Allocation | None = None
    held_out: Callable[[int], Trials] = _nothing_held_out
    cache: CalibrationCache = _nothing_cached
    caches_statistics: bool = False
    saves: bool = False

    @property
    def refining_allocation(self) -> Allocation | None:
        """The allocation, where it has a say once a block was observed."""
        return self.allocation if self.allocation is not None and self.allocation.refines else None

    @property
    def observed_tokens(self) -> int:
        """Most tokens in one forward pass of a block that is observed: an allocation that refines learns from one
        sequence at a time.
        """
        return self.batch_tokens if self.refining_allocation is None else 1

    def batches(self) -> list[Tensor]:
        """The calibration sequences in parts of at most `batch_tokens`, on the device."""
        from harness.blocks.runner import in_batches

        return [part_BL.to(self.device) for part_BL in in_batches(self.tokens_BL, self.batch_tokens)]


@dataclass(frozen=True, slots=True)
class GlobalOutcome:
    """What a global method says of the weights that it left in the model.

    Args:
        details: facts for the layers' reports, by path in the model.
        notes: lines for the record, of what concerns the whole model.
        change: of all but the values of the prunable linears' weights: other tensors, and what was cut.
    """

    details: Mapping[str, Mapping[str, JsonValue]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    change: ModelChange = field(default_factory=ModelChange)
