"""What version 1 of the record left to the code: the defaults of that time, frozen for good.

Version 2 says them itself.  Never change these tables with the code: they are what the records of version 1 meant.
"""

from collections.abc import Mapping
from typing import Any

METHODS: Mapping[str, Mapping[str, Any]] = {
    "adaprune": {"granularity": "tensor", "solver": "auto", "tolerance": 0.003, "steps": 1000, "learning_rate": 0.001},
    "channel-magnitude": {"norm_of": "auto"},
    "dense": {},
    "dsnot": {
        "initial": "wanda",
        "max_cycles": 50,
        "update_threshold": 0.1,
        "variance_power": 1.0,
        "accept": "better_rows",
    },
    "llm_surgeon": {
        "shots": 40,
        "max_correlate": 2000,
        "add_update": False,
        "damping_input": 0.01,
        "damping_gradient": 0.1,
        "criterion": "surgeon",
        "prune_bias": False,
    },
    "lottery": {
        "rounds": 5,
        "steps": 500,
        "batch": 32,
        "learning_rate": 0.0012,
        "granularity": "layer",
        "start": "checkpoint",
        "train": "all",
        "control": "none",
    },
    "magnitude": {"granularity": "tensor"},
    "obc": {"rel_damp": 0.0},
    "random": {"seed": 0, "granularity": "tensor"},
    "ria": {"activation_power": 0.5, "comparison_group": "matrix", "permutation": "none"},
    "sparsegpt": {"damping": 0.01, "block_size": 128},
    "venum": {},
    "wanda": {},
}
"""Hyperparameters of every method with their defaults."""

ALLOCATIONS: Mapping[str, Mapping[str, Any]] = {
    "alphapruning": {"epsilon": 0.3, "tail": "peak"},
    "besa": {"penalty": 5.0, "smoothing": "none", "epochs": 1, "d_coef": 5.0},
    "owl": {"outlier_threshold": 5.0, "width": 0.08},
    "sensitivity": {"tolerance": 0.012, "search": "scan", "held_out": 16},
    "uniform": {},
}

DENSE_CALIBRATION = ("adaprune", "obc", "venum")
"""Methods whose authors take the inputs of a block from the dense model."""

UNPUBLISHED = ("adaprune",)
"""Methods that share only their name with what papers print."""

PAPER_NAMES: Mapping[str, str] = {
    "gpt2": "GPT2-124M",
    "gpt2-large": "GPT2-774M",
    "gpt2-medium": "GPT2-350M",
    "gpt2-xl": "GPT2-1.5B",
    "llama-13b": "LLaMA-13B",
    "llama-2-13b": "LLaMA-2-13B",
    "llama-2-70b": "LLaMA-2-70B",
    "llama-2-7b": "LLaMA-2-7B",
    "llama-3-70b": "Llama-3-70B",
    "llama-3-8b": "Llama-3-8B",
    "llama-3.1-8b": "Llama-3.1-8B",
    "llama-30b": "LLaMA-30B",
    "llama-65b": "LLaMA-65B",
    "llama-7b": "LLaMA-7B",
    "opt-1.3b": "OPT-1.3B",
    "opt-125m": "OPT-125M",
    "opt-13b": "OPT-13B",
    "opt-2.7b": "OPT-2.7B",
    "opt-30b": "OPT-30B",
    "opt-350m": "OPT-350M",
    "opt-6.7b": "OPT-6.7B",
    "opt-66b": "OPT-66B",
}
"""How papers spell the models."""


def upgraded(document: dict[str, Any]) -> dict[str, Any]:
    """A record of version 1 as one of version 2; what is no record comes back as it is."""
    job = document.get("job")
    if document.get("schema_version") != 1 or not isinstance(job, dict):
        return document
    return document | {"schema_version": 2, "defaults": defaults(job)}


def defaults(job: Mapping[str, Any]) -> dict[str, Any]:
    """The `defaults` of a job of version 1; a name that is not in the tables has none."""
    model, method, allocation = (_name(job.get(axis)) for axis in ("model", "method", "allocation"))
    known = "dense" if method in DENSE_CALIBRATION else "pruned"
    return {
        "paper_name": PAPER_NAMES.get(model),
        "method": METHODS.get(method, {}),
        "allocation": ALLOCATIONS.get(allocation, {}),
        "propagation": known if method in METHODS else None,
        "has_published_numbers": method not in UNPUBLISHED,
    }


def _name(choice: object) -> str:
    return str(choice.get("name")) if isinstance(choice, dict) else ""
