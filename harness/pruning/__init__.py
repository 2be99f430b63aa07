"""Pruning: methods, masks, and the walk over a model's blocks."""
