"""Penn Treebank as prepared by Mikolov: Wall Street Journal of 1989, a sentence a line, rare words as <unk>.

Two protocols on one text: the literal <unk> is text like any other, or becomes the unknown token of tokenizers that
have one.  LLM-Pruner's papers have another text: the validation split, joined by blank lines.

Not free to redistribute: no wheel has it.
"""

from dataclasses import replace

from harness.data.corpora.base import CORPORA, TextCorpus
from harness.data.hub import HubFile
from harness.data.places import Places


def hub_files(split: str) -> tuple[HubFile, ...]:
    """The hub's own conversion of the official data set, which ships a loading script only, then a copy of that."""
    file = f"penn_treebank/{split}/0000.parquet"
    return HubFile("ptb-text-only/ptb_text_only", file, "refs/convert/parquet"), HubFile("FALcon6/ptb_text_only", file)


PTB = TextCorpus(
    calibration=Places(
        "Penn Treebank training text: windows of the joined text",
        folder=("ptb/ptb.train.txt.gz", "ptb/ptb.train.txt"),
        hub=hub_files("train"),
        published="sha256:05c01a9258233ad1eaa215f507c0b3b12ce2130dd579ea16099e037debab6dca",
    ),
    evaluation=Places(
        "Penn Treebank, test split; the literal <unk> is tokenised as text",
        folder=("ptb/ptb.test.txt",),
        hub=hub_files("test"),
        published="sha256:900cfc61a7a63afcd086c5e1cce90554764eae65cb2ca9f5d4cac47be5f0f394",
    ),
    clean=str.strip,
    special_tokens_as_text=True,
)
CORPORA.add("ptb", PTB)

assert PTB.evaluation is not None, "it is measured on"
UNK = "Penn Treebank, test split; <unk> becomes the tokenizer's unknown token, as in the older papers"
CORPORA.add(
    "ptb_unk",
    replace(PTB, calibration=None, evaluation=replace(PTB.evaluation, about=UNK), special_tokens_as_text=False),
)
VALIDATION = replace(
    PTB.evaluation,
    about="Penn Treebank, validation split joined by blank lines, as LLM-Pruner has it; <unk> is tokenised as text",
    folder=("ptb/ptb.valid.txt",),
    hub=hub_files("validation"),
    published="sha256:352a9351af725c5d5d6ccdd38357a35ebfef8c79916364fdf458fa72a4fb91c3",
)
CORPORA.add("ptb-validation", replace(PTB, calibration=None, evaluation=VALIDATION, joined_by="\n\n"))
