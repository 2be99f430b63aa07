"""What W&B is told of a record."""

import math
import re
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from harness.record import LayerReport, RunRecord
from harness.tracking.wandb import content

RecordMaker = Callable[..., RunRecord]


@given(st.text(min_size=1, max_size=200), st.text(min_size=1, max_size=200))
def test_run_ids_are_allowed_and_distinct(first: str, second: str) -> None:
    """Any job id gets an id of 1 to 64 characters that W&B takes, and two jobs never share one."""
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", content.run_id(first))
    assert (content.run_id(first) == content.run_id(second)) == (first == second)


def test_run_id_is_the_job_id_where_it_can_be() -> None:
    """People find a run by its job."""
    assert content.run_id("opt-125m__wanda__nm-2-4__1b6f78fd") == "opt-125m__wanda__nm-2-4__1b6f78fd"


def test_metric_names_hold_their_protocol(make_record: RecordMaker) -> None:
    """Perplexity and accuracy say corpus or task, length, subset and version; what is missing is not there."""
    summary = content.summary_of(make_record())
    assert summary["perplexity/wikitext2:seq2048:v1"] == 31.5
    assert summary["acc_norm/piqa:first100:v1.0"] == 0.62
    assert summary["acc_norm/piqa:first100:v1.0:stderr"] == 0.05
    assert summary["achieved_sparsity"] == 0.5
    assert summary["seconds/total"] == 9.0
    assert summary["peak_memory_bytes/cpu"] == 1024
    assert "acc/boolq:v2.0" not in summary
    assert not [value for value in summary.values() if isinstance(value, float) and math.isnan(value)]


def test_config_is_the_job_and_the_record(make_record: RecordMaker) -> None:
    """The identity as it is stored, the job id to join by, and the record itself in one field."""
    record = make_record()
    config = content.config_of(record)
    assert config["job_id"] == record.job_id
    assert config["method"] == {"name": "wanda", "params": {"block_size": 128}}
    assert (config["pattern"], config["sparsity"], config["seed"]) == ("2:4", 0.5, 0)
    assert content.unpacked(config, "here") == record


def test_tags_are_the_axes(make_record: RecordMaker) -> None:
    """Method, pattern, sparsity and model; a failed job says so; none is longer than W&B takes."""
    assert content.tags_of(make_record()) == ["wanda", "2:4", "sparsity=0.5", "opt-125m"]
    failed = content.tags_of(make_record(status="failed", sparsity=0.7, model="m" * 80))
    assert failed == ["wanda", "unstructured", "sparsity=0.7", "m" * 64, "failed"]


def test_layers_are_rows_under_their_columns(make_record: RecordMaker) -> None:
    """One row a layer; an error that was not measured stays empty."""
    rows = [list(row) for row in content.layer_rows(make_record())]
    assert [dict(zip(content.LAYER_COLUMNS, row, strict=True))["output_error"] for row in rows] == [0.125, None]
    assert rows[0] == ["model.layers.0.q_proj", 4, 8, 0.5, 0.5, 0.125]


def test_lines_run_over_the_blocks(make_record: RecordMaker) -> None:
    """One row a block, each linear under the name it has in every block; the head has no place among them."""
    names = ("model.layers.10.mlp.up", "model.layers.2.mlp.up", "model.layers.2.experts.3.up", "lm_head")
    layers = tuple(LayerReport(name, (4, 8), 0.5, 0.5, 0.125, 64) for name in names)
    rows = content.layer_series(make_record(layers=layers))
    assert [row["block"] for row in rows] == [2, 10]
    assert set(rows[0]) == {"block"} | {
        f"layer_{what}/{n}" for what in ("error", "sparsity") for n in ("mlp.up", "experts.3.up")
    }


def test_group_is_the_experiment_of_the_command(make_record: RecordMaker) -> None:
    """A rebuilt run is in the group that it was in at first."""
    from dataclasses import replace

    record = make_record()
    assert content.group_of(record) == "runs"
    made = replace(record.provenance, command=("method=wanda", "+experiment=demo"))
    assert content.group_of(replace(record, provenance=made)) == "demo"
