"""What figures draw: points of one metric of one protocol, by method, with what else differs between jobs."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import stdev
from typing import TYPE_CHECKING

from harness.record import RunRecord
from harness.reporting.axes import pattern_order, setting_labels, short_labels
from harness.reporting.figures.look import DENSE_STYLE, Style, styles
from harness.reporting.frame import DENSE, JobRow, describe, to_frame
from harness.reporting.layout import unique
from harness.reporting.published import Published, natural_key

if TYPE_CHECKING:
    import pandas as pd

MAX_SERIES = 12
"""More lines than this are not told apart in one axis; then every method is drawn with one of its settings."""


@dataclass(frozen=True)
class Data:
    """Everything that figures are made from.

    Args:
        frame: of `harness.reporting.frame.to_frame`, jobs that are done.
        records: the same jobs.
        published: see `harness.reporting.tables.comparison`.
    """

    frame: "pd.DataFrame"
    records: tuple[RunRecord, ...]
    published: Published

    @classmethod
    def of(cls, records: Sequence[RunRecord], published: Published) -> "Data":
        done = tuple(record for record in records if record.status == "done")
        return cls(to_frame(done), done, published)

    @cached_property
    def measurements(self) -> "tuple[Measurement, ...]":
        """What was measured, a protocol each."""
        return tuple(measurements(self))

    @cached_property
    def methods(self) -> Mapping[str, str]:
        """Method and allocation of every job by its id."""
        jobs = [describe(record) for record in self.records]
        short = short_labels(job.allocation for job in jobs)
        return {job.job_id: ", ".join(filter(None, (job.method, short[job.allocation]))) for job in jobs}

    @cached_property
    def styles(self) -> Mapping[str, Style]:
        """One style a method in one setting: it looks the same in all figures."""
        series = {one.label for each in self.measurements for panel in each.panels.values() for one in panel.series}
        labels = series | set(self.frame["method"]) | set(self.methods.values())
        return styles(labels - {DENSE}) | {DENSE: DENSE_STYLE}


@dataclass(frozen=True, slots=True)
class Point:
    """The mean over jobs that differ in nothing but the seed.

    Args:
        value: perplexity, or accuracy in percent.
        error: standard deviation over seeds, or the standard error of a single job; None when it has none.
        jobs: how many; job_ids: which.
    """

    pattern: str
    sparsity: float
    achieved: float
    value: float
    error: float | None
    job_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Series:
    """The points of a method in one setting, by pattern and sparsity."""

    label: str
    method: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One metric of one model under one protocol.

    Args:
        notes: what is not drawn, and why.
    """

    model: str
    metric: str
    higher_is_better: bool
    series: tuple[Series, ...]
    dense: Point | None
    notes: tuple[str, ...]

    @property
    def label(self) -> str:
        """Of the axis: metric, unit and direction."""
        unit = "perplexity" if self.metric == "perplexity" else f"{self.metric} [%]"
        return f"{unit} ({'higher' if self.higher_is_better else 'lower'} is better)"

    @property
    def values(self) -> list[float]:
        drawn = [point.value for series in self.series for point in series.points]
        return drawn + ([self.dense.value] if self.dense else [])


@dataclass(frozen=True, slots=True)
class Measurement:
    """One protocol on one set of data: what may share an axis.

    Args:
        title: task, metric, windows, subset and count, for people; key: the protocol.
        panels: by (metric, model), metrics and models in order.
    """

    kind: str
    task: str
    key: str
    title: str
    metrics: tuple[str, ...]
    models: tuple[str, ...]
    panels: Mapping[tuple[str, str], Panel]


def measurements(data: Data) -> Iterator[Measurement]:
    """Every protocol that was measured, once for each set of data that it was measured on."""
    frame = data.frame[data.frame["protocol"].notna()]
    for (key, fingerprint), rows in sorted(frame.groupby(["protocol", "data_fingerprint"], sort=False)):
        several = frame.loc[frame["protocol"] == key, "data_fingerprint"].nunique() > 1
        shown = f"{key}:{str(fingerprint).removeprefix('sha256:')[:8]}" if several else str(key)
        metrics = sorted(unique(rows["metric"].tolist()))
        models = sorted(unique(rows["model"].tolist()), key=natural_key)
        grouped = rows.groupby(["metric", "model"], sort=False)
        panels = {(str(metric), str(model)): panel(group) for (metric, model), group in grouped}
        kind, task = str(key).split(":")[0], str(rows["task"].iloc[0])
        yield Measurement(kind, task, shown, _title(kind, task, rows), tuple(metrics), tuple(models), panels)


def panel(rows: "pd.DataFrame") -> Panel:
    """The series of one model, metric and protocol."""
    first = rows.iloc[0]
    notes: list[str] = []
    finite = rows["value"].map(lambda value: value is not None and math.isfinite(value))
    lost = int((~finite).sum())
    if lost:
        notes.append(f"{first['model']}: {lost} of {len(rows)} values are infinite or missing and are not drawn")
    rows = rows[finite]
    dense, pruned = rows[rows["method"] == DENSE], rows[rows["method"] != DENSE]
    series = _all_series(pruned)
    if len(series) > MAX_SERIES:
        kept = _one_a_method(series)
        notes.append(
            f"{first['model']}: {len(series) - len(kept)} further settings of the methods are in the table only"
        )
        series = kept
    return Panel(
        model=str(first["model"]),
        metric=str(first["metric"]),
        higher_is_better=bool(first["higher_is_better"]),
        series=tuple(sorted(series, key=lambda one: natural_key(one.label))),
        dense=_dense(dense, pruned),
        notes=tuple(notes),
    )


def scale(metric: str) -> float:
    """Accuracies are stored as fractions and drawn in percent."""
    return 1.0 if metric == "perplexity" else 100.0


def pattern_name(pattern: str, sparsity: float) -> str:
    """`2:4`, the sparsity of an unstructured pattern, `channel 50%`."""
    share = f"{100 * sparsity:g}%"
    return pattern if ":" in pattern else share if pattern == "unstructured" else f"{pattern} {share}"


Row = tuple[str, float, float | None, float, float | None, str]
"""Pattern, sparsity asked for, sparsity counted, value, standard error and job: plain, for there are many points."""


def _all_series(pruned: "pd.DataFrame") -> list[Series]:
    if pruned.empty:
        return []
    series: dict[tuple[str, str], dict[tuple[str, float], list[Row]]] = {}
    jobs = [JobRow(*fields) for fields in zip(*(pruned[name] for name in JobRow.__slots__), strict=True)]
    for label, method, row in zip(setting_labels(jobs), pruned["method"], _plain(pruned), strict=True):
        series.setdefault((label, method), {}).setdefault(row[:2], []).append(row)
    factor = scale(str(pruned["metric"].iloc[0]))
    return [
        Series(label, method, tuple(_point(points[where], factor) for where in sorted(points, key=_in_order)))
        for (label, method), points in series.items()
    ]


def _in_order(where: tuple[str, float]) -> tuple[int, float, int, str]:
    return pattern_order(*where)


def _plain(rows: "pd.DataFrame") -> list[Row]:
    columns = ("pattern", "sparsity", "achieved_sparsity", "value", "stderr", "job_id")
    return list(zip(*(rows[column].tolist() for column in columns), strict=True))


def _point(rows: Sequence[Row], factor: float) -> Point:
    pattern, sparsity, _, _, stderr, _ = rows[0]
    values = [float(value) for *_, value, _, _ in rows]
    error = stdev(values) if len(values) > 1 else stderr
    counted = [float(achieved) for _, _, achieved, *_ in rows if achieved is not None and math.isfinite(achieved)]
    return Point(
        pattern=pattern,
        sparsity=float(sparsity),
        achieved=math.fsum(counted) / len(counted) if counted else float(sparsity),
        value=factor * math.fsum(values) / len(values),
        error=None if error is None or not math.isfinite(error) else factor * error,
        job_ids=tuple(job_id for *_, job_id in rows),
    )


def _dense(dense: "pd.DataFrame", pruned: "pd.DataFrame") -> Point | None:
    """The dense model in the type that most of the pruned ones have."""
    if dense.empty:
        return None
    types = Counter(pruned["dtype"])
    best = max(dense["dtype"].unique(), key=lambda dtype: (types[dtype], str(dtype)))
    return _point(_plain(dense[dense["dtype"] == best].head(1)), scale(str(dense["metric"].iloc[0])))


def _one_a_method(series: Sequence[Series]) -> list[Series]:
    """Of every method the setting with most points, under the method's own label with its settings."""
    best: dict[str, Series] = {}
    for one in sorted(series, key=lambda one: (-len(one.points), natural_key(one.label))):
        best.setdefault(one.method, one)
    return list(best.values())


def _title(kind: str, task: str, rows: "pd.DataFrame") -> str:
    parts = str(rows["protocol"].iloc[0]).split(":")
    length = next((part[3:] for part in parts if part.startswith("seq") and part[3:].isdigit()), None)
    counts = sorted({int(count) for count in rows["num_samples"]})
    unit = {"perplexity": "windows", "accuracy": "images"}.get(kind, "questions")
    count = " to ".join(str(value) for value in unique([str(counts[0]), str(counts[-1])]))
    subsets = unique([subset for subset in rows["subset"] if isinstance(subset, str)])
    what = {"perplexity": f"perplexity on {task}", "accuracy": f"{task}, accuracy"}
    said = [what.get(kind, f"{task}, zero-shot accuracy")]
    said += [f"{length}-token windows"] if length else []
    said += ["BOS in every window"] if "bos" in parts else []
    return ", ".join([*said, *(subsets or [f"all of n = {count} {unit}"])])
