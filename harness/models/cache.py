"""What jobs made for a loaded model and later jobs can use again."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

KeptT = TypeVar("KeptT")


class Kept(dict[Hashable, Any]):
    """Things by what they were made from; beside them the large ones of one scope, such as one calibration."""

    def __init__(self) -> None:
        super().__init__()
        self._scope: Hashable = None
        self._within: dict[Hashable, Any] = {}

    def keep(self, key: Hashable, make: Callable[[], KeptT]) -> KeptT:
        """What was kept under `key`, made now if nothing was."""
        if key not in self:
            self[key] = make()
        return cast("KeptT", self[key])

    def keep_within(self, scope: Hashable, key: Hashable, make: Callable[[], KeptT]) -> KeptT:
        """What was kept under `key` in this scope, made now if nothing was; another scope's things are let go.

        For what is large: statistics of one calibration are of no use to jobs that have another.
        """
        if self._scope != scope:
            self._scope, self._within = scope, {}
        if key not in self._within:
            self._within[key] = make()
        return cast("KeptT", self._within[key])
