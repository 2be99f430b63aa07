"""Sequences that the dense model itself samples: calibration without data.

Source: Williams, Chrysostomou & Aletras 2025, "Self-calibration for Language Model Quantization and Pruning",
https://arxiv.org/abs/2410.17170.  Here in its plainest form: from the BOS token on at temperature 1, with nothing cut
from the distribution; a text that ends is followed by another in the same sequence.
"""

from dataclasses import dataclass
from pathlib import Path

from harness.data.arrays import EvaluationTokens, Tokenizer
from harness.data.corpora.base import CORPORA, Corpus
from harness.data.places import DataRef, Given, Places, Role
from harness.job import Sampling

SELF_GENERATED = "self_generated"
VERSION = "1"
"""Part of the identity; raised when the sampling changes."""
ROWS = 16
"""Sequences sampled at a time, which bounds the cache of keys and values.  Batches of other sizes round otherwise: it
decides tokens, so that no option may change it."""


def _no_rows() -> object:
    raise AssertionError("what a model samples is not read")


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfGenerated(Corpus):
    """What a model says of itself; there is nothing to read, and nothing to measure on."""

    needs_tokenizer = False
    samplings = ("sampled",)

    def sampling(self, ref: DataRef) -> Sampling:
        return "sampled"

    def tokens(
        self, ref: DataRef, tokenizer: Tokenizer | None, seq_len: int, vocab_size: int, *, bos: bool = True
    ) -> EvaluationTokens:
        raise AssertionError(f"{ref.name} has no evaluation text")

    def file_identity(self, role: Role, path: Path) -> str:
        raise AssertionError(f"{path} is not asked for: there is no file")


CORPUS = SelfGenerated(
    calibration=Places(
        "sequences that the dense model itself samples at temperature 1; no data are needed",
        embedded=Given("the dense model", _no_rows, f"self-generated:v{VERSION}"),
    ),
    num_sequences=128,
    seq_len=2048,
)
CORPORA.add(SELF_GENERATED, CORPUS)
