"""Every registered method on every family of models that it takes: a new method, or a new family, is tested unasked."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.blocks.layers import prunable_layers, prunable_shapes, weight_view
from harness.job import Choice, Propagation
from harness.patterns import Channels, Pattern, SemiStructured, Structured, Unstructured
from harness.pruning.context import PruningOutcome
from harness.pruning.layer_reports import achieved_sparsity
from harness.pruning.methods.base import (
    METHODS,
    LayerwiseMethod,
    PruningMethod,
)
from harness.pruning.shares import num_kept
from tests.contexts import a_context
from tests.contracts.test_methods import check_zeros
from tests.contracts.test_shares import DEPTHS, WIDTHS
from tests.families import tiny_model
from tests.permutations import recorded_permutations

PATTERNS: tuple[Pattern, ...] = (Unstructured(0.5), SemiStructured(2, 4), Channels(0.5))
FEWEST = {"shots": 1, "rounds": 1, "steps": 1, "batch": 2, "max_correlate": 64}
"""Values of parameters that decide how long a method works, by their names."""
CPU = torch.device("cpu")
Shapes = Mapping[str, tuple[int, int]]


def fewest(name: str) -> Choice:
    """A method with its defaults, and as little work as can be."""
    parameters = {parameter.name for parameter in fields(METHODS.all()[name])}
    return Choice(name, {parameter: value for parameter, value in FEWEST.items() if parameter in parameters})


def cases() -> list[tuple[Choice, Pattern]]:
    """Every method with every pattern that it takes."""
    return [
        (fewest(name), pattern)
        for name in METHODS.all()
        for pattern in PATTERNS
        if METHODS.build(fewest(name)).refuses(pattern) is None
    ]


def label(case: object) -> str:
    """The name of a parameter in a test's id."""
    if isinstance(case, Choice):
        return "-".join([case.name, *(str(value) for key, value in case.params.items() if key not in FEWEST)])
    return str(getattr(case, "slug", case))


@cache
def dense_model(family: str) -> PreTrainedModel:
    """A model that nobody changes."""
    return tiny_model(family)


def prune(
    model: Any, choice: Choice, pattern: Pattern, rows_BL: Tensor, propagation: Propagation | None = None
) -> PruningOutcome:
    """Prune as a job does, every layer alike unless the method says otherwise, two sequences at a time.

    Args:
        propagation: the method's own if None.
    """
    method = METHODS.build(choice)
    propagation = propagation or method.propagation
    return method.run(a_context(model, rows_BL, pattern, propagation=propagation, batch_tokens=2 * rows_BL.shape[1]))


def check_masks(method: PruningMethod, pattern: Pattern, weights: Mapping[str, Tensor]) -> None:
    """Exact counts, by what the method ranks weights within: rows, layers or the model.

    Args:
        weights: every pruned weight, its columns in the order that N:M groups lie in.
    """
    zeros = {name: weight_OI == 0 for name, weight_OI in weights.items()}
    if isinstance(pattern, SemiStructured):
        for zeros_OI in zeros.values():
            assert (~zeros_OI).reshape(-1, pattern.group).sum(dim=1).unique().tolist() == [pattern.keep]
    elif isinstance(method, LayerwiseMethod) and not method.decides_layer_sparsities:
        for zeros_OI in zeros.values():
            check_zeros(method, zeros_OI, pattern)
    elif getattr(method, "granularity", "model") == "layer":
        counts = {name: int(zeros_OI.sum()) for name, zeros_OI in zeros.items()}
        assert counts == {name: int(zeros_OI.numel() * pattern.sparsity) for name, zeros_OI in zeros.items()}
    else:
        total = sum(zeros_OI.numel() for zeros_OI in zeros.values())
        assert sum(int(zeros_OI.sum()) for zeros_OI in zeros.values()) == int(total * pattern.sparsity)


def check_channels(pattern: Channels, before: Shapes, after: Shapes) -> None:
    """Every layer lost the channels asked for or none, and some did."""
    assert after != before
    for name, shape in before.items():
        for old, new in zip(shape, after[name], strict=True):
            assert new in (old, num_kept(old, pattern.ratio))


def check_pruned(dense: nn.Module, model: nn.Module, choice: Choice, pattern: Pattern, outcome: PruningOutcome) -> None:
    """What holds of a pruned model whatever it is: counts, reports, and that nothing else has changed."""
    method, shapes = METHODS.build(choice), prunable_shapes(dense)
    weights = {name: weight_view(linear) for name, linear in prunable_layers(model).items()}
    size = sum(map(math.prod, shapes.values()))
    if isinstance(pattern, Channels):
        check_channels(pattern, shapes, prunable_shapes(model))
        gone = size - sum(weight_OI.numel() for weight_OI in weights.values())
    else:
        orders = recorded_permutations(outcome.layers)
        check_masks(method, pattern, {n: w_OI[:, orders[n]] if n in orders else w_OI for n, w_OI in weights.items()})
        gone = sum(int((weight_OI == 0).sum()) for weight_OI in weights.values())
        assert {report.requested_sparsity for report in outcome.layers} == {0.5}
        assert all(0.0 < (report.relative_output_error or 0.0) < math.inf for report in outcome.layers)
    assert [(report.name, report.shape) for report in outcome.layers] == list(shapes.items())
    assert achieved_sparsity(outcome.layers) == pytest.approx(gone / size, abs=1e-12)
    before, after = dense.state_dict(), model.state_dict()
    assert {name: tensor.dtype for name, tensor in after.items()} == {name: each.dtype for name, each in before.items()}
    change = outcome.change
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed <= change.names
    assert isinstance(pattern, Channels) or {f"{name}.weight" for name in weights} <= changed
    now = prunable_shapes(model)
    assert all(shape == (shapes[name], now[name]) for name, shape in change.layers.items())
    assert set(change.layers) >= {name for name in shapes if shapes[name] != now[name]}
    assert change.keeps_shapes == (shapes == now)


@pytest.mark.parametrize(("choice", "pattern"), cases(), ids=label)
def test_every_method_prunes_every_family(
    choice: Choice, pattern: Pattern, family: str, random_tokens: Callable[..., Tensor]
) -> None:
    """Exact counts in all prunable linears of every block, reports that say what the weights are, no other parameter
    changed that the outcome does not name, and logits that are numbers.
    """
    model = copy.deepcopy(dense_model(family))
    outcome = prune(model, choice, pattern, random_tokens(3))
    check_pruned(dense_model(family), model, choice, pattern, outcome)
    with torch.no_grad():
        assert model(input_ids=random_tokens(2), use_cache=False).logits.isfinite().all()


def test_no_method_is_left_out() -> None:
    """Each has a pattern that it takes, but for the dense model, which takes none, and those that cut a share of all
    parameters alone, which have cases of their own.
    """
    of_shares = {name for name, method in METHODS.all().items() if method.patterns == (Structured,)}
    assert {choice.name for choice, _ in cases()} == set(METHODS.all()) - {"dense"} - of_shares
    assert of_shares <= {choice.name for choice in (*WIDTHS, *DEPTHS)}
