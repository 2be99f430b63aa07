"""Recovery: what is done to a pruned model before it is measured; zeros stay zeros."""
