"""Tables as JSON: every number in full precision, with its source."""

import json

from harness.reporting.formats.base import FORMATS
from harness.reporting.layout import Cell, Column, Table, json_number


@FORMATS.register("json")
def write_json(table: Table, _: int = 0) -> str:
    """Title, columns, rows of cells, footnotes."""
    document = {
        "title": table.title,
        "columns": [_column(column) for column in table.columns],
        "rows": [[_cell(column, cell) for column, cell in zip(table.columns, row, strict=True)] for row in table.rows],
        "footnotes": list(table.footnotes),
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _column(column: Column) -> dict[str, object]:
    numbers = {"key": column.key, "unit": column.unit, "higher_is_better": column.higher_is_better}
    return {"header": column.header, "label": column.is_label} | ({} if column.is_label else numbers)


def _cell(column: Column, cell: Cell) -> dict[str, object]:
    if column.is_label:
        return {"text": cell.text, "marks": cell.marks}
    row = cell.published
    return {
        "measured": json_number(cell.measured),
        "stderr": json_number(cell.stderr),
        "published": row.text if row else None,
        "difference": json_number(cell.difference),
        "inside_tolerance": cell.inside,
        "interval_95": json_number(cell.interval),
        "samples": cell.samples,
        "rank": cell.rank,
        "published_rank": cell.published_rank,
        "source": {name: getattr(row, name) for name in ("table_id", "status", "source", "note")} if row else None,
        "marks": cell.marks,
    }
