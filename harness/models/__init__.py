"""Models: where their weights are, how they load, and which of their layers can be pruned."""
