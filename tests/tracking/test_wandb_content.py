"""What W&B is told of a record."""

import math
import re
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from harness.record import RunRecord
from harness.tracking import wandb_content as content

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


def test_config_is_the_job_flat(make_record: RecordMaker) -> None:
    """Every part of the identity is one column, and the job id is there to join by."""
    record = make_record()
    config = content.config_of(record)
    assert config["job_id"] == record.job_id
    assert config["method.name"] == "wanda"
    assert config["method.params.block_size"] == 128
    assert (config["pattern"], config["sparsity"], config["seed"]) == ("2:4", 0.5, 0)
    assert not [value for value in config.values() if isinstance(value, dict)]


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
