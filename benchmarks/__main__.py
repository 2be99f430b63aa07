"""Run one benchmark by name, or all of them."""

import importlib
import sys

NAMES = (
    "pruning",
    "perplexity",
    "zero_shot",
    "sweep",
    "memory",
    "compiled",
    "larger_than_memory",
    "page",
    "reports",
    "figures",
    "planning",
    "faults",
    "house",
)

if __name__ == "__main__":
    names, options = sys.argv[1:2] or list(NAMES), sys.argv[2:]
    for name in names:
        if name not in NAMES:
            sys.exit(f"unknown benchmark {name!r}; choose from: {', '.join(NAMES)}")
        importlib.import_module(f"benchmarks.{name}").main(options)
