"""The papers' sweeps as they are typed, on tiny models in their families' layouts, from a hub of this machine."""

import gzip
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from harness.data.corpora.base import CORPORA, TextCorpus, text_identity
from tests import checkpoints
from tests.e2e.conftest import Outcome
from tests.hub import StandInHub, ask_anew

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
Cli = Callable[..., Outcome]
SMALL = ("calibration.num_sequences=2", "calibration.seq_len=32", "evaluation.seq_len=32", "device=cpu")
LAYOUTS = ["opt-125m", "opt-350m", "llama-7b", "gpt2", "pythia-70m", "qwen2.5-0.5b"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    """A hub with WikiText-2 and C4, both short, that this process asks; no data are at hand elsewhere."""
    monkeypatch.delenv("PRUNEBENCH_DATA", raising=False)
    monkeypatch.setenv("PRUNEBENCH_CACHE", str(tmp_path / "made"))
    with StandInHub().serving() as hub, hub.within(tmp_path / "cache"):
        wikitext, c4 = CORPORA.get("wikitext2"), CORPORA.get("c4")
        assert isinstance(wikitext, TextCorpus)
        assert isinstance(c4, TextCorpus)
        lines = [f"{text}\n" for text in checkpoints.TEXT]
        short = replace(wikitext.evaluation, published=text_identity("\n\n".join(lines)))
        monkeypatch.setitem(CORPORA._entries, "wikitext2", replace(wikitext, evaluation=short))
        stream = io.BytesIO()
        pa.parquet.write_table(pa.table({"text": lines}), stream)
        page = json.dumps({"text": " ".join(checkpoints.TEXT)})
        documents = gzip.compress("\n".join([page] * 8).encode())
        assert c4.calibration is not None
        for (file,), content in ((wikitext.evaluation.hub, stream.getvalue()), (c4.calibration.hub, documents)):
            hub.commit(file.repo, {file.file: content}, kind="datasets", as_commit=file.revision)
        yield hub


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """Records by job id."""
    return {path.stem: json.loads(path.read_text()) for path in folder.rglob("*__*.json")}


@pytest.mark.parametrize(("experiment", "jobs"), [("sparsegpt_table1", 56), ("wanda_llama", 70)])
def test_a_whole_sweep(
    experiment: str, jobs: int, cli: Cli, hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All jobs are done on the commits that the hub has; a second time nothing is run, also without a network, where a
    further method runs from the cache.
    """
    checkpoints.publish(hub, checkpoints.models_of(experiment))
    sweep = ("run", "-m", f"+experiment={experiment}", *SMALL, f"results_dir={tmp_path / 'results'}")
    outcome = cli(*sweep)
    assert outcome.code == 0, outcome.err
    assert f"{jobs} of {jobs} jobs done, 0 failed" in outcome.err
    done = records(tmp_path / "results")
    assert len(done) == jobs
    for record in done.values():
        repository, _, commit = record["job"]["model"]["checkpoint"].removeprefix("hub:").partition("@")
        assert f"GET /{repository}/resolve/{commit}/config.json" in hub.requests
        assert record["results"][0]["value"] > 1
        assert record["results"][0]["data_source"].startswith("hub:Salesforce/wikitext@")
    asked = len(hub.requests)
    ask_anew()
    again = cli(*sweep)
    assert again.code == 0, again.err
    assert again.err.count("skipped: ") == jobs
    assert not [request for request in hub.requests[asked:] if "/resolve/" in request]
    ask_anew()
    asked = len(hub.requests)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    offline = cli(*sweep, "method=dense,ria", "pattern=2:4")
    assert offline.code == 0, offline.err
    assert len(records(tmp_path / "results")) == jobs + len(checkpoints.models_of(experiment))
    assert len(hub.requests) == asked


@pytest.mark.parametrize("model", LAYOUTS)
def test_a_layout_is_pruned_alike_in_memory_and_from_disk(
    model: str, cli: Cli, hub: StandInHub, tmp_path: Path
) -> None:
    """Every way to hold the blocks gives the same bits, and the same perplexity."""
    checkpoints.publish(hub, [model])
    found = []
    for offload in ("none", "cpu", "disk"):
        results = tmp_path / offload
        outcome = cli(
            "run", f"model={model}", "method=sparsegpt", "pattern=2:4", "calibration=c4", "calibration.source=hub",
            "evaluation=perplexity", f"offload={offload}", *SMALL, f"results_dir={results}",
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
        (record,) = records(results).values()
        found.append(record)
    for record in found[1:]:
        for part in ("job_id", "layers", "weights_fingerprint"):
            assert record[part] == found[0][part]
        assert record["results"][0]["value"] == pytest.approx(found[0]["results"][0]["value"], rel=1e-6)
