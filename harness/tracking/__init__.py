"""Tracking: the store of records, their provenance, and their mirror in Weights & Biases."""
