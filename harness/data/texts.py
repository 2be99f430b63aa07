"""Corpora as text: documents for calibration, and the one text that perplexity is measured on (CONTRACTS C8)."""

import re
from hashlib import sha256

from harness.data.catalogue import CORPORA, DataRef
from harness.data.content import check_published, read_content
from harness.data.formats import has_rows, read_rows, read_text, texts_of
from harness.errors import UserError

C4_EVALUATION_DOCUMENTS = 1100
"""SparseGPT and Wanda join so many documents of C4's validation shard before they cut the tokens."""

_ARTICLE = re.compile(r"<doc [^>\n]*>\n(.*?)</doc>", re.DOTALL)


def load_documents(ref: DataRef) -> list[str]:
    """All documents of a corpus: rows of WikiText-2 and PTB as the hub has them, pages of C4, articles of Wikipedia.

    Raises:
        UserError: the data cannot be read, or hold no document.
    """
    data, origin = _stored(ref)
    documents = documents_of(ref.name, data, origin)
    published = CORPORA[ref.name, ref.role].documents
    if published is not None:
        check_published(ref, text_identity("\n".join(documents)), published)
    return documents


def evaluation_text(ref: DataRef) -> str:
    """The text that is tokenised, once and whole, for perplexity.

    WikiText-2: rows joined with two line feeds; PTB: stripped sentences joined with a blank; C4: the first 1,100
    documents joined with a blank; wikipedia-sample: articles joined with two line feeds.
    """
    data, origin = _stored(ref)
    text = evaluation_text_of(ref.name, data, origin)
    check_published(ref, text_identity(text), CORPORA[ref.name, ref.role].official)
    return text


def evaluation_text_of(name: str, data: bytes, origin: str) -> str:
    """`evaluation_text` of stored bytes; `origin` names the file, for its format and for errors."""
    documents = documents_of(name, data, origin, limit=C4_EVALUATION_DOCUMENTS if name == "c4" else None)
    return ("\n\n" if name in ("wikitext2", "wikipedia-sample") else " ").join(documents)


def documents_of(name: str, data: bytes, origin: str, limit: int | None = None) -> list[str]:
    """The first `limit` documents (None = all) in stored bytes.

    Tables of rows give their text field.  Plain text is cut as the corpus is published: WikiText-2 into lines with
    their line feed (blank ones are empty), PTB into stripped lines, C4 into non-blank lines, Wikipedia into articles.
    """
    if has_rows(origin):
        documents = texts_of(read_rows(data, origin, limit), origin)
        documents = [text.strip() for text in documents] if name in ("ptb", "ptb_unk") else documents
    else:
        documents = _cut(name, read_text(data, origin))[:limit]
    if not any(documents):
        raise UserError(f"{origin} holds no document of {name}")
    return documents


def text_identity(text: str) -> str:
    """`sha256:` and the digest of the text's UTF-8 bytes."""
    return f"sha256:{sha256(text.encode()).hexdigest()}"


def _stored(ref: DataRef) -> tuple[bytes, str]:
    return read_content(ref, CORPORA[ref.name, ref.role].hub)


def _cut(name: str, text: str) -> list[str]:
    if name == "wikipedia-sample":
        return wikipedia_articles(text)
    lines = text.removesuffix("\n").split("\n")
    if name == "wikitext2":
        # The hub's rows keep the line feed, and a blank line (which is " " in the raw file) is the empty string.
        return [line + "\n" if line.strip() else "" for line in lines]
    if name == "c4":
        return [line for line in lines if line.strip()]
    return [line.strip() for line in lines]


def wikipedia_articles(text: str) -> list[str]:
    """Articles of a WikiExtractor dump: ``<doc>`` tags and the title line go, articles without a body too."""
    bodies = (body.partition("\n")[2].strip() for body in _ARTICLE.findall(text))
    return [body for body in bodies if body]
