"""The fast zero-shot scorer: log-likelihoods of continuations under an in-memory model, each token computed once."""

from harness.evaluation.scoring.encoding import PairEncoder
from harness.evaluation.scoring.lm import PackedLM

__all__ = ["PackedLM", "PairEncoder"]
