"""Prunebench: one command to prune language models, measure them, and tabulate the outcome."""

__version__ = "0.1.0"
