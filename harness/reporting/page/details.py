"""What only the view of one job needs, packed so that it costs nothing before it is looked at.

A block holds some jobs: their documents as JSON, gzipped, in base64.  The page unpacks a block when one of its jobs is
opened.
"""

import base64
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.record import JsonValue, LayerReport, RunRecord, to_json
from harness.reporting.layout import json_number

JOBS_PER_BLOCK = 50
LAYER_BUDGET = 200_000
"""Most reports of layers in one page, about 3 MB; jobs that ended last have theirs first."""


@dataclass(frozen=True, slots=True)
class Details:
    """Blocks of jobs, and which rows have no layers in the page although their records have."""

    blocks: tuple[str, ...]
    without_layers: tuple[int, ...]


def details(records: Sequence[RunRecord], layer_budget: int = LAYER_BUDGET) -> Details:
    """The records in blocks of `JOBS_PER_BLOCK`, in the given order, with the layers of the latest jobs."""
    with_layers = _within(records, layer_budget)
    documents = [_document(record, layers=row in with_layers) for row, record in enumerate(records)]
    blocks = [
        packed(b"[" + b",".join(documents[start : start + JOBS_PER_BLOCK]) + b"]")
        for start in range(0, len(documents), JOBS_PER_BLOCK)
    ]
    left_out = [row for row, record in enumerate(records) if record.layers and row not in with_layers]
    return Details(tuple(blocks), tuple(left_out))


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


def _document(record: RunRecord, *, layers: bool) -> bytes:
    """The record without its layers, and these as columns."""
    head = to_json(replace(record, layers=())).rstrip()
    columns = _columns(record.layers) if layers else None
    assert head.endswith(b"}"), "a record is a JSON object"
    return head[:-1] + b', "layer_columns": ' + json.dumps(columns).encode() + b"}"


def _columns(layers: Sequence[LayerReport]) -> dict[str, JsonValue]:
    """Names, shapes and numbers of the layers, each as one list; numbers to six significant digits."""
    return {
        "name": [layer.name for layer in layers],
        "shape": ["×".join(map(str, layer.shape)) for layer in layers],
        "requested": [_six(layer.requested_sparsity) for layer in layers],
        "achieved": [_six(layer.achieved_sparsity) for layer in layers],
        "error": [_six(layer.relative_output_error) for layer in layers],
        "details": [dict(layer.details) for layer in layers] if any(layer.details for layer in layers) else None,
    }


def _six(value: float | None) -> JsonValue:
    return value if value is None else json_number(float(f"{value:.6g}"))
