"""What a long job says while it runs, and its wall time by phase.

A bar on a terminal, a line now and then without one.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self

LINE_INTERVAL_S = 15.0


class Reporter(Protocol):
    """Receives the steps of a job."""

    def start(self, step: str, total: int) -> None:
        """A step of `total` parts begins; the one before it is over."""

    def advance(self, parts: int = 1) -> None:
        """`parts` of the step are done."""

    def note(self, text: str) -> None:
        """A line that the user must see."""


class Silent:
    """A reporter for callers that want none."""

    def start(self, step: str, total: int) -> None: ...

    def advance(self, parts: int = 1) -> None: ...

    def note(self, text: str) -> None: ...


class JobReporter:
    """Shows one job's steps on stderr, under the job's id."""

    def __init__(self, job_id: str) -> None:
        from rich import progress  # here: what only plans shows no bar
        from rich.console import Console

        self._job_id = job_id
        self._console = Console(file=sys.stderr, highlight=False)
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=20),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None)
        self._step, self._done, self._total = "", 0, 0
        self._started = self._said = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def start(self, step: str, total: int) -> None:
        self._step, self._done, self._total = step, 0, total
        self._started = self._said = time.monotonic()
        self._bar.reset(self._task, description=step, total=total)

    def advance(self, parts: int = 1) -> None:
        self._done += parts
        self._bar.advance(self._task, parts)
        now = time.monotonic()
        if self._bar.disable and now - self._said >= LINE_INTERVAL_S and self._done < self._total:
            self._said = now
            left_s = (now - self._started) / self._done * (self._total - self._done)
            self.note(f"{self._job_id}: {self._step} {self._done}/{self._total}, {left_s:.0f} s left")

    def note(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False)


class Clock:
    """Wall time in seconds by phase; that of a phase within another one counts for the inner one alone."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.seconds: dict[str, float] = {}
        self._inner = 0.0  # seconds of the phases within the current one

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start, earlier, self._inner = time.perf_counter(), self._inner, 0.0
        yield
        elapsed = time.perf_counter() - start
        self.add(phase, elapsed - self._inner)
        self._inner = earlier + elapsed

    def add(self, phase: str, seconds: float) -> None:
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    @property
    def total(self) -> float:
        return time.perf_counter() - self.started
