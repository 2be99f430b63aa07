"""What a figure is: a function from the records' data to charts, known under a name.

A figure of one's own is one file, in this folder or in one that ``report --plugins DIR`` names::

    @FIGURES.register("seconds")
    def seconds(data: Data) -> Iterator[Picture | NotDrawn]:
        yield Picture("seconds", altair.Chart(data.frame).mark_bar().encode(x="seconds", y="method"))
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from harness.registry import Registry
from harness.reporting.figures.data import Data
from harness.reporting.figures.look import Spec, with_datasets

if TYPE_CHECKING:
    import altair


@dataclass(frozen=True, slots=True)
class Picture:
    """One drawn figure.

    Args:
        name: of its files, without ending.
        chart: a row of its data that has `job`, or a list `jobs`, belongs to these jobs: the page hides it with them.
    """

    name: str
    chart: "Spec | altair.TopLevelMixin"

    def spec(self) -> Spec:
        """The chart as Vega-Lite; what no Vega-Lite can say is found when it is drawn."""
        return with_datasets(self.chart if isinstance(self.chart, dict) else self.chart.to_dict(validate=False))


@dataclass(frozen=True, slots=True)
class NotDrawn:
    """A figure that the records do not allow, and why."""

    name: str
    why: str


Figure: TypeAlias = Callable[[Data], Iterator[Picture | NotDrawn]]

FIGURES: Registry[Figure] = Registry("figure", "harness.reporting.figures")
