"""What a corpus is: data that models are calibrated on, measured on, or both.  A new one is one file here or a plug-in.

Nothing here imports torch: planning asks corpora for places, identities and shapes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import ClassVar, Literal

from harness.data.arrays import EvaluationTokens, Ids, Tokenizer, check_ids, fingerprint_array, read_array, tokenise
from harness.data.formats import has_rows, read_file, read_rows, read_text, texts_of
from harness.data.places import DataRef, Given, Places, Role, check_published, read_content
from harness.errors import UserError
from harness.job import Sampling
from harness.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus(ABC):
    """Base of text, token arrays and images.

    Args:
        calibration, evaluation: where the split of each role lies; None = there is none.  Recoveries train on the
            split that models are calibrated on.
        num_sequences, seq_len: what ``calibration=NAME`` asks for where nothing else is said; None = all there are.
        reads: which models it is for.
        cuts_rows: calibration may take sequences that are shorter than the data have them.

    Attributes:
        needs_tokenizer: the model must have one.
        samplings: how calibration sequences may be drawn.
    """

    needs_tokenizer: ClassVar[bool]
    samplings: ClassVar[tuple[Sampling, ...]]

    calibration: Places | None = None
    evaluation: Places | None = None
    num_sequences: int | None = None
    seq_len: int | None = None
    reads: Literal["text", "images"] = "text"
    cuts_rows: bool = True

    def places(self, role: Role) -> Places | None:
        """Where the split of this role lies."""
        return self.evaluation if role == "evaluation" else self.calibration

    def split(self, ref: DataRef) -> Places:
        """The places that `ref` was found in."""
        places = self.places(ref.role)
        assert places is not None, f"{ref.name} has no {ref.role} data"
        return places

    def sequence_fields(self, name: str) -> dict[str, object] | None:
        """What ``calibration=NAME`` and ``training=NAME`` stand for, by their fields; None: it has no such data."""
        if self.calibration is None:
            return None
        path = None if self.calibration.anywhere else "???"  # Hydra's sign for what must be given
        sizes = {"num_sequences": self.num_sequences, "seq_len": self.seq_len}
        return {"corpus": name, "source": "auto", "path": path, **sizes, "sampling": "auto"}

    @abstractmethod
    def tokens(
        self, ref: DataRef, tokenizer: Tokenizer | None, seq_len: int, vocab_size: int, *, bos: bool = True
    ) -> EvaluationTokens:
        """Token ids for perplexity on windows of `seq_len`.

        Args:
            bos: the tokenizer may begin a text with BOS and end it with EOS, as it is used to.

        Raises:
            UserError: there is no tokenizer to make them, an id is none of 0..vocab_size-1, or data cannot be read.
        """

    def shape(self, ref: DataRef) -> tuple[int, int] | None:
        """Rows and columns of data that are used as they are; None of text."""
        return None

    @abstractmethod
    def sampling(self, ref: DataRef) -> Sampling:
        """How the published codes draw calibration sequences from these data."""

    @abstractmethod
    def file_identity(self, role: Role, path: Path) -> str:
        """Identity of a file's content."""

    def sample_note(self, ref: DataRef) -> str | None:
        """What a plan and a record must say where the data are a sample of the corpus, else None."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextCorpus(Corpus):
    """Documents, drawn from for calibration; joined to one text, tokenised whole, for perplexity.

    Args:
        cut: plain text to documents; by default one a line.
        clean: of every document, whether from plain text or from a table's row.
        joined_by: what stands between the documents of the evaluation text.
        most_documents: only the first so many of them, None = all.
        most_windows: only the first so many windows of the evaluation tokens, None = all.
        special_tokens_as_text: ``<unk>`` and the like in the evaluation text are text like any other.
        drawn: how calibration sequences are drawn; of samples always from the joined text.
        samples: names of files, in the data folder and in wheels, that are a part of the corpus only.
    """

    needs_tokenizer = True
    samplings = ("documents", "stream")

    num_sequences: int | None = 128
    seq_len: int | None = 2048
    cut: Callable[[str], list[str]] = lambda text: text.removesuffix("\n").split("\n")
    clean: Callable[[str], str] | None = None
    joined_by: str = " "
    most_documents: int | None = None
    most_windows: int | None = None
    special_tokens_as_text: bool = False
    drawn: Sampling = "stream"
    samples: tuple[str, ...] = ()

    def sampling(self, ref: DataRef) -> Sampling:
        return "stream" if self._is_sample(ref) else self.drawn

    def sample_note(self, ref: DataRef) -> str | None:
        places = self.split(ref)
        if not self._is_sample(ref) or not places.hub:
            return None
        return (
            f"{ref.role} on {ref.name} is on a sample of it ({ref.origin}), not on {places.hub[0].location} as in "
            f"papers; {ref.role}.source=hub takes that"
        )

    def documents(self, ref: DataRef) -> list[str]:
        """All documents: rows of WikiText-2 and PTB as the hub has them, pages of C4, articles of Wikipedia.

        Raises:
            UserError: the data cannot be read, or hold no document.
        """
        documents = self.documents_of(*read_content(ref, self.split(ref)))
        check_published(ref, text_identity("\n".join(documents)), self.split(ref))
        return documents

    def evaluation_text(self, ref: DataRef) -> str:
        """The text that is tokenised, once and whole, for perplexity."""
        text = self.evaluation_text_of(*read_content(ref, self.split(ref)))
        check_published(ref, text_identity(text), self.split(ref))
        return text

    def tokens(
        self, ref: DataRef, tokenizer: Tokenizer | None, seq_len: int, vocab_size: int, *, bos: bool = True
    ) -> EvaluationTokens:
        tokens = self.tokens_of(self.evaluation_text(ref), tokenizer, seq_len, bos=bos)
        check_ids(tokens.ids, vocab_size, ref.name)
        return tokens

    def tokens_of(self, text: str, tokenizer: Tokenizer | None, seq_len: int, *, bos: bool = True) -> EvaluationTokens:
        """The evaluation text tokenised once, with the tokenizer's default special tokens unless told otherwise.

        `most_windows` cuts the ids, never the text: the tokens at a cut in the text could differ.
        """
        options = {"split_special_tokens": True} if self.special_tokens_as_text else {}
        options |= {} if bos else {"add_special_tokens": False}
        ids = tokenise(text, tokenizer, "evaluation text", **options)
        ids = ids if self.most_windows is None else ids[: self.most_windows * seq_len]
        unk = getattr(tokenizer, "unk_token_id", None)
        return EvaluationTokens(ids, text_identity(text), 0 if unk is None else int((ids == unk).sum()))

    def file_identity(self, role: Role, path: Path) -> str:
        if role != "evaluation":
            with path.open("rb") as file:
                return f"sha256:{file_digest(file, 'sha256').hexdigest()}"
        return text_identity(self.evaluation_text_of(read_file(path), str(path)))

    def evaluation_text_of(self, data: bytes, origin: str) -> str:
        """`evaluation_text` of stored bytes; `origin` names the file, for its format and for errors."""
        return self.joined_by.join(self.documents_of(data, origin, self.most_documents))

    def documents_of(self, data: bytes, origin: str, limit: int | None = None) -> list[str]:
        """The first `limit` documents (None = all) in stored bytes: the text field of rows, or plain text that is cut.

        Raises:
            UserError: there is none.
        """
        if has_rows(origin):
            documents = texts_of(read_rows(data, origin, limit), origin)
        else:
            documents = self.cut(read_text(data, origin))[:limit]
        if self.clean is not None:
            documents = [self.clean(text) for text in documents]
        if not any(documents):
            raise UserError(f"{origin} holds no document")
        return documents

    def _is_sample(self, ref: DataRef) -> bool:
        return ref.source != "hub" and ref.location.rpartition("/")[2] in self.samples


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayCorpus(Corpus):
    """Rows of numbers that are used as they are: token ids, or images with their label as the last entry."""

    needs_tokenizer = False
    samplings = ("given",)

    def sampling(self, ref: DataRef) -> Sampling:
        return "given"

    def rows(self, ref: DataRef) -> Ids:
        """The rows in their order, [rows, columns]; not to be written to.

        Raises:
            UserError: they cannot be read.
        """
        given = self.split(ref).embedded
        rows: Ids = given.content() if isinstance(given, Given) else read_array(ref.path)
        return rows

    def shape(self, ref: DataRef) -> tuple[int, int]:
        given = self.split(ref).embedded
        if isinstance(given, Given) and given.shape is not None:
            return given.shape
        rows, columns = self.rows(ref).shape
        return rows, columns

    def tokens(
        self, ref: DataRef, tokenizer: Tokenizer | None, seq_len: int, vocab_size: int, *, bos: bool = True
    ) -> EvaluationTokens:
        return EvaluationTokens(self.token_rows(ref, vocab_size).reshape(-1), ref.identity)

    def token_rows(self, ref: DataRef, vocab_size: int) -> Ids:
        """Rows that are token ids of a model with this vocabulary.

        Raises:
            UserError: they cannot be read, or hold an id outside 0..vocab_size-1.
        """
        return check_ids(self.rows(ref), vocab_size, ref.location)

    def file_identity(self, role: Role, path: Path) -> str:
        return fingerprint_array(read_array(path))


def text_identity(text: str) -> str:
    """`sha256:` and the digest of the text's UTF-8 bytes."""
    return f"sha256:{sha256(text.encode()).hexdigest()}"


CORPORA: Registry[Corpus] = Registry("corpus", "harness.data.corpora")
