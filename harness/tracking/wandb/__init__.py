"""The mirror of the records in Weights & Biases."""
