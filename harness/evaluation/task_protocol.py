"""The protocol of what is asked about the rows of one task, whatever the answers are: chosen, scored or written."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.job import EvaluationProtocol, protocol_key


@dataclass(frozen=True, slots=True)
class TaskProtocol(EvaluationProtocol):
    """One task with its prompt.

    Args:
        task: its name.
        version: of the definition that makes the prompts.
        data: identity of the rows when they are not the published ones, else None.
    """

    task: str
    version: str
    data: str | None

    @property
    def name(self) -> str:
        return self.task

    @property
    def first(self) -> int | None:
        """Only so many rows, None = all."""
        raise NotImplementedError

    @property
    def further(self) -> Sequence[str]:
        """What else decides the numbers, as the key says it."""
        return ()

    @property
    def key(self) -> str:
        first = [] if self.first is None else [f"first{self.first}"]
        return protocol_key([self.kind, self.task, *first, *self.further, f"v{self.version}"], self.data)
