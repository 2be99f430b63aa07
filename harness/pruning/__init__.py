"""Pruning: methods, masks, allocations, and sequential (block-wise), global and structured pruning."""
