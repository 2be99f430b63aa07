"""What a record says of the columns' order, read back, and a model's zeros held against it."""

import base64
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from harness.blocks.layers import prunable_linears, weight_view
from harness.patterns import Pattern, SemiStructured
from harness.record import LayerReport


def fits_groups(weight_OI: Tensor, pattern: Pattern) -> bool:
    """Whether no group has more weights that are not zero than the pattern keeps."""
    assert isinstance(pattern, SemiStructured), f"{pattern.label} has no groups"
    return bool(((weight_OI != 0).reshape(-1, pattern.group).sum(dim=1) <= pattern.keep).all())


def recorded_permutations(reports: Sequence[LayerReport]) -> dict[str, Tensor]:
    """The written-out permutations of a record's layers, by path; those of absorbed ones are in the weights.

    Raises:
        ValueError: a permutation that is none, or not the one that its sha256 names.
    """
    by_name = {report.name: report for report in reports}
    found = {}
    for report in reports:
        if report.details.get("permuted") != "virtual":
            continue
        details = by_name[str(report.details.get("permutation_of", report.name))].details
        data = base64.b64decode(str(details["permutation"]))
        order_I = torch.from_numpy(np.frombuffer(data, f"<u{int(str(details['permutation_bits'])) // 8}").astype(int))
        if hashlib.sha256(data).hexdigest() != report.details["permutation_sha256"]:
            raise ValueError(f"{report.name}: the permutation is not the one of its sha256")
        if not torch.equal(order_I.sort().values, torch.arange(report.shape[1])):
            raise ValueError(f"{report.name}: not a permutation of {report.shape[1]} columns")
        found[report.name] = order_I
    return found


def layers_that_are_not(pattern: Pattern, reports: Sequence[LayerReport], model: nn.Module) -> list[str]:
    """The layers of a saved model that do not have the N:M zeros that its record says, given its record's layers.

    Columns are taken in the order that the record has for the layer, or as they lie where it has none.
    """
    orders: Mapping[str, Tensor] = recorded_permutations(reports)
    linears = prunable_linears(model)
    wrong = []
    for report in reports:
        weight_OI = weight_view(linears[report.name])
        if report.name in orders:
            weight_OI = weight_OI[:, orders[report.name].to(weight_OI.device)]
        if not fits_groups(weight_OI, pattern):
            wrong.append(report.name)
    return wrong
