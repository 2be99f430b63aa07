"""What tests of corpora read: the text of a reference, as it is measured on and as it is drawn from."""

from harness.data.corpora.base import CORPORA, TextCorpus
from harness.data.places import DataRef


def text(name: str) -> TextCorpus:
    """A corpus of documents."""
    corpus = CORPORA.all()[name]
    assert isinstance(corpus, TextCorpus)
    return corpus


def evaluation_text(ref: DataRef) -> str:
    """What perplexity is measured on."""
    return text(ref.name).evaluation_text(ref)


def load_documents(ref: DataRef) -> list[str]:
    """What calibration draws from."""
    return text(ref.name).documents(ref)
