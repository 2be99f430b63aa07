"""The page as data and text; how it behaves in a browser is in tests/browser."""

import base64
import gzip
import json
import re
from colorsys import rgb_to_hls
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.answers import TaskAnswers, chosen
from harness.errors import UserError
from harness.patterns import SemiStructured
from harness.record import LayerReport, QuestionFile
from harness.reporting.compare_text import Question
from harness.reporting.figures.base import Picture, pictures
from harness.reporting.figures.look import COLORS, DENSE_COLOR
from harness.reporting.frame import measured
from harness.reporting.page.build import MODULES, asset, embedded, page, payload
from harness.reporting.page.details import JOBS_PER_BLOCK, details
from harness.reporting.page.figures import ON_DARK
from harness.reporting.page.questions import Answers, load_answers, packed_comparisons
from harness.reporting.page.table import in_order
from harness.reporting.statistics import mcnemar, paired_interval
from harness.tracking.answers import encode
from harness.tracking.store import RecordStore
from tests.reporting.conftest import contrast

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
    assert table["metrics"][1]["published"][0]["text"].startswith("27.65 (27.66, -0.01")
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


def test_a_mean_accuracy_is_of_jobs_that_have_all_tasks(record, accuracy, published) -> None:
    """Over the tasks that were asked equally many questions, before the single ones; another number is another mean."""
    jobs = [
        record("dense", results=(accuracy(0.5), accuracy(0.7, "piqa"), accuracy(0.9, "piqa", limit=20))),
        record("wanda", results=(accuracy(0.4),)),
    ]
    metrics = payload(jobs, published)[0]["table"]["metrics"]
    assert metrics[0]["key"] == "mean:boolq+piqa/acc"
    assert metrics[0]["values"] == [pytest.approx(60.0), None]
    assert metrics[0]["says"] == "mean of 2 tasks acc %: mean:boolq+piqa, acc, higher is better"
    assert [metric["key"] for metric in metrics if metric["key"].startswith("mean:")] == ["mean:boolq+piqa/acc"]


def test_standings_name_their_jobs_and_hold_every_number(record, perplexity, published) -> None:
    """Columns of plain data: jobs of two seeds are one standing, infinity is a text, what is missing is None."""
    jobs = [record("dense", results=(perplexity(20.0),))]
    jobs += [record(seed=seed, results=(perplexity(40.0 + seed),)) for seed in (0, 1)]
    jobs += [record("ria", results=(perplexity(float("inf")),)), record("random", SemiStructured(2, 4))]
    content = payload(jobs, published)[0]
    standings, ids = content["standings"], content["table"]["id"]
    assert (standings["label"], standings["place"]) == (["dense", "random", "ria", "wanda"], [None, 1, 0, 0])
    assert standings["places"] == ("50%", "2:4")
    assert {ids[row] for row in standings["jobs"][3]} == {job.job_id for job in jobs[1:3]}
    numbers = standings["metrics"][standings["chosen"]]
    assert numbers["value"] == [20.0, None, "Infinity", 40.5]
    assert (numbers["kept"], numbers["rank"]) == ([1.0, None, 0.0, 0.494], [0, None, 2, 1])
    assert (numbers["distance"][3], numbers["error"][3]) == (20.5, pytest.approx(6.3531, abs=1e-4))
    assert numbers["published"][0]["text"] == "27.66, -7.66"


def test_details_say_what_show_says_with_the_layers(record, perplexity, published) -> None:
    """A block holds whole jobs: fields as texts, numbers beside published ones, layers as columns with six digits."""
    jobs = [record(seed=seed, layers=(LAYER,), results=(perplexity(37.0),)) for seed in range(JOBS_PER_BLOCK + 1)]
    blocks = [unpacked(block) for block in details(jobs, measured(jobs), published)[0]]
    assert [len(block) for block in blocks] == [JOBS_PER_BLOCK, 1]
    last = blocks[1][0]
    assert last["id"] == jobs[-1].job_id
    assert ["code", "prunebench 0.1.0, commit abc123"] in last["provenance"]
    assert ["method", "wanda"] in last["job"]
    assert last["results"][0][:3] == ["wikitext2", "perplexity", "37.00"]
    assert last["layers"]["layer"] == ["blocks.0.q_proj"]
    assert last["layers"]["error"] == [0.123457]


def test_layers_beyond_the_budget_are_those_of_the_oldest_jobs_and_are_named(record, published) -> None:
    """The page says which jobs' layers it lacks; a job without layers lacks none."""
    jobs = [record(seed=seed, layers=(LAYER,) * 3) for seed in range(3)]
    jobs = [
        replace(job, provenance=replace(job.provenance, created=f"2026-01-0{day}T00:00:00+00:00"))
        for job, day in zip(jobs, (2, 1, 3), strict=True)
    ]
    jobs.append(record("dense"))
    blocks, without_layers = details(jobs, measured(jobs), published, layer_budget=6)
    assert without_layers == [1]
    assert [found["layers"] is None for found in unpacked(blocks[0])] == [False, True, False, False]


def test_figures_are_the_charts_of_the_command_line(record, perplexity, published) -> None:
    """A block each, equal to what is drawn as PNG; what is not drawn says why."""
    jobs = [record("dense", results=(perplexity(20.0),)), record("wanda", results=(perplexity(30.0),))]
    content, blocks = payload(jobs, published)
    drawn = [each for each in pictures(jobs, published) if isinstance(each, Picture)]
    assert {figure["name"] for figure in content["figures"]} == {each.name for each in drawn}
    specs = {each.name: json.loads(json.dumps(each.spec())) for each in drawn}
    for place, figure in enumerate(content["figures"]):
        assert unpacked(blocks[f"figure-{place}"]) == specs[figure["name"]]
    assert content["figures"][0]["name"].startswith("perplexity-")
    assert any(left["why"].startswith("accuracy: no pruned model") for left in content["not_drawn"])


def test_colours_on_dark_are_seen_and_stay_apart() -> None:
    """A contrast of three on the dark paper for every colour of a series, its own hue, and no two of them equal."""
    assert all(contrast(ON_DARK[color], "#14171b") >= 3 for color in COLORS)
    assert len({ON_DARK[color] for color in (*COLORS, DENSE_COLOR)}) == len(COLORS) + 1
    hues = [[rgb_to_hls(*(int(c[n : n + 2], 16) / 255 for n in (1, 3, 5))) for c in (c, ON_DARK[c])] for c in COLORS]
    assert all(abs(one[0] - other[0]) < 0.1 for one, other in hues)


def answered(protocol: str, marks: str) -> TaskAnswers:
    """Answers to BoolQ: right, wrong, or without a number."""
    scores = {"1": (0.0, -1.25), "0": (-1.25, 0.0), ".": (float("nan"), 0.0)}
    made = [chosen((index, f"{index:016x}"), scores[mark], 0, (1, 1)) for index, mark in enumerate(marks)]
    return TaskAnswers(protocol, "boolq", tuple(made))


def two_jobs(record, accuracy) -> list:
    """A dense job, and a pruned one that has another number of the same questions right."""
    return [record("dense", results=(accuracy(0.5),)), record("wanda", results=(accuracy(0.5),))]


def test_compared_jobs_come_with_the_statistics_of_the_command_line(record, accuracy) -> None:
    """A block of tables for every two jobs: accuracies with interval and p, margins, flipped questions."""
    jobs = two_jobs(record, accuracy)
    protocol = jobs[0].results[0].protocol
    marks = {jobs[0].job_id: "1111.0", jobs[1].job_id: "001101"}
    answers = Answers({job: [answered(protocol, given)] for job, given in marks.items()})
    (block,) = (unpacked(block) for block in packed_comparisons(jobs, answers).values())
    accuracies, margins, flips = block[0], block[1], block[-1]
    low, high = paired_interval(2, 1, 5)
    row = dict(zip(accuracies["headers"], accuracies["rows"][0], strict=True))
    assert row["95% interval"] == f"{100 * low:+.2f} to {100 * high:+.2f}"
    assert row["p"] == f"{mcnemar(2, 1):.3g}"
    assert margins["rows"]
    assert [line[:2] for line in flips["rows"]] == [["0", "only A right"], ["1", "only A right"], ["5", "only B right"]]


def test_what_is_not_compared_says_why_or_is_absent(record, accuracy, monkeypatch) -> None:
    """Jobs without a question in common; and those beyond the budget, dense models being compared first."""
    jobs = [*two_jobs(record, accuracy), record("ria", results=(accuracy(0.5, "piqa"),))]
    own = [answered(job.results[0].protocol, "11") for job in jobs]
    answers = Answers({job.job_id: [one] for job, one in zip(jobs, own, strict=True)})
    blocks = packed_comparisons(jobs, answers)
    assert "share no zero-shot task" in unpacked(blocks["compared-0-2"])
    monkeypatch.setattr("harness.reporting.page.questions.COMPARED_BUDGET", 4)
    assert list(packed_comparisons(jobs, answers)) == ["compared-0-1", "compared-0-2"]


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
    question = Question(content_id(row), "P\nis it", ("no", "yes"))
    answered = TaskAnswers("zero_shot:boolq:v2.0", "boolq", (chosen((0, content_id(row)), (0.0, -1.0), 0, None),))
    data = encode([answered])
    job = record(results=(accuracy(1.0),))
    job = replace(job, questions=QuestionFile(f"{job.job_id}.questions.parquet", sha256(data).hexdigest(), 1))
    store = RecordStore(tmp_path)
    store.save(job, data)
    assert load_answers(store, [job]).texts == {}
    texts = load_answers(store, [job], lambda result: [question]).texts
    assert list(texts.values()) == ["P\nis it\n[0] no\n[1] yes"]

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


def test_no_statistic_is_computed_in_the_page() -> None:
    """Means, tests and intervals come ready from Python: the scripts know no logarithm, root or power."""
    for module in MODULES:
        found = re.findall(
            r"Math\.(?!min|max|ceil|floor|round|abs)\w+|(?<!/)\*\*|mcnemar|quantile", asset(f"{module}.js")
        )
        assert not found, (module, found)
