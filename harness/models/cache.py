"""What was computed for a loaded model and can be used again: token windows, encoders, statistics of a calibration."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

ValueT = TypeVar("ValueT")


class Cache(dict[Hashable, Any]):
    """Values by what they were made from; beside them those of one scope, such as one calibration."""

    def __init__(self) -> None:
        super().__init__()
        self._scope: Hashable = None
        self._in_scope: dict[Hashable, Any] = {}

    def of(self, key: Hashable, make: Callable[[], ValueT], *, scope: Hashable = None) -> ValueT:
        """The value under `key`, made now if there is none.

        Args:
            scope: for what is large: its values go when those of another scope are asked for.  Statistics of one
                calibration are of no use to jobs that have another.
        """
        if scope is not None and self._scope != scope:
            self._scope, self._in_scope = scope, {}
        values = self if scope is None else self._in_scope
        if key not in values:
            values[key] = make()
        return cast("ValueT", values[key])
