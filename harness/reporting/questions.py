"""Questions as people read them: what is asked, and the options in the order of the scores."""

from collections.abc import Callable, Mapping
from typing import Any

Row = Mapping[str, Any]
"""One question as its data set has it."""


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
