"""The properties of every method, as its class declares them."""

import re
import sys

from harness.pruning.methods.base import METHODS, PruningMethod
from harness.reporting.properties import Properties


def method_properties() -> list[Properties]:
    """Every method but the dense model, by name, with its defaults."""
    return [_properties(name, method()) for name, method in METHODS.all().items() if method.patterns]


def _properties(name: str, method: PruningMethod) -> Properties:
    return Properties(
        method=name,
        patterns=", ".join(kind.choice for kind in method.patterns),
        weight_update=_yes_no(method.updates_weights),
        calibration_data=_yes_no(method.reads_data),
        statistics=", ".join(_words(kind.__name__) for kind in method.needs),
        ranked_within=method.comparison_group,
        gradients=_yes_no(method.uses_gradients),
        complexity=method.complexity,
        idea=_idea(type(method)),
    )


def _idea(method: type[PruningMethod]) -> str:
    """The first line of the method's file, without addresses."""
    line = (sys.modules[method.__module__].__doc__ or "").strip().splitlines()[0]
    return re.sub(r"[,\s]*https?://[^\s)]*", "", line)


def _words(name: str) -> str:
    """`FeatureNorm` -> `feature norm`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"
