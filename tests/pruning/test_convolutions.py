"""The walk over blocks that change the shape of what they are given, against plain forward passes of the model."""

import copy
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from harness.blocks.layers import (
    PrunableLinear,
    decoder_blocks,
    input_rows,
    prunable_layers,
    prunable_linears,
    weight_view,
)
from harness.data.corpora.digits import digit_rows
from harness.job import Propagation
from harness.models.digits import DigitsCnn, DigitsConfig
from harness.patterns import Unstructured
from harness.pruning.methods.venum import Venum
from harness.pruning.numerics.masks import keep_mask
from tests.contexts import a_context

PATTERN = Unstructured(0.6)


def _note_norms(norms: dict[str, Tensor], name: str, layer: PrunableLinear, args: tuple[Tensor, ...]) -> None:
    norms[name] = input_rows(layer, args[0]).norm(dim=0)


def expected(model: DigitsCnn, rows: Tensor, propagation: Propagation) -> DigitsCnn:
    """Block after block: the inputs of its layers in the dense block behind a pruned (or the dense) prefix, by a hook
    in a forward pass of the whole model; within each row the smallest |W| · ||X|| go.
    """
    dense, pruned = copy.deepcopy(model), copy.deepcopy(model)
    for index in range(len(decoder_blocks(model)[1])):
        watched = dense if propagation == "dense" else pruned
        norms: dict[str, Tensor] = {}
        layers = prunable_linears(decoder_blocks(watched)[1][index])
        handles = [layer.register_forward_pre_hook(partial(_note_norms, norms, name)) for name, layer in layers.items()]
        watched(rows)
        for handle in handles:
            handle.remove()
        for name, layer in prunable_linears(decoder_blocks(pruned)[1][index]).items():
            weight_OI = weight_view(layer)
            weight_OI.mul_(keep_mask(weight_OI.abs() * norms[name], PATTERN, "row"))
    return pruned


@pytest.mark.parametrize("propagation", ["pruned", "dense"])
@torch.no_grad()
def test_a_network_is_walked_block_by_block(propagation: Propagation) -> None:
    """Masks are those of the plain procedure, whatever the batches; reports have the flattened shapes and errors that
    the patches give.
    """
    torch.manual_seed(0)
    model = DigitsCnn(DigitsConfig(widths=(4, 8), inner_widths=(4, 8), hidden_width=8)).eval()
    rows = torch.from_numpy(digit_rows("calibration")[:7].copy())
    wanted, dense = expected(model, rows, propagation), copy.deepcopy(model.blocks[0].conv_a)
    outcome = Venum().run(a_context(model, rows, PATTERN, propagation=propagation, batch_tokens=3 * 65))
    for (name, layer), other in zip(prunable_layers(model).items(), prunable_layers(wanted).values(), strict=True):
        assert torch.equal(layer.weight, other.weight), name
    assert [report.shape for report in outcome.layers] == [(4, 36), (4, 36), (8, 36), (8, 72), (8, 32), (10, 8)]
    stem = functional.relu(wanted.norm(wanted.stem(rows[:, :64].view(-1, 1, 8, 8) / 16)))
    rows_TI = input_rows(dense, stem)
    change = rows_TI @ (weight_view(dense) - weight_view(wanted.blocks[0].conv_a)).T
    error = float(change.norm() / (rows_TI @ weight_view(dense).T).norm())
    assert outcome.layers[0].error_tokens == len(rows_TI) == 7 * 64
    assert outcome.layers[0].relative_output_error == pytest.approx(error, rel=1e-4)
