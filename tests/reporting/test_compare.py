"""Two jobs on the same questions: flips, McNemar and bootstrap against slow and obvious computations."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap

from harness.answers import Answer, TaskAnswers, chosen, one_word
from harness.errors import UserError
from harness.record import EvalResult, RunRecord
from harness.reporting.compare import Answered, compare
from harness.reporting.compare_text import Question, write_comparison
from harness.reporting.statistics import Distribution, mcnemar, paired_interval
from tests.reporting.conftest import make_accuracy

Record = Callable[..., RunRecord]
QUESTION = Question("content", "Open a `jar`", ("turn it", "eat it"))


def question(index: int, gold_score: float, other_score: float, gold: int = 0) -> Answer:
    """A question with two options of four and eight characters."""
    scores = [gold_score, other_score] if gold == 0 else [other_score, gold_score]
    return chosen((index, f"content{index}"), scores, gold, [4, 8])


def answered(record: RunRecord, scores: list[tuple[float, float]], **changes: object) -> Answered:
    """A job that answered PIQA with these log-likelihoods of the right and the wrong option."""
    questions = tuple(question(n, *both, gold=n % 2) for n, both in enumerate(scores))
    results = [make_accuracy(0.5, "piqa", metric) for metric in ("acc", "acc_norm")]
    changed = tuple(replace(result, **changes) for result in results)  # type: ignore[arg-type]
    answers = TaskAnswers(changed[0].protocol, "piqa", questions)
    return Answered(replace(record, results=changed), (answers,))


A = [(-1.0, -2.0), (-1.0, -2.0), (-3.0, -2.0), (-3.0, -2.0), (-1.0, -1.5)]
B = [(-1.0, -2.5), (-3.0, -2.0), (-1.0, -4.0), (-3.0, -2.0), (-2.0, -1.0)]


@pytest.fixture
def jobs(record: Record) -> tuple[Answered, Answered]:
    """Magnitude and Wanda on five questions."""
    return answered(record("magnitude"), A), answered(record("wanda"), B)


def test_flips_are_counted_in_both_directions(jobs: tuple[Answered, Answered]) -> None:
    """Both right, only one right, both wrong; the question that moved most comes first."""
    acc = compare(*jobs).tasks[0]
    assert (acc.task, acc.metric, acc.questions) == ("piqa", "acc", 5)
    assert (acc.both_right, acc.only_a, acc.only_b, acc.both_wrong) == (1, 2, 1, 1)
    assert (acc.accuracy_a, acc.accuracy_b) == (3 / 5, 2 / 5)
    assert acc.difference == pytest.approx(-1 / 5)
    assert [flip.a.index for flip in acc.flips] == [2, 1, 4]
    assert [flip.a_right for flip in acc.flips] == [False, True, True]
    assert acc.margin_a.mean == pytest.approx((1 + 1 - 1 - 1 + 0.5) / 5)
    assert acc.margin_change.mean == pytest.approx((0.5 - 2 + 4 + 0 - 1.5) / 5)
    assert acc.margin_change.quantiles[2] == 0.0


def test_acc_norm_has_its_own_choices_and_margins(jobs: tuple[Answered, Answered]) -> None:
    """Per character: options have four and eight characters here."""
    norm = compare(*jobs).tasks[1]
    right = [
        [  # of equally likely options the first is chosen, which is the right one of even questions
            gold / length - other / (12 - length) > (0 if length == 8 else -1e-12)
            for (gold, other), length in zip(side, (4, 8) * 3, strict=False)
        ]
        for side in (A, B)
    ]
    assert norm.metric == "acc_norm"
    assert norm.accuracy_a == sum(right[0]) / 5
    assert norm.accuracy_b == sum(right[1]) / 5
    assert norm.only_a == sum(a and not b for a, b in zip(*right, strict=True))


@given(st.integers(0, 12), st.integers(0, 12))
def test_mcnemar_is_the_binomial_sum(only_a: int, only_b: int) -> None:
    """Twice the probability of a split at least as uneven among fair coins, at most one."""
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n
    assert mcnemar(only_a, only_b) == pytest.approx(min(1.0, 2 * tail))


@pytest.mark.parametrize(("only_a", "only_b", "same"), [(3, 9, 18), (0, 4, 40), (25, 10, 165), (0, 0, 7)])
def test_the_interval_is_that_of_a_paired_bootstrap(only_a: int, only_b: int, same: int) -> None:
    """The distribution written down is that of drawing pairs: scipy's interval, up to the noise of resampling."""
    a = np.array([1] * only_a + [0] * only_b + [1] * same, dtype=float)
    b = np.array([0] * only_a + [1] * only_b + [1] * same, dtype=float)
    low, high = paired_interval(only_a, only_b, len(a))
    if not only_a + only_b:
        assert (low, high) == (0.0, 0.0)
        return
    slow = bootstrap(
        (a, b),
        lambda x, y, axis=-1: y.mean(axis=axis) - x.mean(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (low, high) == pytest.approx((slow.low, slow.high), abs=2.1 / len(a))


@given(st.lists(st.sampled_from((-1, 0, 1)), min_size=1, max_size=6))
def test_the_interval_of_tiny_data_is_that_of_all_resamples(differences: list[int]) -> None:
    """Few pairs can be drawn in all ways: so many of these lie at or below either end, and fewer below it."""
    count = len(differences)
    means = [sum(drawn) / count for drawn in product(differences, repeat=count)]
    ends = paired_interval(differences.count(-1), differences.count(1), count)
    for end, share in zip(ends, (0.025, 0.975), strict=True):
        assert sum(mean <= end + 1e-9 for mean in means) / len(means) >= share - 1e-9
        assert sum(mean < end - 1e-9 for mean in means) / len(means) < share + 1e-9


def test_only_questions_of_both_are_compared(record: Record) -> None:
    """A job on the first questions and one on more share the former, and the comparison says so."""
    some, more = answered(record("magnitude"), A[:2]), answered(record("wanda"), B)
    limited = "zero_shot:piqa:first2:v2.0"
    some = Answered(
        replace(some.record, results=tuple(replace(result, protocol=limited) for result in some.record.results)),
        (replace(some.answers[0], protocol=limited),),
    )
    task = compare(some, more).tasks[0]
    assert (task.questions, task.protocol_a, task.protocol_b) == (2, limited, "zero_shot:piqa:v2.0")
    assert task.note == "2 questions in common, of 2 (A) and 5 (B)"


def test_what_cannot_be_compared_is_refused(record: Record, jobs: tuple[Answered, Answered]) -> None:
    """Other data, another version of the task, no answers, no common task: one line each."""
    a, b = jobs
    with pytest.raises(UserError, match=r"different questions: bb \(folder/boolq\) and sha256:other"):
        compare(a, answered(record("wanda"), B, data_fingerprint="sha256:other"))
    with pytest.raises(UserError, match=r"different protocols: zero_shot:piqa:v2\.0 and zero_shot:piqa:v3\.0"):
        compare(a, answered(record("wanda"), B, protocol="zero_shot:piqa:v3.0"))
    with pytest.raises(UserError, match="kept no answers to the questions of piqa"):
        compare(a, Answered(b.record, ()))
    with pytest.raises(UserError, match="share no zero-shot task"):
        compare(a, Answered(replace(b.record, results=()), ()))
    with pytest.raises(UserError, match="unknown task of both jobs 'boolq'; choose from: piqa"):
        compare(a, b, "boolq")


def test_broken_answers_are_left_out(record: Record, jobs: tuple[Answered, Answered]) -> None:
    """A question without a number counts for neither job."""
    broken = answered(record("wanda"), [(math.nan, -1.0), *B[1:]])
    task = compare(jobs[0], broken).tasks[0]
    assert task.questions == 4
    assert task.note == "4 questions in common, of 5 (A) and 5 (B)"
    with pytest.raises(UserError, match="no question that both jobs answered with a number"):
        compare(jobs[0], answered(record("wanda"), [(math.nan, -1.0)] * 5))


def test_words_have_flips_without_margins(record: Record) -> None:
    """LAMBADA: greedy decoding writes the word or not; the margins are empty."""
    sides = []
    for method, right in (("magnitude", (True, False)), ("wanda", (False, False))):
        questions = tuple(one_word(n, f"c{n}", -1.0 - n, ok) for n, ok in enumerate(right))
        result = make_accuracy(0.5, "lambada_openai")
        answers = TaskAnswers(result.protocol, "lambada_openai", questions)
        sides.append(Answered(record(method, results=(result,)), (answers,)))
    (task,) = compare(*sides).tasks
    assert (task.only_a, task.only_b, task.both_wrong) == (1, 0, 1)
    assert task.margin_change == Distribution(0, None, (None,) * 5)


def test_differing_fields_are_named(record: Record) -> None:
    """Only what differs in the identity, by dotted name, and how the jobs ran."""
    a = answered(record("sparsegpt", params={"damping": 0.01}), A)
    b = answered(record("sparsegpt", params={"damping": 0.1}, seed=3), B)
    assert compare(a, b).fields == (("method.params.damping", 0.01, 0.1), ("seed", 0, 3))


def test_text_has_the_numbers_and_the_questions(jobs: tuple[Answered, Answered]) -> None:
    """Terminal and Markdown print flips with both answers; JSON has everything."""
    comparison = compare(*jobs)
    for form in ("terminal", "md"):
        text = write_comparison(comparison, form, 100, 1, lambda task: [QUESTION] * 5)
        assert "magnitude" in text
        assert "60.00" in text
        assert "piqa (acc), question 2: A wrong, B right" in text
        assert "[0] (right, chosen by B) A -3.00, B -1.00 nats" in text
        assert "Open a `jar`" in text
    plain = json.loads(write_comparison(comparison, "json", 100, 1, lambda task: [QUESTION] * 5))
    flips = plain["tasks"][0]["flips"]
    assert plain["tasks"][0]["only_a"] == 2
    assert flips[0]["options"] == ["turn it", "eat it"]
    assert "question" not in flips[1]
    assert "question" not in json.loads(write_comparison(comparison, "json", 100))["tasks"][0]["flips"][0]


def test_results_of_other_kinds_are_no_tasks(record: Record, perplexity: Callable[..., EvalResult]) -> None:
    """Two jobs that share a corpus only have no questions to compare."""
    sides = [Answered(record(method, results=(perplexity(10.0),)), ()) for method in ("wanda", "magnitude")]
    with pytest.raises(UserError, match="share no zero-shot task"):
        compare(*sides)
