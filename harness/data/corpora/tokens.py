"""Token ids from a ``.npy`` file that the configuration names, for models without tokenizer and for exact repeats."""

from harness.data.corpora.base import CORPORA, ArrayCorpus
from harness.data.places import Places

TOKENS = "tokens"

CORPUS = ArrayCorpus(
    calibration=Places("An array of token ids, [sequences, length], from an .npy file"),
    evaluation=Places("the token array at data.tokens"),
)
CORPORA.add(TOKENS, CORPUS)
