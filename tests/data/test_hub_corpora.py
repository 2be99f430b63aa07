"""Text from the hub is read at one commit and is what was published, or nothing is measured on it."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from harness.data.corpora.base import CORPORA, TextCorpus, text_identity
from harness.data.hub import forget
from harness.data.places import Places
from harness.data.sources import resolve
from harness.errors import UserError
from tests.data.texts import evaluation_text, load_documents, text
from tests.hub import StandInHub

PTB = "ptb-text-only/ptb_text_only"
COPY, PARQUET = "FALcon6/ptb_text_only", "refs/convert/parquet"
TEST_FILE, TRAIN_FILE = "penn_treebank/test/0000.parquet", "penn_treebank/train/0000.parquet"


def parquet(*sentences: str) -> bytes:
    """A file of sentences as the hub converts them."""
    sink = io.BytesIO()
    pa.parquet.write_table(pa.Table.from_pylist([{"sentence": text} for text in sentences]), sink)
    return sink.getvalue()


def splits_of(corpus: TextCorpus) -> Iterator[tuple[str, Places]]:
    """Both, by role."""
    assert corpus.calibration is not None
    assert corpus.evaluation is not None
    yield from (("calibration", corpus.calibration), ("evaluation", corpus.evaluation))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    """A hub that is asked by this process; the published text of PTB is a short one."""
    monkeypatch.delenv("PRUNEBENCH_DATA", raising=False)
    ptb = text("ptb")
    published = {"evaluation": "no it was monday", "calibration": "no it was\nmonday"}
    splits = {role: replace(split, published=text_identity(published[role])) for role, split in splits_of(ptb)}
    monkeypatch.setitem(CORPORA._entries, "ptb", replace(ptb, **splits))
    with StandInHub().serving() as hub, hub.within(tmp_path / "cache"):
        yield hub


def commit(hub: StandInHub, *sentences: str, repo: str = PTB, branch: str = PARQUET) -> str:
    """Both splits in a commit of the branch that the corpus lies in."""
    files = {TEST_FILE: parquet(*sentences), TRAIN_FILE: parquet(*sentences)}
    return hub.commit(repo, files, branch=branch, kind="datasets")


def test_a_branch_that_moves_is_read_at_the_commit_of_before(hub: StandInHub) -> None:
    """The commit is resolved once a process, files come from it, and records name it."""
    first = commit(hub, " no it was ", "monday")
    ref = resolve("ptb", "evaluation")
    assert evaluation_text(ref) == "no it was monday"
    commit(hub, "something else")
    assert load_documents(resolve("ptb", "calibration")) == ["no it was", "monday"]
    assert ref.origin == f"hub:{PTB}@{first}/{TEST_FILE}"
    assert ref.location == ref.identity == f"hub:{PTB}/{TEST_FILE}"


def test_other_text_than_the_published_is_refused_with_one_line(hub: StandInHub) -> None:
    """Evaluation text and calibration documents: the line names the commit and both fingerprints."""
    other = commit(hub, "no it was", "tuesday")
    for read, role in ((evaluation_text, "evaluation"), (load_documents, "calibration")):
        with pytest.raises(UserError, match=f"hub:{PTB}@{other}/.* has other content") as caught:
            read(resolve("ptb", role))
        assert "\n" not in str(caught.value)


def test_without_a_network_what_was_downloaded_is_read(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warm cache knows the commit and has the file; what it lacks is one line."""
    commit(hub, "no it was", "monday")
    ref = resolve("ptb", "evaluation")
    evaluation_text(ref)
    forget()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    assert evaluation_text(ref) == "no it was monday"
    assert len(hub.requests) == asked
    with pytest.raises(UserError, match="no calibration data for 'ptb'"):
        load_documents(resolve("ptb", "calibration"))


def test_a_copy_serves_where_the_official_conversion_is_gone(hub: StandInHub) -> None:
    """Under the same key, since the content is checked; the record names the file that was read."""
    second = commit(hub, "no it was", "monday", repo=COPY, branch="main")
    ref = resolve("ptb", "evaluation")
    assert evaluation_text(ref) == "no it was monday"
    assert ref.origin == f"hub:{COPY}@{second}/{TEST_FILE}"
    assert ref.identity == f"hub:{PTB}/{TEST_FILE}"


def test_the_official_conversion_comes_first(hub: StandInHub) -> None:
    """Nothing is asked of the copy while that is there."""
    first = commit(hub, "no it was", "monday")
    commit(hub, "no it was", "monday", repo=COPY, branch="main")
    ref = resolve("ptb", "evaluation")
    evaluation_text(ref)
    assert ref.origin == f"hub:{PTB}@{first}/{TEST_FILE}"
    assert not any(COPY in request for request in map(str, hub.requests))


def test_a_copy_with_other_text_is_refused(hub: StandInHub) -> None:
    """It is named in the line."""
    commit(hub, "no it was", "tuesday", repo=COPY, branch="main")
    with pytest.raises(UserError, match=f"hub:{COPY}@.* has other content"):
        evaluation_text(resolve("ptb", "evaluation"))


def test_where_no_file_can_be_had_all_are_named(hub: StandInHub) -> None:
    """With the reason of each."""
    with pytest.raises(UserError, match=rf"tried hub:{PTB}/.* \(\w+\), hub:{COPY}/.* \(\w+\)") as caught:
        evaluation_text(resolve("ptb", "evaluation"))
    assert "\n" not in str(caught.value)
