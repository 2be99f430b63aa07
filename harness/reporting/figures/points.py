"""What figures draw: points of one metric of one model under one protocol, by method in its setting."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from harness.reporting.axes import pattern_order
from harness.reporting.frame import DENSE
from harness.reporting.layout import clean, unique
from harness.reporting.published import natural_key

if TYPE_CHECKING:
    import pandas as pd

MAX_SERIES = 10
"""More than this are not told apart in one axis; then every method is drawn with one of its settings."""

FARTHEST = 300
"""A perplexity so many times the least of its axis is of no model any more: it is drawn at the axis' edge."""


@dataclass(frozen=True, slots=True)
class Point:
    """The mean over jobs that differ in nothing but the seed: a row of a chart's data.

    Args:
        label: the method and what of its setting tells it apart, see `setting_labels`.
        place: the pattern with its sparsity.
        achieved: zeros counted, as a fraction.
        value: perplexity, or accuracy in percent.
        error: standard deviation over seeds, or the standard error of a single job; None when it has none.
        low, high: the value less and plus its error.
        jobs: which.
    """

    label: str
    method: str
    model: str
    pattern: str
    sparsity: float
    place: str
    achieved: float
    value: float
    error: float | None
    low: float
    high: float
    jobs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One metric of one model under one protocol.

    Args:
        points: by label, then pattern and sparsity.
        notes: what is not drawn, and why.
    """

    model: str
    metric: str
    higher_is_better: bool
    points: tuple[Point, ...]
    dense: Point | None
    notes: tuple[str, ...]

    @property
    def label(self) -> str:
        """Of the axis: metric, unit and direction."""
        return f"{quantity(self.metric)} ({'higher' if self.higher_is_better else 'lower'} is better)"

    @property
    def drawn(self) -> tuple[Point, ...]:
        """All points, the dense model's last."""
        return (*self.points, self.dense) if self.dense else self.points

    @property
    def edge(self) -> float:
        """Where the axis ends, so that a destroyed model does not press all others onto one line."""
        least = min((point.value for point in self.drawn), default=math.inf)
        return math.inf if self.higher_is_better else FARTHEST * least

    @property
    def places(self) -> list[str]:
        """Patterns of the points in the order of papers."""
        ordered = sorted(self.points, key=lambda point: pattern_order(point.pattern, point.sparsity))
        return unique([point.place for point in ordered])

    def ranks(self) -> Iterator[tuple[str, float]]:
        """Label and rank of every point among those of its place: 0 is the best, 1 the worst, 0.5 has no rival."""
        for place in self.places:
            rivals = [point for point in self.points if point.place == place]
            rivals.sort(key=lambda point: -point.value if self.higher_is_better else point.value)
            for rank, point in enumerate(rivals):
                yield point.label, rank / (len(rivals) - 1) if len(rivals) > 1 else 0.5


def panel_of(rows: "pd.DataFrame") -> Panel:
    """The points of one metric, model and protocol, from their rows of the frame with a column `label`."""
    first = rows.iloc[0]
    finite = rows["value"].map(lambda value: value is not None and math.isfinite(value))
    notes = []
    if lost := int((~finite).sum()):
        notes.append(f"{first['model']}: {lost} of {len(rows)} values are infinite or missing and are not drawn")
    rows = rows[finite]
    dense, pruned = rows[rows["method"] == DENSE], rows[rows["method"] != DENSE]
    types = Counter(pruned["dtype"])  # the dense model in the type that most of the pruned ones have
    best = max(dense["dtype"].unique(), key=lambda dtype: (types[dtype], str(dtype)), default="")
    points = sorted(_points(pruned), key=lambda point: natural_key(point.label))
    kept = _one_a_method((point.label, point.method) for point in points)
    if left_out := len({point.label for point in points} - kept):
        notes.append(f"{first['model']}: {left_out} further settings of the methods are in the table only")
    kept_points = tuple(point for point in points if point.label in kept)
    unpruned = next(iter(_points(dense[dense["dtype"] == best].head(1))), None)
    better = bool(first["higher_is_better"])
    made = Panel(str(first["model"]), str(first["metric"]), better, kept_points, unpruned, ())
    if beyond := sum(point.value > made.edge for point in kept_points):
        notes.append(f"{made.model}: {beyond} values beyond {made.edge:,.0f} are drawn as that")
    return replace(made, notes=tuple(notes))


def _one_a_method(points: Iterable[tuple[str, str]]) -> set[str]:
    """All labels of (label, method), or of too many one a method: that of most points, then the shortest."""
    count = Counter(points)
    if len(count) <= MAX_SERIES:
        return {label for label, _ in count}
    best: dict[str, str] = {}
    for label, method in sorted(count, key=lambda one: (-count[one], len(one[0]), natural_key(one[0]))):
        best.setdefault(method, label)
    return set(best.values())


def _points(rows: "pd.DataFrame") -> list[Point]:
    """In order of pattern and sparsity."""
    columns = ("label", "method", "model", "pattern", "sparsity", "achieved_sparsity", "value", "stderr", "job_id")
    groups: dict[tuple[str, str, str, str, float], list[tuple[float | None, float, float | None, str]]] = defaultdict(
        list
    )
    for *key, achieved, value, stderr, job_id in zip(*(rows[name].tolist() for name in columns), strict=True):
        groups[tuple(key)].append((achieved, value, stderr, job_id))
    factor = 1.0 if rows.empty else scale(str(rows["metric"].iloc[0]))
    made = []
    for (label, method, model, pattern, sparsity), found in groups.items():
        values = [factor * value for _, value, _, _ in found]
        counted = [achieved for achieved, *_ in found if achieved is not None and math.isfinite(achieved)]
        error = _error(values, factor, found[0][2])
        value, spread = fmean(values), error or 0.0
        where = (clean(model), pattern, sparsity, pattern_name(pattern, sparsity), fmean(counted or [sparsity]))
        ids = tuple(job_id for *_, job_id in found)
        made.append(Point(label, method, *where, value, error, value - spread, value + spread, ids))
    return sorted(made, key=lambda point: pattern_order(point.pattern, point.sparsity))


def _error(values: Sequence[float], factor: float, stderr: float | None) -> float | None:
    error = stdev(values) if len(values) > 1 else math.nan if stderr is None else factor * stderr
    return error if math.isfinite(error) else None


def scale(metric: str) -> float:
    """Accuracies are stored as fractions and drawn in percent."""
    return 1.0 if metric == "perplexity" else 100.0


def quantity(metric: str) -> str:
    """A metric with its unit."""
    return "perplexity" if metric == "perplexity" else f"{metric} [%]"


def pattern_name(pattern: str, sparsity: float) -> str:
    """`2:4`, the sparsity of an unstructured pattern, `channel 50%`."""
    share = f"{100 * sparsity:g}%"
    return pattern if ":" in pattern else share if pattern == "unstructured" else f"{pattern} {share}"
