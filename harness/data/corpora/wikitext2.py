"""WikiText-2 raw (Merity et al. 2016): good and featured articles of Wikipedia."""

from harness.data.corpora.base import CORPORA, TextCorpus
from harness.data.hub import HubFile
from harness.data.places import Places

REPO, COMMIT = "Salesforce/wikitext", "b08601e04326c79dfdd32d625aee71d232d685c3"


def rows(text: str) -> list[str]:
    """Lines as the hub has them: with their line feed; a blank line, which is " " in the raw file, is empty."""
    return [line + "\n" if line.strip() else "" for line in text.removesuffix("\n").split("\n")]


WIKITEXT2 = TextCorpus(
    calibration=Places(
        "WikiText-2 training text: windows of the joined text",
        folder=("wikitext2/wiki.train.raw", "wikitext2/wiki.train.part.raw"),
        hub=(HubFile(REPO, "wikitext-2-raw-v1/train-00000-of-00001.parquet", COMMIT),),
    ),
    evaluation=Places(
        "WikiText-2 raw, test split: the perplexity of the pruning papers",
        folder=("wikitext2/wiki.test.raw",),
        hub=(HubFile(REPO, "wikitext-2-raw-v1/test-00000-of-00001.parquet", COMMIT),),
        published="sha256:696cca6b65a171b0a358a4be6732cdfdf2dd6164a32e20fd70e3c13fc4dfae83",
    ),
    cut=rows,
    joined_by="\n\n",
    samples=("wiki.train.part.raw",),
)
CORPORA.add("wikitext2", WIKITEXT2)
