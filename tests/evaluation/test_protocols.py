"""Protocols name the data when they are not the published ones, and refuse what measures nothing."""

from pathlib import Path
from typing import Any

import pytest

from harness.data.catalogue import TASKS as ROWS
from harness.data.catalogue import DataRef
from harness.errors import UserError
from harness.evaluation.kinds.perplexity import perplexity_protocol
from harness.evaluation.kinds.zero_shot import zero_shot_protocol
from harness.evaluation.protocols import CORPORA, TASKS


def reference(name: str, official: bool) -> DataRef:
    """A reference to data that need not exist."""
    return DataRef(name, "evaluation", "folder", "/somewhere", "sha256:" + "ab" * 32, official)


def test_published_data_are_not_part_of_the_key() -> None:
    """Published text gives a plain key wherever it came from; other text is told apart by its identity."""
    official = perplexity_protocol("wikitext2", reference("wikitext2", True), 2048, None, False)
    other = perplexity_protocol("wikitext2", reference("wikitext2", False), 2048, 64, True)
    assert official.key == "perplexity:wikitext2:seq2048:v1"
    assert other.key.startswith("perplexity:wikitext2:seq2048:first64:bos:v1:data-")
    assert zero_shot_protocol("boolq", reference("boolq", True), 100).key == "zero_shot:boolq:first100:v2.0"
    assert "data-" in zero_shot_protocol("boolq", reference("boolq", False), None).key


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: perplexity_protocol("c5", reference("c5", True), 8, None, False), "unknown evaluation corpus 'c5'"),
        (lambda: perplexity_protocol("c4", reference("c4", True), 1, None, False), "seq_len=1 "),
        (lambda: perplexity_protocol("c4", reference("c4", True), 8, 0, False), "max_windows=0 "),
        (lambda: zero_shot_protocol("qa", reference("qa", True), None), "unknown zero-shot task 'qa'; choose from: bo"),
        (lambda: zero_shot_protocol("boolq", reference("boolq", True), 0), "limit=0 "),
    ],
)
def test_wrong_requests_are_the_users_error(make: Any, said: str) -> None:
    """One line with the value and what is allowed."""
    with pytest.raises(UserError) as caught:
        make()
    assert said in str(caught.value)


def test_every_task_has_rows_and_upstream_split() -> None:
    """The table of protocols and the table of rows name the same tasks and splits."""
    assert {name: task.split for name, task in TASKS.items()} == {name: rows.split for name, rows in ROWS.items()}
    assert all(text and "\n" not in text for text in CORPORA.values())


@pytest.mark.parametrize("name", TASKS)
def test_the_table_is_lm_evals(name: str) -> None:
    """Hub repository, configuration, split and metrics are those of the pinned lm-eval's own definition."""
    import lm_eval
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    known = TASKS[name]
    folder = Path(lm_eval.__file__).parent / "tasks" / known.definition
    entry = TaskManager(include_defaults=False, include_path=str(folder)).task_index[name]
    config = load_yaml(entry.yaml_path, resolve_func=False)
    assert (config["dataset_path"], config.get("dataset_name")) == (ROWS[name].repo, ROWS[name].config)
    assert (config.get("test_split") or config["validation_split"]) == known.split
    assert [m["metric"] for m in config["metric_list"] if m["metric"] != "perplexity"] == list(known.metrics)
    assert str(config.get("metadata", {}).get("version", "Yaml")) == known.version
