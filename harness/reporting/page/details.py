"""What only the view of one job needs, packed so that it costs nothing before it is looked at.

A block holds some jobs as JSON, gzipped, in base64.  The page unpacks a block when one of its jobs is opened.
"""

import base64
import gzip
import json
from collections.abc import Iterator, Sequence

from harness.record import LayerReport, RunRecord
from harness.reporting.frame import Measured
from harness.reporting.layout import DASH, number, percent, rounded
from harness.reporting.marks import Footnotes
from harness.reporting.published import Published
from harness.reporting.show import cost_pairs, inline, job_pairs, provenance_pairs
from harness.reporting.tables import beside_published, unit_of

JOBS_PER_BLOCK = 50
LAYER_BUDGET = 200_000
"""Most reports of layers in one page, about 3 MB; jobs that ended last have theirs first."""


def details(
    records: Sequence[RunRecord], entries: Sequence[Measured], published: Published, layer_budget: int = LAYER_BUDGET
) -> tuple[list[str], list[int]]:
    """The jobs in blocks of `JOBS_PER_BLOCK`, in the given order, with the layers of the latest ones.

    Returns:
        The blocks, and which rows have no layers in the page although their records have.
    """
    with_layers = _within(records, layer_budget)
    documents = [
        _document(record, entry, published, layers=row in with_layers)
        for row, (record, entry) in enumerate(zip(records, entries, strict=True))
    ]
    blocks = [
        packed(json.dumps(documents[start : start + JOBS_PER_BLOCK], allow_nan=False).encode())
        for start in range(0, len(documents), JOBS_PER_BLOCK)
    ]
    left_out = [row for row, record in enumerate(records) if record.layers and row not in with_layers]
    return blocks, left_out


def packed(data: bytes) -> str:
    """Gzip in base64; the same bytes for the same data."""
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()


def _within(records: Sequence[RunRecord], budget: int) -> set[int]:
    """Rows whose layers fit the budget together, the latest jobs first."""
    fitting: set[int] = set()
    for row in sorted(range(len(records)), key=lambda row: records[row].provenance.created, reverse=True):
        budget -= len(records[row].layers)
        if budget < 0:
            break
        fitting.add(row)
    return fitting


def _document(record: RunRecord, entry: Measured, published: Published, *, layers: bool) -> dict[str, object]:
    """The record as people read it; its layers are columns."""
    return {
        "id": record.job_id,
        "status": record.status,
        "dirty": record.provenance.dirty,
        "error": record.error,
        "notes": list(record.notes),
        "job": list(job_pairs(record)),
        "cost": list(cost_pairs(record)),
        "provenance": list(provenance_pairs(record)),
        "results": list(_results(entry, published)),
        "layers": _columns(record.layers) if layers else None,
    }


def _results(entry: Measured, published: Published) -> Iterator[tuple[str, ...]]:
    """Task, metric, value beside the most trusted published one, standard error, count, protocol, subset, sources."""
    for result in entry.results:
        cell = beside_published(entry, result, published, Footnotes())
        unit = " %" if unit_of(result.metric) == "%" else ""
        spread = DASH if cell.stderr is None else f"± {number(cell.stderr)}"
        table = cell.published.table_id if cell.published else DASH
        where = (result.protocol, result.subset or "all", result.data_source, table)
        yield (
            *(result.task, result.metric + unit, cell.written("measured first"), spread, str(result.num_samples)),
            *where,
        )


def _columns(layers: Sequence[LayerReport]) -> dict[str, object]:
    """Names and numbers of the layers, each as one list; numbers to six significant digits."""
    return {
        "layer": [layer.name for layer in layers],
        "kind": [layer.name.rpartition(".")[2] for layer in layers],
        "shape": ["×".join(map(str, layer.shape)) for layer in layers],
        "asked": [percent(layer.requested_sparsity) for layer in layers],
        "zeros": [rounded(100 * layer.achieved_sparsity, 6) for layer in layers],
        "error": [rounded(layer.relative_output_error, 6) for layer in layers],
        "details": [inline(dict(layer.details)) or DASH for layer in layers],
    }
