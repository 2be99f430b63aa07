"""Benchmarks, run by hand: `python -m benchmarks NAME [OPTION ...]`.  They print ratios measured side by side."""
