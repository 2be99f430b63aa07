"""The properties of every method, read from its class."""

import re
import sys

from harness.patterns import Channels, SemiStructured, Structured, Unstructured
from harness.pruning.methods.base import (
    METHODS,
    DepthMethod,
    GlobalMethod,
    LayerwiseMethod,
    PruningMethod,
    StructuredMethod,
    TracedMethod,
)
from harness.reporting.properties import Properties

PATTERN_NAMES = {Unstructured: "unstructured", SemiStructured: "N:M", Channels: "channel", Structured: "structured"}
COSTS = {"InputHessian": "O(d³)"}
"""What a statistic of a layer of width d costs to use; every other one is looked up weight by weight."""


def method_properties() -> list[Properties]:
    """Every method but the dense model, by name."""
    return [_properties(name, method) for name, method in METHODS.all().items() if method.patterns]


def _properties(name: str, method: type[PruningMethod]) -> Properties:
    return Properties(
        method=name,
        patterns=", ".join(PATTERN_NAMES.get(kind, kind.__name__) for kind in method.patterns),
        weight_update=_yes_no(method.updates_weights),
        calibration_data=_yes_no(bool(_needs(method)) or issubclass(method, GlobalMethod | DepthMethod)),
        statistics=", ".join(_words(kind.__name__) for kind in _needs(method)),
        ranked_within=_ranked_within(method),
        gradients=_yes_no(method.uses_gradients),
        complexity=_complexity(method),
        idea=_idea(method),
    )


def _idea(method: type[PruningMethod]) -> str:
    """The first line of the method's file, without addresses."""
    line = (sys.modules[method.__module__].__doc__ or "").strip().splitlines()[0]
    return re.sub(r"[,\s]*https?://[^\s)]*", "", line)


def _needs(method: type[PruningMethod]) -> tuple[type, ...]:
    return method.needs if issubclass(method, LayerwiseMethod | StructuredMethod) else ()


def _ranked_within(method: type[PruningMethod]) -> str:
    """The weights or channels that compete in an unstructured or structured pattern, with the method's defaults."""
    if issubclass(method, StructuredMethod):
        return "channels of a block" if method.scope == "block" else "model"
    if issubclass(method, LayerwiseMethod | GlobalMethod):
        return method().comparison_group
    return "model"


def _complexity(method: type[PruningMethod]) -> str:
    if issubclass(method, GlobalMethod | DepthMethod):
        return "passes over the model"
    if issubclass(method, TracedMethod):
        return "O(d_out d_in³)"
    costs = sorted({COSTS.get(kind.__name__, "O(d²)") for kind in _needs(method)})
    return " to ".join(costs) or "O(1)"


def _words(name: str) -> str:
    """`FeatureNorm` -> `feature norm`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"
