"""The tables of pruning methods and allocations; every file in their folders adds itself."""

import importlib
import math
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from types import ModuleType
from typing import Any, TypeVar, get_args, get_type_hints

from harness.errors import UserError, unknown
from harness.job import Choice, Scalar
from harness.pruning import allocations as allocations_package
from harness.pruning import methods as methods_package
from harness.pruning.allocations.base import Allocation
from harness.pruning.methods.base import PruningMethod

METHODS: dict[str, type[PruningMethod]] = {}
ALLOCATIONS: dict[str, type[Allocation]] = {}
MethodT = TypeVar("MethodT", bound=type[PruningMethod])
AllocationT = TypeVar("AllocationT", bound=type[Allocation])
EntryT = TypeVar("EntryT")


def register(name: str) -> Callable[[MethodT], MethodT]:
    """Class decorator that makes a method known under `name`."""

    def add(method: MethodT) -> MethodT:
        _add(METHODS, "method", name, method)
        return method

    return add


def register_allocation(name: str) -> Callable[[AllocationT], AllocationT]:
    """Class decorator that makes an allocation known under `name`."""

    def add(allocation: AllocationT) -> AllocationT:
        _add(ALLOCATIONS, "allocation", name, allocation)
        return allocation

    return add


@cache
def load_methods() -> dict[str, type[PruningMethod]]:
    """Import every method file once; all methods by name."""
    _import_all(methods_package)
    return dict(sorted(METHODS.items()))


@cache
def load_allocations() -> dict[str, type[Allocation]]:
    """Import every allocation file once; all allocations by name."""
    _import_all(allocations_package)
    return dict(sorted(ALLOCATIONS.items()))


def build_method(choice: Choice) -> PruningMethod:
    """The method that a job names, with its hyperparameters.

    Raises:
        UserError: unknown method or hyperparameter, or a value of the wrong type or out of range.
    """
    return build_entry("method", load_methods(), choice)


def build_allocation(choice: Choice) -> Allocation:
    """The allocation that a job names, with its hyperparameters.

    Raises:
        UserError: unknown allocation or hyperparameter, or a value of the wrong type or out of range.
    """
    return build_entry("allocation", load_allocations(), choice)


def _add(table: dict[str, type[EntryT]], axis: str, name: str, entry: type[EntryT]) -> None:
    assert name not in table, f"two {axis}s are called {name!r}"
    table[name] = entry


def _import_all(package: ModuleType) -> None:
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def build_entry(axis: str, table: Mapping[str, type[EntryT]], choice: Choice) -> EntryT:
    """The dataclass of a table that a choice names, with its hyperparameters.

    Raises:
        UserError: unknown name or hyperparameter, or a value of the wrong type or out of range.
    """
    if choice.name not in table:
        raise unknown(axis, choice.name, table)
    entry: Any = table[choice.name]
    hints = get_type_hints(entry)
    allowed = {field.name: hints[field.name] for field in fields(entry)}
    params = dict(choice.params)
    for name, value in params.items():
        if name not in allowed:
            raise unknown(f"parameter of {axis} {choice.name}", name, allowed or ["(it has none)"])
        _check_type(f"{axis}.{name}", value, allowed[name])
        if isinstance(value, int) and allowed[name] is float:
            params[name] = _as_float(f"{axis}.{name}", value)
    built: EntryT = entry(**params)
    for name in params:
        if isinstance(value := getattr(built, name), float) and not math.isfinite(value):
            raise UserError(f"{axis}.{name}={value:g} is not allowed; allowed: a finite number")
    return built


def _as_float(name: str, value: int) -> float:
    """5 and 5.0 are one setting."""
    try:
        return float(value)
    except OverflowError as error:
        raise UserError(f"{name} has {len(str(value))} digits; allowed: a finite number") from error


def _check_type(name: str, value: Scalar, hint: type) -> None:
    choices = get_args(hint)
    if choices and value not in choices:
        raise unknown(name, value, choices)
    accepted = (int, float) if hint is float else hint
    if not choices and (not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool)):
        raise UserError(f"{name}={value!r} is not of type {hint.__name__}")
