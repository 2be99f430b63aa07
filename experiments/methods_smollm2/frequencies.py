"""Perplexity of a model that knows how frequent each token is and nothing else, on the windows of the kept records.

    python experiments/methods_smollm2/frequencies.py

Once with the frequencies of the very text, and once with those of its other tokens plus one each.
"""

import numpy as np
import torch

from harness.data.corpora.base import CORPORA
from harness.data.sources import resolve
from harness.models.checkpoint import Checkpoint
from harness.models.loading import load_model

LENGTH, WINDOWS = 1024, 64


def main() -> None:
    """Print both for each corpus."""
    smollm2 = load_model(Checkpoint("embedded", "smollm2-135m", None, None, False), torch.bfloat16)
    for name in ("wikitext2", "ptb"):
        tokens = CORPORA.get(name).tokens(resolve(name, "evaluation"), smollm2.tokenizer, LENGTH, smollm2.vocab_size)
        ids = tokens.ids[: LENGTH * WINDOWS]
        counts = np.bincount(ids, minlength=smollm2.vocab_size)[ids]
        own = np.exp(-np.log(counts / len(ids)).mean())
        others = np.exp(-np.log(counts / (len(ids) - 1 + smollm2.vocab_size)).mean())
        print(
            f"{name}, {len(ids)} tokens: {own:.0f} with their own frequencies, {others:.0f} with the others' plus one"
        )


if __name__ == "__main__":
    main()
