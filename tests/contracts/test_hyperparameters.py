"""Hyperparameters of every axis are held against the types and ranges of their fields when a choice is built."""

import math
from typing import Any

import pytest

from harness.errors import UserError
from harness.job import Choice
from harness.pruning.allocations.base import ALLOCATIONS
from harness.pruning.methods.base import METHODS
from harness.recovery.base import RECOVERIES
from harness.registry import Registry

AXES: dict[str, Registry[Any]] = {table.axis: table for table in (METHODS, ALLOCATIONS, RECOVERIES)}
OUT_OF_RANGE = {
    "method.adaprune.tolerance": (0.0, math.nan),
    "method.adaprune.steps": (0,),
    "method.adaprune.learning_rate": (-1.0,),
    "method.dsnot.max_cycles": (-1,),
    "method.dsnot.update_threshold": (-0.1,),
    "method.dsnot.variance_power": (math.inf, 9.0, -1.0),
    "method.llm_surgeon.shots": (0,),
    "method.llm_surgeon.max_correlate": (0,),
    "method.llm_surgeon.damping_input": (0.0,),
    "method.llm_surgeon.damping_gradient": (math.inf,),
    "method.lottery.rounds": (0,),
    "method.lottery.steps": (0,),
    "method.lottery.batch": (0,),
    "method.lottery.learning_rate": (-1.0,),
    "method.obc.rel_damp": (-0.1, math.nan, math.inf),
    "method.random.seed": (-1,),
    "method.ria.activation_power": (-0.5, math.inf, math.nan),
    "method.evopress-depth.survivors": (0,),
    "method.evopress-depth.trial_tokens": (0,),
    "method.shortened.protect_first": (-0.1, 1.0),
    "method.shortened.held_out": (0,),
    "method.sleb.held_out": (0,),
    "method.sleb.first": (-1,),
    "method.sleb.last": (-1,),
    "method.sparsegpt.damping": (0.0, -1.0, math.nan, math.inf),
    "method.sparsegpt.block_size": (0,),
    "allocation.alphapruning.epsilon": (-0.1, 1.0, math.nan),
    "allocation.besa.penalty": (-1.0,),
    "allocation.besa.epochs": (0,),
    "allocation.besa.d_coef": (0.0,),
    "allocation.owl.outlier_threshold": (0.0,),
    "allocation.owl.width": (0.0, 0.6),
    "allocation.sensitivity.tolerance": (-1.0,),
    "allocation.sensitivity.held_out": (0,),
    "recovery.distill.temperature": (0.0,),
    "recovery.lora.alpha": (0,),
    "recovery.lora.rank": (0, 2.5),
    "recovery.masked_finetune.steps": (0, "many", True, None, 2.5),
    "recovery.masked_finetune.batch": (0,),
    "recovery.masked_finetune.learning_rate": (-1.0, 10**400),
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in OUT_OF_RANGE.items() for value in values]
)
def test_values_out_of_range_are_refused(field: str, value: object) -> None:
    """In one line, which names the parameter, its value and what is allowed."""
    axis, entry, name = field.split(".")
    with pytest.raises(UserError) as caught:
        AXES[axis].build(Choice(entry, {name: value}))  # type: ignore[dict-item]
    line = str(caught.value)
    assert line.startswith(f"{axis}.{name}=")
    assert " is not allowed; allowed: " in line
    assert "\n" not in line
    assert len(line) < 200


@pytest.mark.parametrize(
    ("axis", "choice", "line"),
    [
        (
            "method",
            Choice("sparsegpt", {"block_size": 0}),
            "method.block_size=0 is not allowed; allowed: block_size >= 1",
        ),
        (
            "method",
            Choice("ria", {"activation_power": math.nan}),
            "activation_power=nan is not allowed; allowed: a finite",
        ),
        ("allocation", Choice("owl", {"width": 0.6}), "allocation.width=0.6 is not allowed; allowed: width <= 0.5"),
        (
            "allocation",
            Choice("besa", {"smoothing": "tanh"}),
            "smoothing=tanh is not allowed; allowed: none or sigmoid",
        ),
        ("recovery", Choice("distill", {"steps": True}), "recovery.steps=true is not allowed; allowed: an integer"),
    ],
)
def test_the_line_says_what_is_allowed(axis: str, choice: Choice, line: str) -> None:
    """The bound, the words, or the type."""
    with pytest.raises(UserError) as caught:
        AXES[axis].build(choice)
    assert line in str(caught.value)


def test_whole_numbers_are_numbers() -> None:
    """5 and 5.0 are one setting of a field that takes fractions."""
    built = RECOVERIES.build(Choice("distill", {"temperature": 5}))
    assert isinstance(built.temperature, float)  # type: ignore[attr-defined]
    assert built == RECOVERIES.build(Choice("distill", {"temperature": 5.0}))
