"""The table of an axis: every file of its package, and of plug-ins, adds an entry by itself.

An axis (methods, allocations, recoveries, evaluations, ...) is one `Registry`.  Its entries come from three places: the
modules of its own package, installed distributions that name a module under the entry point ``prunebench.plugins``, and
files in folders that the configuration names (`load_folder`).
"""

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from harness.errors import UserError, refused, unknown

if TYPE_CHECKING:
    from harness.job import Choice

ENTRY_POINTS = "prunebench.plugins"
"""Group of the entry points; each names a module, which registers what it has when it is imported."""

EntryT = TypeVar("EntryT")
OneT = TypeVar("OneT")


class Registry(Generic[EntryT]):
    """Entries of one axis by name.

    Args:
        axis: what one entry is called, as the configuration spells it, e.g. ``method``.
        package: dotted name of the package whose modules register themselves.
    """

    def __init__(self, axis: str, package: str) -> None:
        self.axis = axis
        self._package = package
        self._entries: dict[str, EntryT] = {}
        self._origins: dict[str, str] = {}
        self._is_loaded = False

    def register(self, name: str) -> Callable[[OneT], OneT]:
        """Decorator that makes a class or function known under `name`."""

        def add(entry: OneT) -> OneT:
            self.add(name, entry)  # type: ignore[arg-type]  # a decorator hands back the very type that it was given
            return entry

        return add

    def add(self, name: str, entry: EntryT) -> None:
        """Make `entry` known under `name`.

        Raises:
            UserError: another entry has this name.
        """
        if name in self._entries:
            raise UserError(f"two entries of the axis {self.axis} are called {name!r}; allowed: another name")
        self._entries[name] = entry
        if _LOADING and not _registering_module().startswith("harness."):  # a plug-in may import modules of ours first
            self._origins[name] = _LOADING[-1]

    def origin_note(self, name: str) -> str | None:
        """The plug-in that an entry came from, in words for a record; None for one of our own."""
        origin = self._origins.get(name)
        return None if origin is None else f"{self.axis} {name} is of the plug-in {origin}"

    def all(self) -> dict[str, EntryT]:
        """All entries by name, in alphabetical order; modules and plug-ins are imported once."""
        if not self._is_loaded:
            self._is_loaded = True
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._package}.{module.name}")
            _load_entry_points()
        return dict(sorted(self._entries.items()))

    def get(self, name: str) -> EntryT:
        """The entry of that name.

        Raises:
            UserError: there is none.
        """
        known = self.all()
        if name not in known:
            raise unknown(self.axis, name, known)
        return known[name]

    def build(self: "Registry[type[OneT]]", choice: "Choice") -> OneT:
        """The dataclass that a choice names, with its hyperparameters held against its fields' types and ranges.

        Raises:
            UserError: unknown name or hyperparameter, or a value of the wrong type or out of range.
        """
        entry: Any = self.get(choice.name)
        allowed = _parameters(entry)
        params = {}
        for name, value in choice.params.items():
            if name not in allowed:
                raise unknown(f"parameter of {self.axis} {choice.name}", name, allowed or ["(it has none)"])
            try:
                params[name] = _values_of(allowed[name]).validate_python(value)  # 5 and 5.0 are one setting
            except ValidationError as error:
                raise refused(f"{self.axis}.{name}", error.errors()[0]) from error
        built: OneT = entry(**params)
        return built


@cache
def _parameters(entry: type[Any]) -> dict[str, Any]:
    """The types of a dataclass's fields, with what is said of their ranges."""
    hints = get_type_hints(entry, include_extras=True)
    return {field.name: hints[field.name] for field in fields(entry)}


def load_folder(folder: Path) -> None:
    """Import every Python file of a folder once, so that what it registers is known.

    Raises:
        UserError: no such folder, or a file that cannot be imported.
    """
    if not folder.is_dir():
        raise UserError(f"plugins={folder} is not a folder; allowed: a folder of Python files")
    for file in _python_files(folder.resolve()):
        name = f"prunebench_plugins.{file.stem}"
        known = sys.modules.get(name)
        if known is not None:
            if getattr(known, "__file__", None) != str(file):
                raise UserError(f"plugins: {file} and {known.__file__} have one name; allowed: another file name")
            continue
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None, f"{file} ends in .py"  # noqa: PT018
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up while they are made
        try:
            with _loading(f"{file.name}, {_digest(file)}"):
                spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise UserError(f"plugins: {file} cannot be imported: {type(error).__name__}: {error}") from error


def _python_files(folder: Path) -> Iterator[Path]:
    yield from (file for file in sorted(folder.glob("*.py")) if not file.name.startswith("_"))


@cache
def _load_entry_points() -> None:
    for entry_point in entry_points(group=ENTRY_POINTS):
        spec = importlib.util.find_spec(entry_point.module)
        of = f"{entry_point.dist.name} {entry_point.dist.version}" if entry_point.dist else "a distribution"
        file = f", {_digest(Path(spec.origin))}" if spec and spec.origin else ""
        with _loading(f"{entry_point.module} of {of}{file}"):
            entry_point.load()


_LOADING: list[str] = []
"""The plug-in whose module is being imported, if any: what is registered now is of it."""


@contextmanager
def _loading(origin: str) -> Iterator[None]:
    _LOADING.append(origin)
    try:
        yield
    finally:
        _LOADING.pop()


def _registering_module() -> str:
    """The module whose code adds an entry now."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals["__name__"] == __name__:
        frame = frame.f_back
    assert frame is not None, "somebody adds entries"
    return str(frame.f_globals["__name__"])


def _digest(file: Path) -> str:
    return f"sha256:{sha256(file.read_bytes()).hexdigest()}"


@cache
def _values_of(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=ConfigDict(strict=True, allow_inf_nan=False))
