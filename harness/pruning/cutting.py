"""Channels and heads are cut out of one block, and its layers shrink; a report of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from harness.blocks.changes import ModelChange
from harness.blocks.layers import prunable_linears, weight_view
from harness.calibration.statistics import Statistics
from harness.errors import UserError
from harness.patterns import Unit
from harness.pruning.context import PruningOutcome
from harness.pruning.layer_reports import NewLayer, layer_report
from harness.pruning.sequential import ObservedBlock, sample_of
from harness.record import JsonValue
from harness.surgery.channels import add_bias, cut, cuts_cleanly, linear_at, slices_of
from harness.surgery.dependencies import DependencyGroup

if TYPE_CHECKING:  # methods reach this module through their kind
    from harness.pruning.methods.structured import StructuredMethod


@dataclass(frozen=True, slots=True)
class Candidates:
    """The weights of C channels or heads that some layers of a block make and one layer reads, without biases.

    Args:
        unit: what one of them is.
        slices: [C, M, I] of every layer that makes them: M rows each; and last [C, K, O] of the one that reads them: K
            columns each.
        columns_CK: which features of the consumer's input these are, to look its statistics up by.
        are_maps: whether convolutions make the channels.
        made_from: statistics of the inputs of the layers that make them.
        gradients: of the loss, laid out as `slices` are: its mean over the calibration sequences, and the mean of its
            square; as many as the method asks for.
    """

    unit: Unit
    slices: tuple[Tensor, ...]
    columns_CK: Tensor
    are_maps: bool = False
    made_from: tuple[Statistics, ...] = ()
    gradients: tuple[tuple[Tensor, ...], ...] = ()

    @property
    def producers(self) -> tuple[Tensor, ...]:
        """The rows [C, M, I] of every layer that makes them."""
        return self.slices[:-1]

    @property
    def consumer_COK(self) -> Tensor:
        """[c, :, k] is what reads the k-th feature of channel or head c."""
        return self.slices[-1].transpose(1, 2)


class Adapted(NamedTuple):
    """Importances [C] of every group of every block, and what training for the cut did to the model before it."""

    importances: Sequence[Sequence[Tensor]]
    outcome: PruningOutcome


@dataclass(frozen=True, slots=True)
class Cut:
    """What of one dependency group stays.

    Args:
        kept_C: numbers of the channels or heads that stay, ascending.
        requested: fraction of them that was to go.
        stats: of the consumer's input.
    """

    group: DependencyGroup
    kept_C: Tensor
    requested: float
    stats: Statistics


def candidates(
    observed: ObservedBlock, group: DependencyGroup, gradients: Sequence[Mapping[str, Tensor]] = ()
) -> Candidates:
    """What a method ranks: the channels or heads of one dependency group.

    Args:
        gradients: [O, I] by path in the block.
    """
    block, path, statistics = observed.step.block, observed.step.path, observed.statistics
    weights = {name: weight_view(linear_at(block, name)) for name in (*group.producers, group.consumer)}
    return Candidates(
        group.unit,
        slices_of(group, weights),
        group.columns_CK.to(next(block.parameters()).device),
        any(isinstance(block.get_submodule(name), nn.Conv2d) for name in group.producers),
        tuple(statistics[f"{path}.{name}"] for name in group.producers),
        tuple(slices_of(group, each) for each in gradients),
    )


def cut_block(method: StructuredMethod, observed: ObservedBlock, cuts: Iterable[Cut]) -> PruningOutcome:
    """Cut channels and heads out of a block; what was cut is made up for as the method has it.

    Args:
        cuts: taken one at a time, so that the next one may be decided in the block that is already cut.

    Raises:
        UserError: the block's own code needs what is to go.
    """
    block, path, probe = observed.step.block, observed.step.path, observed.probe
    assert probe is not None, "blocks that are cut have probes"
    linears = prunable_linears(block)
    dense = {name: weight_view(linear) for name, linear in linears.items()}
    inputs = {name: group for group in observed.groups for name in group.names}
    change, added, columns = ModelChange(), dict[str, Tensor](), dict[str, Tensor]()
    details: dict[str, Mapping[str, JsonValue]] = {}
    requested: dict[str, float] = {}
    shrunk: set[str] = set()
    for each in cuts:
        consumer = each.group.consumer
        requested |= dict.fromkeys((*each.group.producers, consumer), each.requested)
        if len(each.kept_C) == each.group.num_channels:
            continue
        shrunk.update(each.group.producers)
        if not cuts_cleanly(block, probe, each.group, each.kept_C):
            raise UserError(
                f"{path}.{consumer}: the model needs {each.group.unit}s that no layer reads; allowed: other models"
            )
        columns[consumer] = each.group.columns_CK[each.kept_C].reshape(-1).sort().values
        repair = method.compensation(dense[consumer], columns[consumer], each.stats)
        change = change.then(cut(block, each.group, each.kept_C))
        details[consumer] = repair.details
        if repair.weight_OK is not None:
            weight_view(linears[consumer]).copy_(repair.weight_OK)
        if repair.bias_O is not None:
            added[consumer] = repair.bias_O
            change = change.then(add_bias(block, consumer, repair.bias_O))
    reports = [
        layer_report(
            f"{path}.{name}",
            dense[name],
            NewLayer(weight_view(linear), columns.get(name), added.get(name)),
            None if name in shrunk else sample_of(inputs[name]),
            requested.get(name, 0.0),
            {"shape_left": list(weight_view(linear).shape), **details.get(name, {})},
        )
        for name, linear in linears.items()
    ]
    return PruningOutcome(reports, change.below(path))
