"""Quality against what it costs: which jobs no other job beats in both."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.reporting.frame import DENSE
from harness.reporting.plots.series import Data, Measurement, Panel, Point
from harness.reporting.plots.sheet import NotDrawn, Picture, Sheet, sheets, value_label
from harness.reporting.plots.style import DENSE_COLOR, Style, log_axis, text

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

SPEED_METRICS = ("tokens_per_second", "latency")
"""Metrics of a result that are a measured speed; others are none."""

MILLION = 1e6
FRONT_COLOR = "#555555"
BEATEN_ALPHA = 0.45


@dataclass(frozen=True, slots=True)
class Cost:
    """What a job costs, by job id.

    Args:
        name: part of the file name; label: of the axis, with its unit.
        less_is_better: direction.
    """

    name: str
    label: str
    values: Mapping[str, float]
    less_is_better: bool = True


def pareto(data: Data, measured: Sequence[Measurement], styles: Mapping[str, Style]) -> Iterator[Picture | NotDrawn]:
    """A figure for every protocol and cost."""
    size = sizes(data)
    if size.values:
        yield from _of(size, measured, styles)
    else:
        yield NotDrawn("pareto-size", "no record lists the shapes of its layers")
    found = list(speeds(data))
    for speed in found:
        yield from _of(speed, measured, styles)
    if not found:
        yield NotDrawn("pareto-speed", "not measured: no record has a measured speed")


def sizes(data: Data) -> Cost:
    """Prunable weights that are not zero, in millions; the dense model's count is that of the model's pruned jobs."""
    prunable: dict[str, int] = {}
    for record in data.records:
        if record.layers:
            weights = sum(layer.shape[0] * layer.shape[1] for layer in record.layers)
            prunable.setdefault(str(_checkpoint(record.job)), weights)
    values = {}
    for record in data.records:
        weights = prunable.get(str(_checkpoint(record.job)), 0)
        if weights and record.achieved_sparsity is not None:
            values[record.job_id] = weights * (1 - record.achieved_sparsity) / MILLION
    return Cost("size", "non-zero prunable weights [millions]", values)


def speeds(data: Data) -> Iterator[Cost]:
    """Every speed that was measured."""
    frame = data.frame[data.frame["metric"].isin(SPEED_METRICS) & data.frame["value"].notna()]
    for (metric, protocol), rows in frame.groupby(["metric", "protocol"], sort=True):
        values = dict(zip(rows["job_id"], rows["value"].astype(float), strict=True))
        yield Cost(f"{metric}-{protocol}", f"{metric} ({protocol})", values, not bool(rows["higher_is_better"].iloc[0]))


def front(costs: Sequence[float], values: Sequence[float], *, less: bool, higher: bool) -> list[int]:
    """Indices of the points that no other point beats in one coordinate and equals or beats in the other, by cost.

    Args:
        costs, values: coordinates; less: a smaller cost is better; higher: a larger value is better.
    """
    order = sorted(
        range(len(costs)), key=lambda n: (costs[n] if less else -costs[n], -values[n] if higher else values[n])
    )
    kept: list[int] = []
    for number in order:
        if not kept or (values[number] > values[kept[-1]] if higher else values[number] < values[kept[-1]]):
            kept.append(number)
    return kept


def _of(cost: Cost, measured: Sequence[Measurement], styles: Mapping[str, Style]) -> Iterator[Picture | NotDrawn]:
    drawn = False
    for each in measured:
        if each.kind in ("perplexity", "zero_shot", "accuracy") and any(
            _placed(one, cost) for one in each.panels.values()
        ):
            drawn = True
            yield from sheets(f"pareto-{cost.name}", each, _sheet(cost, each, styles))
    if not drawn:
        yield NotDrawn(f"pareto-{cost.name}", "no pruned model has both a finite quality and this cost")


def _sheet(cost: Cost, measurement: Measurement, styles: Mapping[str, Style]) -> Callable[[Sequence[str]], Sheet]:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=FRONT_COLOR, linewidth=1, drawstyle="steps-post", label="Pareto front"),
        _hollow("N:M pattern (hollow)"),
    ]
    return lambda models: Sheet(
        f"pareto-{cost.name}",
        f"Quality against {'size' if cost.name == 'size' else 'speed'}",
        measurement,
        models,
        styles,
        lambda part, panel, known: draw_pareto(part, panel, known, cost),
        handles,
        ["pale: another job is at least as good in both, and better in one"],
        joined=False,
    )


def _hollow(label: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=FRONT_COLOR, marker="o", markerfacecolor="none", linestyle="none", label=label)


def draw_pareto(part: "SubFigure", panel: Panel, styles: Mapping[str, Style], cost: Cost) -> None:
    """One marker a point, and the front over all of them with the dense model."""
    axis = part.subplots()
    placed = _placed(panel, cost)
    if panel.dense is not None and (where := _cost(panel.dense, cost)) is not None:
        placed.append((DENSE, panel.dense, where))
        axis.axhline(panel.dense.value, color=DENSE_COLOR, linestyle=":", linewidth=1.0, zorder=1)
    xs, ys = [where for *_, where in placed], [point.value for _, point, _ in placed]
    best = front(xs, ys, less=cost.less_is_better, higher=panel.higher_is_better)
    axis.step([xs[n] for n in best], [ys[n] for n in best], where="post", color=FRONT_COLOR, linewidth=1, zorder=1)
    looks: dict[tuple[str, bool, bool], list[tuple[float, float]]] = {}
    for number, (label, point, where) in enumerate(placed):
        hollow = point.pattern not in ("unstructured", DENSE)
        looks.setdefault((label, hollow, number in best), []).append((where, point.value))
    for (label, hollow, leads), points in looks.items():
        style = Style(DENSE_COLOR, "*", "none") if label == DENSE else styles[label]
        axis.plot(
            *zip(*points, strict=True),
            color=style.color,
            marker=style.marker,
            markerfacecolor="none" if hollow else style.color,
            markersize=9.0 if label == DENSE else style.size,
            linestyle="none",
            alpha=1.0 if leads else BEATEN_ALPHA,
            zorder=3 if leads else 2,
        )
    axis.set_title(text(panel.model), loc="left")
    axis.set_xlabel(cost.label)
    axis.set_ylabel(value_label(panel))
    log_axis(axis, ys)
    log_axis(axis, xs, "x")


def _placed(panel: Panel, cost: Cost) -> list[tuple[str, Point, float]]:
    found = [(one.label, point, _cost(point, cost)) for one in panel.series for point in one.points]
    return [(label, point, where) for label, point, where in found if where is not None]


def _cost(point: Point, cost: Cost) -> float | None:
    known = [cost.values[job_id] for job_id in point.job_ids if job_id in cost.values]
    return sum(known) / len(known) if known else None


def _checkpoint(job: Mapping[str, Any]) -> object:
    return job["model"]["checkpoint"]
