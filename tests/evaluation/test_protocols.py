"""Protocols name the data when they are not the published ones; tasks are those of the pinned lm-eval."""

from pathlib import Path
from typing import Any

import pytest

from harness.data.corpora.base import CORPORA
from harness.data.places import DataRef, Role
from harness.data.tasks.base import TASKS
from harness.evaluation.base import Evaluation
from harness.evaluation.kinds.perplexity import WindowPerplexity
from harness.evaluation.kinds.zero_shot import ZeroShot

ROLES: tuple[Role, ...] = ("calibration", "evaluation")


def reference(name: str, official: bool) -> DataRef:
    """A reference to data that need not exist."""
    return DataRef(name, "evaluation", "folder", "/somewhere", "sha256:" + "ab" * 32, official)


def key(asked: Evaluation[Any], official: bool) -> str:
    """Of the one protocol that is asked for."""
    ((protocol, _),) = asked.ask(lambda name: reference(name, official))
    return str(protocol.key)


def test_published_data_are_not_part_of_the_key() -> None:
    """Published text gives a plain key wherever it came from; other text is told apart by its identity."""
    assert key(WindowPerplexity(corpora=("wikitext2",)), True) == "perplexity:wikitext2:seq2048:v1"
    other = key(WindowPerplexity(2048, 64, True, ("wikitext2",)), False)
    assert other.startswith("perplexity:wikitext2:seq2048:first64:bos:v2:data-")
    assert key(ZeroShot(("boolq",), 100), True) == "zero_shot:boolq:first100:v2.0"
    assert "data-" in key(ZeroShot(("boolq",)), False)


def test_every_entry_says_what_it_is_in_one_line() -> None:
    """Of each role; what plans and lists show."""
    places = [entry.places(role) for entry in (*CORPORA.all().values(), *TASKS.all().values()) for role in ROLES]
    assert all(each.about and "\n" not in each.about for each in places if each is not None)


@pytest.mark.parametrize("name", TASKS.all())
def test_the_table_is_lm_evals(name: str) -> None:
    """Hub repository, configuration, split and metrics are those of the pinned lm-eval's own definition."""
    import lm_eval
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    known = TASKS.get(name)
    assert known.definition is not None
    folder = Path(lm_eval.__file__).parent / "tasks" / known.definition
    called = name if known.part is None else known.part[1].format("anatomy")
    entry = TaskManager(include_defaults=False, include_path=str(folder)).task_index[called]
    config = load_yaml(entry.yaml_path, resolve_func=False)
    hub = config["dataset_path"], config.get("dataset_name") if known.part is None else "all"
    assert known.hub == (None if name == "storycloze_2016" else hub)  # which the hub has no data of
    assert (config.get("test_split") or config["validation_split"]) == known.split
    assert [m["metric"] for m in config["metric_list"] if m["metric"] != "perplexity"] == list(known.metrics)
    assert str(config.get("metadata", {}).get("version", "Yaml")) == known.version
