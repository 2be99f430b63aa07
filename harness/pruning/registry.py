"""The table of pruning methods; every file in `harness/pruning/methods` adds itself."""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from typing import TypeVar, get_args, get_type_hints

from harness.errors import UserError, unknown
from harness.job import Choice, Scalar
from harness.pruning import methods as methods_package
from harness.pruning.methods.base import PruningMethod

METHODS: dict[str, type[PruningMethod]] = {}
MethodT = TypeVar("MethodT", bound=type[PruningMethod])


def register(name: str) -> Callable[[MethodT], MethodT]:
    """Class decorator that makes a method known under `name`."""

    def add(method: MethodT) -> MethodT:
        assert name not in METHODS, f"two methods are called {name!r}"
        METHODS[name] = method
        return method

    return add


@cache
def load_methods() -> dict[str, type[PruningMethod]]:
    """Import every method file once; all methods by name."""
    for module in pkgutil.iter_modules(methods_package.__path__):
        importlib.import_module(f"{methods_package.__name__}.{module.name}")
    return dict(sorted(METHODS.items()))


def build_method(choice: Choice) -> PruningMethod:
    """The method that a job names, with its hyperparameters.

    Raises:
        UserError: unknown method or hyperparameter, or a value of the wrong type or out of range.
    """
    methods = load_methods()
    if choice.name not in methods:
        raise unknown("method", choice.name, methods)
    method = methods[choice.name]
    hints = get_type_hints(method)
    allowed = {field.name: hints[field.name] for field in fields(method)}
    for name, value in choice.params.items():
        if name not in allowed:
            raise unknown(f"parameter of method {choice.name}", name, allowed or ["(it has none)"])
        _check_type(f"method.{name}", value, allowed[name])
    return method(**choice.params)


def _check_type(name: str, value: Scalar, hint: type) -> None:
    choices = get_args(hint)
    if choices and value not in choices:
        raise unknown(name, value, choices)
    accepted = (int, float) if hint is float else hint
    if not choices and (not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool)):
        raise UserError(f"{name}={value!r} is not of type {hint.__name__}")
