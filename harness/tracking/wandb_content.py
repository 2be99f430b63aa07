"""What Weights & Biases is told of a record: names, tags, configuration, numbers.  Nothing here imports wandb."""

import hashlib
import re
from collections.abc import Iterable, Mapping

from harness.record import EvalResult, JsonValue, RunRecord

ID_LENGTH = 64
TAG_LENGTH = 64
"""W&B takes no longer ids and tags."""

LAYER_COLUMNS = ("layer", "out_features", "in_features", "requested_sparsity", "achieved_sparsity", "output_error")


def run_id(job_id: str) -> str:
    """W&B's id of a job's run: the job id where W&B allows it, else its head and a digest."""
    allowed = re.sub(r"[^A-Za-z0-9._-]", "-", job_id)
    if allowed == job_id and len(job_id) <= ID_LENGTH:
        return job_id
    digest = hashlib.sha256(job_id.encode()).hexdigest()[:12]
    return f"{allowed[: ID_LENGTH - 13]}-{digest}"


def config_of(record: RunRecord) -> dict[str, JsonValue]:
    """The job, flat: ``method.params.percdamp`` instead of nested mappings."""
    return {"job_id": record.job_id, **_flat(record.job)}


def tags_of(record: RunRecord) -> list[str]:
    """The axes: method, pattern, sparsity, model; and ``failed`` for a job that failed."""
    job = record.job
    tags = [_name_in(job, "method"), str(job.get("pattern")), f"sparsity={job.get('sparsity')}", _name_in(job, "model")]
    if record.status == "failed":
        tags.append("failed")
    return list(dict.fromkeys(tag[:TAG_LENGTH] for tag in tags))


def metric_name(result: EvalResult) -> str:
    """The metric and its whole protocol, e.g. ``perplexity/wikitext2:seq2048:v1`` or ``acc_norm/piqa:first100:v1``."""
    return f"{result.metric}/{result.protocol.removeprefix(result.kind + ':')}"


def summary_of(record: RunRecord) -> dict[str, float | int | str | bool]:
    """Every number of a record under a name that says what it is; what was not measured is not there."""
    values: dict[str, float | int | str | bool | None] = {"status": record.status}
    for result in record.results:
        name = metric_name(result)
        values[name] = result.value
        values[f"{name}:stderr"] = result.stderr
        values[f"{name}:num_samples"] = result.num_samples
    values["achieved_sparsity"] = record.achieved_sparsity
    values |= {f"seconds/{step}": seconds for step, seconds in record.timings_s.items()}
    values |= {f"peak_memory_bytes/{place}": amount for place, amount in record.peak_memory_bytes.items()}
    made = record.provenance
    values |= {f"made/{name}": getattr(made, name) for name in ("commit", "dirty", "device", "dtype", "created")}
    return {name: value for name, value in values.items() if value is not None}


def layer_rows(record: RunRecord) -> list[Iterable[object]]:
    """One row a pruned linear, as `LAYER_COLUMNS` names them."""
    return [
        [
            layer.name,
            *layer.shape,
            layer.requested_sparsity,
            layer.achieved_sparsity,
            layer.relative_output_error,
        ]
        for layer in record.layers
    ]


def _flat(values: Mapping[str, JsonValue], prefix: str = "") -> dict[str, JsonValue]:
    flat: dict[str, JsonValue] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _name_in(job: Mapping[str, JsonValue], axis: str) -> str:
    choice = job.get(axis)
    return str(choice["name"]) if isinstance(choice, dict) else str(choice)
