"""The page as data and text; how it behaves in a browser is in tests/browser."""

import base64
import gzip
import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.answers import TaskAnswers, chosen
from harness.errors import UserError
from harness.patterns import SemiStructured
from harness.record import LayerReport, QuestionFile
from harness.reporting.page.build import MODULES, asset, embedded, page, payload
from harness.reporting.page.details import JOBS_PER_BLOCK, details
from harness.reporting.page.questions import Answers, load_answers, packed_answers
from harness.reporting.page.table import in_order
from harness.tracking.answers import encode
from harness.tracking.store import RecordStore

LAYER = LayerReport("blocks.0.q_proj", (8, 4), 0.5, 0.5, 0.123456789, 64)


def unpacked(block: str):
    """What a block holds."""
    return json.loads(gzip.decompress(base64.b64decode(block)))


@given(st.text())
def test_embedded_json_reads_back_and_ends_no_element(text: str) -> None:
    """Whatever a record says, the script element that holds it ends where we end it, and the text comes back."""
    written = embedded({"note": f"</script><!--{text}\u2028"})
    assert not re.search(r"[<>&\u2028\u2029\n]", written)
    assert json.loads(written) == {"note": f"</script><!--{text}\u2028"}


def test_every_row_and_number_is_in_the_table(record, perplexity, accuracy, published) -> None:
    """One column a protocol and metric, accuracies in percent, infinity as text, None for what is missing."""
    jobs = [
        record("dense", results=(perplexity(27.65), accuracy(0.5))),
        record("magnitude", results=(perplexity(float("inf")), perplexity(None, seq_len=128))),
    ]
    table = payload(jobs, published)[0]["table"]
    values = {metric["key"]: metric["values"] for metric in table["metrics"]}
    assert values == {
        "perplexity:wikitext2:seq128:v1/perplexity": [None, None],
        "perplexity:wikitext2:seq2048:v1/perplexity": [27.65, "Infinity"],
        "zero_shot:boolq:v2.0/acc": [50.0, None],
    }
    assert table["metrics"][1]["published"][0]["text"] == "27.66"
    methods = next(axis for axis in table["axes"] if axis["key"] == "method")
    assert [methods["values"][code] for code in methods["codes"]] == ["dense", "magnitude"]


def test_values_of_an_axis_sort_as_people_count(record, published) -> None:
    """9 % before 10 %, opt-1.3b before opt-13b, unstructured before 4:8 before 2:4."""
    jobs = [
        record(pattern=SemiStructured(2, 4), model="opt-13b"),
        record(pattern=SemiStructured(4, 8), model="opt-1.3b"),
        record(model="opt-2.7b"),
    ]
    axes = {axis["key"]: axis["values"] for axis in payload(jobs, published)[0]["table"]["axes"]}
    assert axes["model"] == ["opt-1.3b", "opt-2.7b", "opt-13b"]
    assert axes["pattern"] == ["unstructured", "4:8", "2:4"]


def test_a_job_that_was_done_and_failed_later_stands_once(record) -> None:
    """The done record counts, as it does for `show`."""
    done = record()
    assert in_order([replace(done, status="failed", error="x"), done]) == [done]


def test_details_read_back_as_the_records_with_their_layers(record) -> None:
    """A block holds whole records; layers are columns with six digits."""
    jobs = [record(seed=seed, layers=(LAYER,)) for seed in range(JOBS_PER_BLOCK + 1)]
    blocks = [unpacked(block) for block in details(jobs).blocks]
    assert [len(block) for block in blocks] == [JOBS_PER_BLOCK, 1]
    last = blocks[1][0]
    assert last["job_id"] == jobs[-1].job_id
    assert last["provenance"]["commit"] == "abc123"
    assert last["layer_columns"]["name"] == ["blocks.0.q_proj"]
    assert last["layer_columns"]["error"] == [0.123457]


def test_layers_beyond_the_budget_are_those_of_the_oldest_jobs_and_are_named(record) -> None:
    """The page says which jobs' layers it lacks; a job without layers lacks none."""
    jobs = [record(seed=seed, layers=(LAYER,) * 3) for seed in range(3)]
    jobs = [
        replace(job, provenance=replace(job.provenance, created=f"2026-01-0{day}T00:00:00+00:00"))
        for job, day in zip(jobs, (2, 1, 3), strict=True)
    ]
    packed = details([*jobs, record("dense")], layer_budget=6)
    assert packed.without_layers == (1,)
    assert [found["layer_columns"] is None for found in unpacked(packed.blocks[0])] == [False, True, False, False]


def answered(protocol: str, marks: str) -> TaskAnswers:
    """Answers to BoolQ: right, wrong, or without a number."""
    scores = {"1": (0.0, -1.25), "0": (-1.25, 0.0), ".": (float("nan"), 0.0)}
    made = [chosen((index, f"{index:016x}"), scores[mark], 0, (1, 1)) for index, mark in enumerate(marks)]
    return TaskAnswers(protocol, "boolq", tuple(made))


def test_answers_are_packed_with_one_list_of_questions_for_all(record) -> None:
    """Choice, mark and margin a question; what no number says is a dot or null."""
    answers = Answers({"a": [answered("zero_shot:boolq:v2.0", "10.")], "b": [answered("zero_shot:boolq:v2.0", "111")]})
    packed = packed_answers(["a", "none", "b"], answers)
    assert packed.rows == (0, 2)
    assert set(packed.blocks) == {"asked-0", "answers-0", "answers-2"}
    assert unpacked(packed.blocks["asked-0"])["index"] == [0, 1, 2]
    (task,) = unpacked(packed.blocks["answers-0"])
    assert task["metrics"]["acc"] == {"chosen": "01.", "right": "10.", "margin": [125, -125, None], "scale": 100}
    assert task["metrics"]["acc_norm"]["margin"] == [1250, -1250, None]


def test_answers_come_from_beside_the_records_until_the_budget_is_spent(record, accuracy, tmp_path) -> None:
    """The latest jobs first; what is left out, and a file that is gone, are said."""
    store = RecordStore(tmp_path)
    jobs = []
    for seed in range(3):
        data = encode([answered("zero_shot:boolq:v2.0", "10")])
        job = record(seed=seed, results=(accuracy(0.5),))
        created = replace(job.provenance, created=f"2026-01-0{seed + 1}T00:00:00+00:00")
        from hashlib import sha256

        listed = QuestionFile(f"{job.job_id}.questions.parquet", sha256(data).hexdigest(), 2)
        jobs.append(replace(job, provenance=created, questions=listed))
        store.save(jobs[-1], data)
    found = load_answers(store, jobs, budget=4)
    assert set(found.by_job) == {jobs[1].job_id, jobs[2].job_id}
    assert found.problems == ("this page holds the answers to single questions of the latest jobs only",)
    store.path_of(jobs[2]).with_name(jobs[2].questions.name).unlink()
    assert "cannot read the answers" in load_answers(store, jobs[2:]).problems[0]


def test_texts_of_questions_are_embedded_only_when_asked_for(record, accuracy, tmp_path) -> None:
    """Without them a page names questions by number; with them it also says where they are not at hand."""
    from hashlib import sha256

    from harness.answers import content_id

    row = {"passage": "P", "question": "is it", "label": 1}
    answered = TaskAnswers("zero_shot:boolq:v2.0", "boolq", (chosen((0, content_id(row)), (0.0, -1.0), 0, None),))
    data = encode([answered])
    job = record(results=(accuracy(1.0),))
    job = replace(job, questions=QuestionFile(f"{job.job_id}.questions.parquet", sha256(data).hexdigest(), 1))
    store = RecordStore(tmp_path)
    store.save(job, data)
    assert load_answers(store, [job]).texts == {}
    blocks = packed_answers([job.job_id], load_answers(store, [job], lambda result: [row])).blocks
    assert unpacked(blocks["asked-0"])["text"] == ["P\nis it\n[0] no\n[1] yes"]

    def refuse(result):
        raise UserError("the questions of boolq are not at hand")

    assert load_answers(store, [job], refuse).problems == ("the questions of boolq are not at hand",)


def test_the_page_is_one_text_that_lets_only_its_own_scripts_run(record, perplexity, published) -> None:
    """No address of another place in an attribute, a policy without network, and the same text for the same records."""
    jobs = [record(results=(perplexity(1.0),)), record("dense")]
    text = page(*payload(jobs, published))
    assert text == page(*payload(jobs[::-1], published))
    assert re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"(?!data:,\")", text) == []
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1).replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "connect-src 'none'" in policy
    assert "unsafe-inline" not in policy.split("style-src")[0]
    assert "connect-src 'self'" in page(*payload(jobs, published), live=True).replace("&#39;", "'")


def test_scripts_share_one_scope_without_a_name_twice() -> None:
    """Joined modules may not declare a name twice, and import only what modules before them export."""
    names: dict[str, str] = {}
    for module in MODULES:
        source = asset(f"{module}.js")
        for imported, origin in re.findall(r"^import \{([^}]*)\} from \"\./(\w+)\.js\";$", source, re.MULTILINE):
            assert MODULES.index(origin) < MODULES.index(module)
            for name in re.findall(r"\w+", imported):
                assert re.search(rf"^export (async )?(function|const) {name}\b", asset(f"{origin}.js"), re.MULTILINE)
        declared = re.findall(r"^(?:export )?(?:async )?(?:function|const|let) (\w+)", source, re.MULTILINE)
        for name in declared:
            assert name not in names, f"{name} in {names[name]} and {module}"
            names[name] = module


def test_records_reach_the_page_as_text_only() -> None:
    """No script writes HTML."""
    for module in MODULES:
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", asset(f"{module}.js"))


@pytest.mark.parametrize("module", MODULES)
def test_every_import_is_used(module: str) -> None:
    """What a module imports it uses."""
    source = asset(f"{module}.js")
    for imported in re.findall(r"^import \{([^}]*)\}", source, re.MULTILINE):
        for name in re.findall(r"\w+", imported):
            assert len(re.findall(rf"\b{name}\b", source)) > 1, name
