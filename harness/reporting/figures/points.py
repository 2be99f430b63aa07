"""What figures draw: points of one metric of one model under one protocol, by method in its setting."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from harness.record import EvalResult
from harness.reporting.axes import pattern_name, pattern_order
from harness.reporting.frame import JobRow
from harness.reporting.layout import clean
from harness.reporting.published import natural_key
from harness.reporting.tables import in_unit, unit_of

Found = tuple[JobRow, EvalResult]

MOST_SERIES = 8
"""So many series are named and have a style of their own; more are not told apart."""
MOST_FAINT = 16
"""So many further ones stand behind them in grey."""

CONTEXT_FREE = 1000.0
"""Where an axis of perplexity ends: about what a model scores that knows how frequent each token is and nothing else.

On the first 64 windows of WikiText-2, in SmolLM2's tokens, that is 735 with the frequencies of this very text, and
1,286 with those of its other tokens plus one each; on PTB 512 and 895 (experiments/methods_smollm2/frequencies.py).
"""


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


def row_of(point: Point, x: float) -> dict[str, Any]:
    """A row of a chart's data."""
    fields = ("label", "model", "place", "value", "error", "low", "high")
    return {name: getattr(point, name) for name in fields} | {"jobs": list(point.jobs), "x": x}


@dataclass(frozen=True, slots=True)
class Panel:
    """One metric of one model under one protocol on one set of data: what may share an axis.

    Args:
        key: the protocol; title: task, windows, subset and count, for people.
        points: by label, then pattern and sparsity.
        lost: how many values are infinite or missing.
    """

    key: str
    title: str
    model: str
    metric: str
    higher_is_better: bool
    points: tuple[Point, ...]
    dense: Point | None
    lost: int

    @property
    def kind(self) -> str:
        return self.key.split(":")[0]

    @property
    def label(self) -> str:
        """Of the axis: metric, unit and direction."""
        return f"{quantity(self.metric)}, {'higher' if self.higher_is_better else 'lower'} is better"

    @property
    def all(self) -> tuple[Point, ...]:
        """All points, the dense model's last."""
        return (*self.points, self.dense) if self.dense else self.points

    @property
    def beyond_note(self) -> str:
        return f"▲ n: n values beyond {self.edge:,.0f}, near what token frequencies give"

    @property
    def edge(self) -> float:
        """Where the axis ends, so that a destroyed model does not press all others onto one line."""
        least = min((point.value for point in self.all), default=0.0)
        return max(CONTEXT_FREE, 10 * least) if "perplexity" in self.metric else math.inf

    def chosen(self, order: Sequence[str], usual: Set[str]) -> list[str]:
        """The labels that are named: those best at some pattern and sparsity, one of each method, then others.

        Args:
            order: all labels, the better before the worse; usual: one of each method.
        """
        best = Counter(label for label, rank in self.ranks() if rank == 0)
        labels = {point.label for point in self.points}
        wanted = [label for label in order if label in labels]
        return sorted(wanted, key=lambda label: (-best[label], label not in usual))[:MOST_SERIES]

    @property
    def places(self) -> list[str]:
        """Patterns of the points in the order of papers."""
        ordered = sorted(self.points, key=lambda point: pattern_order(point.pattern, point.sparsity))
        return [*dict.fromkeys(point.place for point in ordered)]

    def ranks(self) -> Iterator[tuple[str, float]]:
        """Label and rank of every point among those of its place: 0 is the best, 1 the worst or no model."""
        for place in self.places:
            rivals = [point for point in self.points if point.place == place]
            rivals.sort(key=lambda point: -point.value if self.higher_is_better else point.value)
            for rank, point in enumerate(rivals):
                yield point.label, 1.0 if point.value > self.edge else rank / max(len(rivals) - 1, 1)


def panel_of(found: Sequence[Found], labels: Mapping[str, str], key: str, title: str) -> Panel:
    """The points of one metric, model and protocol, from results with their jobs; labels: of every job by its id."""
    job, example = found[0]
    finite = [one for one in found if one[1].value is not None and math.isfinite(one[1].value)]
    dense, pruned = [one for one in finite if one[0].is_dense], [one for one in finite if not one[0].is_dense]
    types = Counter(job.dtype for job, _ in pruned)  # the dense model in the type that most of the pruned ones have
    best = max(dense, key=lambda one: (types[one[0].dtype], one[0].dtype), default=None)
    points = sorted(_points(pruned, labels), key=lambda point: natural_key(point.label))
    unpruned = _points([best], labels)[0] if best else None
    lost = len(found) - len(finite)
    return Panel(key, title, job.model, example.metric, example.higher_is_better, tuple(points), unpruned, lost)


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
