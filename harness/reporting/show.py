"""One record, readable: what was asked, what came out, where the time went, where it comes from."""

import math
from collections.abc import Iterator, Sequence
from typing import cast

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from harness.record import EvalResult, JsonValue, LayerReport, RunRecord
from harness.reporting.layout import DASH, UNITS, clean, number, percent
from harness.reporting.marks import NO_NUMBER, NO_NUMBER_NOTE

WORST_LAYERS = 5
"""How many layers are listed, those with the largest output error first."""


def render_record(record: RunRecord) -> RenderableType:
    """The record for a rich console of any width."""
    sections = [("job", _pairs(job_pairs(record))), ("results", _results(record.results))]
    if record.layers:
        sections.append((f"layers ({len(record.layers)})", _layers(record.layers)))
    sections.append(("time and memory", _pairs(cost_pairs(record))))
    sections.append(("provenance", _pairs(provenance_pairs(record))))
    blocks: list[RenderableType] = [Text(f"{clean(record.job_id)}  {record.status}", style="bold")]
    for title, content in sections:
        blocks += [Text(""), Text(title, style="bold"), content]
    if record.notes:
        blocks += [Text(""), Text("notes", style="bold"), *(Text(f"  {clean(note)}") for note in record.notes)]
    if record.error:
        blocks += [Text(""), Text("error", style="bold red")]
        blocks += [Text(f"  {clean(line)}") for line in record.error.rstrip().split("\n")]
    return Group(*blocks)


def _pairs(pairs: Iterator[tuple[str, str]]) -> RichTable:
    grid = RichTable.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(Text(f"  {clean(name)}"), Text(clean(value)))
    return grid


def job_pairs(record: RunRecord) -> Iterator[tuple[str, str]]:
    """Name and text of every field of the job, and the zeros that were counted."""
    for name, value in record.job.items():
        yield name, inline(cast("JsonValue", value))
    counted = record.achieved_sparsity
    yield "zeros counted", DASH if counted is None else percent(counted)
    if record.unreached_weights:
        yield "weights not reached", f"{record.unreached_weights:,}"


def inline(value: JsonValue) -> str:
    """Nested fields on one line: a choice is `wanda`, or `sparsegpt (damping=0.01)`."""
    if value is None:
        return DASH
    if isinstance(value, dict):
        parts = {name: part for name, part in value.items() if name != "params"}
        head = str(parts.pop("name", "")) if "name" in parts else ""
        params = value.get("params")
        fields = parts | (params if isinstance(params, dict) else {})
        inner = ", ".join(f"{name}={inline(part)}" for name, part in fields.items())
        return f"{head} ({inner})" if head and inner else head or inner
    return str(value)


def _results(results: Sequence[EvalResult]) -> RenderableType:
    if not results:
        return Text("  nothing was measured")
    grid = RichTable(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="")
    for header in ("  task", "metric"):
        grid.add_column(header, overflow="fold")
    for header in ("value", "stderr", "n"):
        grid.add_column(header, justify="right", no_wrap=True)
    for header in ("protocol", "subset"):
        grid.add_column(header, overflow="fold")
    for result in results:
        value = DASH + NO_NUMBER if result.value is None else _value(result.value, result)
        cells = (f"  {result.task}", result.metric, value, _value(result.stderr, result))
        rest = (str(result.num_samples), result.protocol, result.subset or "all")
        grid.add_row(*(Text(clean(cell)) for cell in (*cells, *rest)))
    missing = any(result.value is None for result in results)
    return Group(grid, Text(f"  {NO_NUMBER_NOTE}")) if missing else grid


def _value(value: float | None, result: EvalResult) -> str:
    if value is None:
        return DASH
    return f"{number(100 * value)}%" if UNITS.get(result.metric) == "%" else number(value)


def _layers(layers: Sequence[LayerReport]) -> RenderableType:
    achieved = [layer.achieved_sparsity for layer in layers]
    errors = [layer.relative_output_error for layer in layers if layer.relative_output_error is not None]
    lines = [f"  zeros counted: {percent(min(achieved))} to {percent(max(achieved))}"]
    if errors:
        mean = math.fsum(errors) / len(errors)
        lines.append(f"  relative output error: mean {mean:.4f}, least {min(errors):.4f}, largest {max(errors):.4f}")
    grid = RichTable(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="")
    grid.add_column(f"  largest errors of {len(layers)}", overflow="fold")
    for header in ("shape", "zeros", "error"):
        grid.add_column(header, justify="right")
    for layer in sorted(layers, key=_error, reverse=True)[:WORST_LAYERS]:
        error = DASH if layer.relative_output_error is None else f"{layer.relative_output_error:.4f}"
        shape = "×".join(map(str, layer.shape))
        grid.add_row(Text(f"  {clean(layer.name)}"), shape, percent(layer.achieved_sparsity), error)
    return Group(*map(Text, lines), grid)


def _error(layer: LayerReport) -> float:
    error = layer.relative_output_error
    return -math.inf if error is None else math.inf if math.isnan(error) else error


def cost_pairs(record: RunRecord) -> Iterator[tuple[str, str]]:
    """Seconds of every step, and the peaks of memory."""
    for step, seconds in record.timings_s.items():
        yield step, f"{seconds:.1f} s"
    for where, size in record.peak_memory_bytes.items():
        yield f"peak memory ({where})", f"{size / 2**30:.2f} GiB"


def provenance_pairs(record: RunRecord) -> Iterator[tuple[str, str]]:
    """When, where and with what the job ran."""
    source = record.provenance
    dirty = " with uncommitted changes" if source.dirty else ""
    yield "ended", source.created
    yield "code", f"prunebench {source.prunebench_version}, commit {source.commit or DASH}{dirty}"
    yield "ran on", f"{source.device}, weights in {source.dtype}, Python {source.python}, {source.platform}"
    if source.placement:
        yield "blocks", ", ".join(f"{name} {inline(value)}" for name, value in source.placement.items())
    yield "hardware", ", ".join(f"{name} {inline(value)}" for name, value in source.hardware.items())
    yield "packages", ", ".join(f"{name} {version}" for name, version in source.packages.items())
    yield "command", " ".join(source.command) or DASH
    yield "weights", record.weights_fingerprint or DASH
    for where in dict.fromkeys(f"{result.task}: {result.data_source}" for result in record.results):
        yield "data", where
