"""What Weights & Biases is told of a record: names, tags, configuration, numbers.  Nothing here imports wandb."""

import base64
import binascii
import hashlib
import json
import math
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import cast

from harness.errors import UserError
from harness.record import EvalResult, JsonValue, RunRecord, from_json, to_json

ID_LENGTH = 64
TAG_LENGTH = 64
"""W&B takes no longer ids and tags."""

RECORD = "record"
RECORD_SHA256 = "record_sha256"
"""Configuration fields that carry the record itself, packed, and the digest of its JSON."""
LAYOUT = 3
"""Raise it when a run is to be written differently, and `harness.tracking.wandb.mirror.rebuild` writes all again."""

LAYER_COLUMNS = ("layer", "out_features", "in_features", "requested_sparsity", "achieved_sparsity", "output_error")
BLOCK = "block"
LAYER_ERROR = "layer_error"
LAYER_SPARSITY = "layer_sparsity"
"""The lines over the blocks: ``layer_error/self_attn.q_proj`` against ``block``."""


def run_id(job_id: str) -> str:
    """W&B's id of a job's run: the job id where W&B allows it, else its head and a digest."""
    allowed = re.sub(r"[^A-Za-z0-9._-]", "-", job_id)
    if allowed == job_id and len(job_id) <= ID_LENGTH:
        return job_id
    digest = hashlib.sha256(job_id.encode()).hexdigest()[:12]
    return f"{allowed[: ID_LENGTH - 13]}-{digest}"


def config_of(record: RunRecord) -> dict[str, JsonValue]:
    """The job, nested as it is stored (W&B shows ``method.params.percdamp``), and the whole record, packed.

    The record travels in the configuration because that arrives with the run's very first request and comes back
    with any list of runs: no file to lose, no second request a run to read it.
    """
    return {"job_id": record.job_id, **cast("Mapping[str, JsonValue]", record.job), **packed(record)}


def stamp_of(record: RunRecord, project: str, entity: str | None) -> bytes:
    """What is kept in the folder of an offline run: the record, and where the run is meant to go; equal for equal runs.

    Not its model, which a record that is mirrored again cannot tell.
    """
    return json.dumps({"layout": LAYOUT, "project": project, "entity": entity, **packed(record)}, indent=1).encode()


def packed(record: RunRecord) -> dict[str, str]:
    """The record's JSON, compressed, as text, and its digest; `unpacked` reads it."""
    data = to_json(record)
    return {RECORD: base64.b64encode(zlib.compress(data, 9)).decode(), RECORD_SHA256: hashlib.sha256(data).hexdigest()}


def unpacked(config: Mapping[str, object], origin: str) -> RunRecord:
    """The record that a run's configuration carries; `origin` names the run in errors.

    Raises:
        UserError: it carries none, or what it carries is damaged or of another schema version.
    """
    text, digest = config.get(RECORD), config.get(RECORD_SHA256)
    if not isinstance(text, str):
        raise UserError(f"{origin} carries no record; was it written by `prunebench mirror`?")
    try:
        data = zlib.decompress(base64.b64decode(text, validate=True))
    except (binascii.Error, zlib.error, ValueError) as error:
        raise UserError(f"{origin} carries a damaged record: {error}") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise UserError(f"{origin} carries a damaged record: it is not the one that {RECORD_SHA256}={digest} names")
    return from_json(data, origin)


def notes_of(record: RunRecord) -> str:
    """The record's own notes, then where the record is: a reader of the run finds the truth it mirrors."""
    return "\n".join([*record.notes, f"record: {record.job_id}.json"])


def group_of(record: RunRecord) -> str:
    """The sweep that the record's command names: its experiment, else ``runs``."""
    named = (text.partition("=")[2] for text in record.provenance.command if text.startswith("+experiment="))
    return next(named, "runs")


def tags_of(record: RunRecord) -> list[str]:
    """The axes: method, pattern, sparsity, model; and ``failed`` for a job that failed."""
    job = record.job
    tags = [job["method"]["name"], job["pattern"], f"sparsity={job['sparsity']}", job["model"]["name"]]
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
    errors = [layer.relative_output_error for layer in record.layers if layer.relative_output_error is not None]
    if errors:
        values |= {f"{LAYER_ERROR}_mean": math.fsum(errors) / len(errors), f"{LAYER_ERROR}_max": max(errors)}
    values |= {f"seconds/{step}": seconds for step, seconds in record.timings_s.items()}
    values |= {f"peak_memory_bytes/{place}": amount for place, amount in record.peak_memory_bytes.items()}
    made = record.provenance
    values |= {f"made/{name}": getattr(made, name) for name in ("commit", "dirty", "device", "dtype", "created")}
    return {name: value for name, value in values.items() if value is not None}


def layer_rows(record: RunRecord) -> list[Iterable[object]]:
    """One row a pruned linear, as `LAYER_COLUMNS` names them."""
    return [
        [layer.name, *layer.shape, layer.requested_sparsity, layer.achieved_sparsity, layer.relative_output_error]
        for layer in record.layers
    ]


def layer_series(record: RunRecord) -> list[dict[str, float | int]]:
    """One row a block: its number, and error and zeros of each linear under the name it has in every block.

    A linear outside the blocks has no place on that axis; it stands in the table of layers only.
    """
    rows: dict[int, dict[str, float | int]] = {}
    for layer in record.layers:
        if layer.place is None:
            continue
        block, name = layer.place
        row = rows.setdefault(block, {BLOCK: block})
        row[f"{LAYER_SPARSITY}/{name}"] = layer.achieved_sparsity
        if layer.relative_output_error is not None:
            row[f"{LAYER_ERROR}/{name}"] = layer.relative_output_error
    return [rows[block] for block in sorted(rows)]
