"""What figures draw: points of one metric of one model under one protocol, by method in its setting."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from harness.record import EvalResult
from harness.reporting.axes import pattern_name, pattern_order
from harness.reporting.frame import JobRow
from harness.reporting.layout import clean
from harness.reporting.published import natural_key
from harness.reporting.tables import in_unit, unit_of

Found = tuple[JobRow, EvalResult]

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
        return [*dict.fromkeys(point.place for point in ordered)]

    def ranks(self) -> Iterator[tuple[str, float]]:
        """Label and rank of every point among those of its place: 0 is the best, 1 the worst, 0.5 has no rival."""
        for place in self.places:
            rivals = [point for point in self.points if point.place == place]
            rivals.sort(key=lambda point: -point.value if self.higher_is_better else point.value)
            for rank, point in enumerate(rivals):
                yield point.label, rank / (len(rivals) - 1) if len(rivals) > 1 else 0.5


def panel_of(found: Sequence[Found], labels: Mapping[str, str]) -> Panel:
    """The points of one metric, model and protocol, from results with their jobs; labels: of every job by its id."""
    job, example = found[0]
    finite = [one for one in found if one[1].value is not None and math.isfinite(one[1].value)]
    notes = []
    if lost := len(found) - len(finite):
        notes.append(f"{job.model}: {lost} of {len(found)} values are infinite or missing and are not drawn")
    dense, pruned = [one for one in finite if one[0].is_dense], [one for one in finite if not one[0].is_dense]
    types = Counter(job.dtype for job, _ in pruned)  # the dense model in the type that most of the pruned ones have
    best = max(dense, key=lambda one: (types[one[0].dtype], one[0].dtype), default=None)
    points = sorted(_points(pruned, labels), key=lambda point: natural_key(point.label))
    kept = _one_a_method((point.label, point.method) for point in points)
    if left_out := len({point.label for point in points} - kept):
        notes.append(f"{job.model}: {left_out} further settings of the methods are in the table only")
    drawn = tuple(point for point in points if point.label in kept)
    unpruned = _points([best], labels)[0] if best else None
    made = Panel(job.model, example.metric, example.higher_is_better, drawn, unpruned, ())
    if beyond := sum(point.value > made.edge for point in drawn):
        notes.append(f"{job.model}: {beyond} values above {made.edge:,.0f} are drawn at it")
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


def _points(found: Iterable[Found], labels: Mapping[str, str]) -> list[Point]:
    """In order of pattern and sparsity."""
    groups: dict[tuple[str, str, float], list[Found]] = defaultdict(list)
    for job, result in found:
        groups[labels[job.job_id], job.pattern, job.sparsity].append((job, result))
    made = [_point(label, some) for (label, *_), some in groups.items()]
    return sorted(made, key=lambda point: pattern_order(point.pattern, point.sparsity))


def _point(label: str, found: Sequence[Found]) -> Point:
    job, result = found[0]
    values = [value for _, one in found if (value := in_unit(one.value, one.metric)) is not None]
    error = stdev(values) if len(values) > 1 else in_unit(result.stderr, result.metric)
    error = error if error is not None and math.isfinite(error) else None
    value, spread = fmean(values), error or 0.0
    achieved = [one.achieved_sparsity for one, _ in found if one.achieved_sparsity is not None]
    return Point(
        label=label,
        method=job.method,
        model=clean(job.model),
        pattern=job.pattern,
        sparsity=job.sparsity,
        place=pattern_name(job.pattern, job.sparsity),
        achieved=fmean(achieved or [job.sparsity]),
        value=value,
        error=error,
        low=value - spread,
        high=value + spread,
        jobs=tuple(one.job_id for one, _ in found),
    )


def quantity(metric: str) -> str:
    """A metric with its unit."""
    return f"{metric} [%]" if unit_of(metric) == "%" else metric
