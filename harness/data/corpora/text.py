"""Any text: a file of the user's, plain, or rows with a field ``text`` (JSON lines, parquet, arrow)."""

from harness.data.corpora.base import CORPORA, TextCorpus
from harness.data.places import Places

TEXT = TextCorpus(
    calibration=Places("Any text: windows of the file at calibration.path, a document a line"),
    evaluation=Places("any text: the file at data.text, as it is"),
    joined_by="\n",
)
CORPORA.add("text", TEXT)
