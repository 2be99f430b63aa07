"""Relative output errors, layer by layer, of pairs of jobs of the kept records.

    python experiments/methods_smollm2/layers.py

From the second block on a job that propagates the pruned prefix sees its own inputs; the first block's are equal.
"""

from collections.abc import Mapping
from pathlib import Path
from statistics import median

from harness.record import RunRecord
from harness.reporting.frame import describe
from harness.tracking.store import RecordStore

RESULTS = Path(__file__).parents[2] / "results" / "methods_smollm2"
PATTERNS = (("unstructured", 0.5), ("unstructured", 0.7), ("2:4", 0.5))
FIRST_BLOCK = 7
"""Linears of one block."""
PAIRS = (
    ("sparsegpt", "adaprune"),
    ("adaprune", "wanda"),
    ("adaprune", "magnitude granularity=tensor"),
    ("wanda", "magnitude granularity=tensor"),
    ("dsnot accept=better_rows initial=wanda", "wanda"),
    ("dsnot accept=all_rows initial=wanda", "wanda"),
    ("ria permutation=none", "wanda"),
    ("ria permutation=heuristic", "ria permutation=none"),
    ("ria permutation=assignment", "ria permutation=none"),
    ("wanda owl", "wanda"),
    ("sparsegpt owl", "sparsegpt"),
    ("wanda alphapruning", "wanda"),
    ("sparsegpt alphapruning", "sparsegpt"),
    ("wanda besa", "wanda"),
    ("llm_surgeon", "sparsegpt"),
)


def find(records: list[RunRecord], name: str, pattern: tuple[str, float]) -> RunRecord | None:
    """The job of a method with these parameters, and this allocation where one is named."""
    method, *wanted = name.split()
    allocation = next((word for word in wanted if "=" not in word), "uniform")
    for record in records:
        job = describe(record)
        params = set(job.params.split(", "))
        named = (job.method, job.allocation.split(" (")[0], job.pattern, job.sparsity)
        if named == (method, allocation, *pattern) and {word for word in wanted if "=" in word} <= params:
            return record
    return None


def errors(record: RunRecord) -> Mapping[str, float]:
    """Relative output error by layer."""
    return {layer.name: layer.relative_output_error or 0.0 for layer in record.layers}


def main() -> None:
    """Print a line for every pair and pattern that both were run with."""
    records = RecordStore(RESULTS).all()
    for pattern in PATTERNS:
        for name, other in PAIRS:
            one, two = find(records, name, pattern), find(records, other, pattern)
            if one is None or two is None:
                continue
            base = errors(two)
            by_layer = {layer: error / base[layer] for layer, error in errors(one).items()}
            ratios = list(by_layer.values())
            most = sorted(by_layer, key=lambda layer: -by_layer[layer])[:4]
            worse = [sum(ratio > 1 for ratio in part) for part in (ratios, ratios[:FIRST_BLOCK])]
            print(
                f"{pattern[0]} {pattern[1]:.0%}: {name} / {other}: median {median(ratios):.3f}, "
                f"larger in {worse[0]} of {len(ratios)} layers, in {worse[1]} of {FIRST_BLOCK} of the first block; "
                f"most in {', '.join(f'{layer} {by_layer[layer]:.2f}' for layer in most)}"
            )


if __name__ == "__main__":
    main()
