"""Answers a question through the command line: kept beside the record, compared, and drawn."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cli.questions import load_questions
from harness.data.sources import resolve
from harness.data.tasks.base import TASKS
from harness.evaluation.upstream import load_task, quiet
from harness.record import EvalResult, from_json
from harness.tracking.answers import read
from harness.tracking.store import RecordStore
from tests.e2e.conftest import Outcome

pytestmark = pytest.mark.e2e
Cli = Callable[..., Outcome]
LIMIT = 12
LETTERS = ("commonsense_qa", "mmlu", "mmlu_5shot", "medmcqa")
"""Tasks that score letters."""


@pytest.fixture
def rows(data_dir: Path, tmp_path: Path) -> Path:
    """A copy of PIQA's rows, which a test may change."""
    return Path(shutil.copy(data_dir / "piqa" / "validation.jsonl", tmp_path / "piqa.jsonl"))


@pytest.fixture
def asked(speaking_model: Path, tokens: Path, rows: Path, tmp_path: Path) -> tuple[str, ...]:
    """Overrides of a job that answers a few questions."""
    return (
        "model=local",
        f"model.path={speaking_model}",
        "calibration=tokens",
        f"calibration.path={tokens}",
        "evaluation.corpora=[]",
        "evaluation.tasks=[piqa]",
        f"evaluation.limit={LIMIT}",
        f"data.piqa={rows}",
        "dtype=float32",
        f"results_dir={tmp_path / 'results'}",
    )


def done(root: Path) -> dict[str, Path]:
    """Paths of done records by method."""
    found = [path for path in root.rglob("*__*.json") if "failed" not in path.parts]
    return {json.loads(path.read_text())["job"]["method"]["name"]: path for path in found}


def test_answers_are_kept_compared_and_drawn(cli: Cli, asked: tuple[str, ...], rows: Path, tmp_path: Path) -> None:
    """Two jobs leave their answers; the comparison counts them again, and its questions come from the data."""
    outcome = cli("run", "-m", *asked, "method=dense,magnitude", "sparsity=0.7")
    assert outcome.code == 0, outcome.err
    root = tmp_path / "results"
    paths = done(root)
    right = {}
    for method, path in paths.items():
        record = from_json(path.read_bytes(), str(path))
        (answers,) = read(record, path)
        acc = next(result for result in record.results if result.metric == "acc")
        right[method] = [bool(question.correct) for question in answers.questions]
        assert acc.value == sum(right[method]) / LIMIT
        assert "goal" not in path.with_name(record.questions.name).read_bytes().decode("latin-1")  # type: ignore[union-attr]
    only_first = sum(a and not b for a, b in zip(*right.values(), strict=True))
    ids = [path.stem for path in paths.values()]
    said = json.loads(cli("compare", *ids, "--format", "json", "--questions", "1", "--results-dir", str(root)).out)
    assert said["tasks"][0]["only_a"] == only_first
    assert said["tasks"][0]["questions"] == LIMIT
    assert {field["field"] for field in said["fields"]} >= {"method.name", "pattern"}
    shown = cli("compare", *ids, "--questions", "1", "--results-dir", str(root))
    assert shown.code == 0, shown.err
    assert "McNemar" in shown.out
    drawn = cli("report", "--plots", str(tmp_path / "plots"), "--results-dir", str(root))
    assert drawn.code == 0, drawn.err
    assert "not drawn: allocation: no method was run" in drawn.out
    assert {path.suffix for path in (tmp_path / "plots").iterdir()} == {".png", ".pdf"}
    rows.unlink()  # the data folder has the same content
    assert cli("compare", *ids, "--questions", "1", "--results-dir", str(root)).out == shown.out


def test_a_task_added_later_extends_the_file(cli: Cli, asked: tuple[str, ...], data_dir: Path, tmp_path: Path) -> None:
    """The answers of the first task stay to the last bit."""
    assert cli("run", *asked, "method=magnitude").code == 0
    store = RecordStore(tmp_path / "results")
    (first,) = [store.find(record.job_id) for record in store.all()]
    assert first is not None
    before = read(*first)
    assert cli("run", *asked, "method=magnitude", "evaluation.tasks=[piqa,copa]", f"data.copa={data_dir}").code == 0
    second = store.find(first[0].job_id)
    assert second is not None
    after = read(*second)
    assert after[0] == before[0]
    assert [outcomes.task for outcomes in after] == ["piqa", "copa"]
    assert second[0].questions is not None
    assert second[0].questions.rows == 2 * LIMIT


def test_questions_that_are_gone_are_missed(
    cli: Cli, asked: tuple[str, ...], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers are compared without the data; to show a question its rows must have the recorded fingerprint."""
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:50]))
    outcome = cli("run", "-m", *asked, "method=dense,magnitude", "sparsity=0.9")
    assert outcome.code == 0, outcome.err
    ids = [path.stem for path in done(tmp_path / "results").values()]
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:40]))
    monkeypatch.delenv("PRUNEBENCH_DATA")
    where = ("--results-dir", str(tmp_path / "results"))
    said = json.loads(cli("compare", *ids, "--format", "json", *where).out)
    assert any(task["flips"] for task in said["tasks"])
    gone = cli("compare", *ids, "--questions", "1", *where)
    assert (gone.code, gone.err.count("\n")) == (2, 1)
    assert "the questions of piqa are not at hand" in gone.err


def test_users_mistakes_in_a_comparison(cli: Cli, asked: tuple[str, ...], job: tuple[str, ...], tmp_path: Path) -> None:
    """An unknown job, a job without answers, other data: one line, exit 2."""
    root = str(tmp_path / "results")
    unknown = cli("compare", "nothing", "nothing", "--results-dir", root)
    assert (unknown.code, unknown.err.count("\n")) == (2, 1)
    assert "unknown job" in unknown.err
    assert cli("run", *job, "method=dense").code == 0
    (bare,) = done(tmp_path / "results").values()
    none = cli("compare", bare.stem, bare.stem, "--results-dir", root)
    assert (none.code, none.err.count("\n")) == (2, 1)
    assert "kept no answers" in none.err
    assert cli("compare", bare.stem, bare.stem, "--questions", "-1", "--results-dir", root).code == 2


@pytest.mark.slow
def test_options_are_those_that_are_scored(data_dir: Path) -> None:
    """Of all tasks, as many options in the same order as lm-eval's, and never the answer in what is asked."""
    for name, entry in TASKS.all().items():
        if entry.embedded is None:
            continue
        ref = resolve(name, "evaluation")
        result = EvalResult("p", "zero_shot", name, "acc", 0.5, None, 1, True, None, ref.location, ref.identity)
        questions = load_questions(result)[:20]
        with quiet():
            task = load_task(name, entry.version, entry.rows(ref)[:20])  # of MMLU one subject's
        for question, document in zip(questions, list(task.eval_docs), strict=True):
            assert question.asked
            if name == "lambada_openai":
                assert task.doc_to_target(document) == f" {question.options[0]}"
                continue
            scored = task.doc_to_choice(document)
            assert len(question.options) == len(scored)
            if name not in LETTERS and name != "hellaswag":  # which is cleaned of markup
                pairs = zip(question.options, scored, strict=True)
                assert all(text.strip().lower() in option.strip().lower() for text, option in pairs)
