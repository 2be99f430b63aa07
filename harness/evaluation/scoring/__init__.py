"""The fast zero-shot scorer: log-likelihoods of continuations under an in-memory model, each token computed once."""
