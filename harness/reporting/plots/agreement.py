"""Published numbers against measured ones, where model, method, pattern, protocol and metric agree."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.record import EvalResult
from harness.reporting.frame import measured
from harness.reporting.layout import unique
from harness.reporting.plots.series import Data, scale
from harness.reporting.plots.sheet import NotDrawn, Picture, line
from harness.reporting.plots.style import Style, file_name, finish, log_axis, new_figure
from harness.reporting.published import natural_key

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Pair:
    """One number of a paper and ours of the same setting, in the unit of the figure."""

    method: str
    published: float
    measured: float
    error: float | None
    verified: bool


def agreement(data: Data, known: Mapping[str, Style]) -> Iterator[Picture | NotDrawn]:
    """A figure for every protocol and metric with at least one pair."""
    found, examples = pairs(data)
    if not found:
        yield NotDrawn("published", "no measured number has the setting of a published one")
        return
    for (protocol, metric), some in found.items():
        example = examples[protocol, metric]
        name = f"published-{file_name(protocol)}" + ("" if metric == "perplexity" else f"-{file_name(metric)}")
        yield Picture(name, lambda some=some, example=example: _figure(some, example, known))  # type: ignore[misc]


Key = tuple[str, str]


def pairs(data: Data) -> tuple[dict[Key, list[Pair]], dict[Key, EvalResult]]:
    """Pairs by (protocol, metric), and an example result of each."""
    found: dict[Key, list[Pair]] = defaultdict(list)
    examples: dict[Key, EvalResult] = {}
    for entry in measured(data.records):
        for result in entry.results:
            setting = entry.setting(result)
            rows = data.published.lookup(setting) if setting else ()
            if not rows or result.value is None or result.value == float("inf"):
                continue
            factor = scale(result.metric)
            error = None if result.stderr is None else factor * result.stderr
            key = (result.protocol, result.metric)
            verified = rows[0].status != "unverified"
            found[key].append(Pair(entry.job.method, rows[0].value, factor * result.value, error, verified))
            examples.setdefault(key, result)
    return dict(sorted(found.items())), examples


def _figure(some: list[Pair], example: EvalResult, known: Mapping[str, Style]) -> "Figure":
    figure = new_figure(5.6, 4.2)
    axis = figure.subplots()
    values = [value for pair in some for value in (pair.published, pair.measured)]
    alike: dict[tuple[str, bool], list[Pair]] = defaultdict(list)
    for pair in some:
        alike[pair.method, pair.verified].append(pair)
    for (method, verified), group in alike.items():
        style = known[method]
        axis.errorbar(
            [pair.published for pair in group],
            [pair.measured for pair in group],
            yerr=[pair.error or 0.0 for pair in group] if any(pair.error for pair in group) else None,
            color=style.color,
            marker=style.marker,
            markersize=style.size,
            markerfacecolor=style.color if verified else "none",
            linestyle="none",
            elinewidth=0.8,
            capsize=2,
        )
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    ends = (low * 0.9, high * 1.1) if low > 0 and high / low > 10 else (low - margin, high + margin)
    axis.plot(ends, ends, color="#888888", linewidth=1, zorder=0)
    axis.set_xlim(*ends)
    axis.set_ylim(*ends)
    axis.set_aspect("equal", adjustable="box")
    unit = "perplexity" if example.metric == "perplexity" else f"{example.metric} [%]"
    axis.set_xlabel(f"published {unit}")
    axis.set_ylabel(f"measured {unit}")
    for which in ("x", "y"):
        log_axis(axis, values, which)
    methods = unique(sorted((pair.method for pair in some), key=natural_key))
    notes = ["on the line: equal; hollow: the published value was not checked against its paper"]
    notes += ["error bars: standard error of the measured value"] if any(pair.error for pair in some) else []
    protocol = f"{example.task}, n = {example.num_samples}\n[{example.protocol}]"
    handles = [line(method, known[method], joined=False) for method in methods]
    finish(figure, "Published against measured", protocol, notes, handles)
    return figure
