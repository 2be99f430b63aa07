"""What a model is measured with: perplexity, zero-shot tasks, and the protocols that name them."""
