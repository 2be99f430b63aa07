"""A model's answer to each question of a zero-shot task: no text, only which question it was and the scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import isnan
from typing import Any

from harness.job import canonical_json

CONTENT_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Answer:
    """One question.

    Args:
        index: of the row among all rows of the task, from 0; together with `content` this names the question.
        content: digest of the row, see `content_id`.
        gold: index of the right option.
        predicted, predicted_norm: index of the option with the highest log-likelihood, whole (`acc`) or per character
            (`acc_norm`); None where the task has no such metric, a score is not a number, or (one option: a word that
            greedy decoding writes or does not) it was not the answer.
        correct, correct_norm: what `acc` and `acc_norm` are the means of.
        margin, margin_norm: log-likelihood in nats (`_norm`: per character) of the right option minus that of the best
            other one; None with one option, or where the scores do not say it.
        log_likelihoods: in nats, one an option.
    """

    index: int
    content: str
    gold: int
    predicted: int | None
    predicted_norm: int | None
    correct: bool | None
    correct_norm: bool | None
    margin: float | None
    margin_norm: float | None
    log_likelihoods: tuple[float, ...]

    @property
    def question(self) -> tuple[int, str]:
        """What two jobs' answers to the same question have in common."""
        return self.index, self.content


@dataclass(frozen=True, slots=True)
class TaskAnswers:
    """The answers under one evaluation protocol, in the order of the rows."""

    protocol: str
    task: str
    questions: tuple[Answer, ...]


def chosen(
    question: tuple[int, str], log_likelihoods: Sequence[float], gold: int, lengths: Sequence[int] | None
) -> Answer:
    """The answer of a question with options; the first of equally likely ones is chosen, as lm-eval does it.

    Args:
        question: index and content.
        log_likelihoods: in nats, one an option, at least two.
        gold: index of the right option.
        lengths: characters of every option, >= 1; None where the task has no `acc_norm`.
    """
    assert 0 <= gold < len(log_likelihoods) > 1, f"option {gold} of {len(log_likelihoods)}"
    whole = _choice(log_likelihoods, gold)
    norm: tuple[int | None, bool | None, float | None] = (None, None, None)
    if lengths is not None:
        norm = _choice([score / length for score, length in zip(log_likelihoods, lengths, strict=True)], gold)
    return Answer(*question, gold, whole[0], norm[0], whole[1], norm[1], whole[2], norm[2], tuple(log_likelihoods))


def one_word(index: int, content: str, log_likelihood: float, greedy: bool) -> Answer:
    """The answer of a question that greedy decoding answers or not."""
    known = not isnan(log_likelihood)
    predicted = 0 if known and greedy else None
    return Answer(index, content, 0, predicted, None, greedy if known else None, None, None, None, (log_likelihood,))


def _choice(scores: Sequence[float], gold: int) -> tuple[int | None, bool | None, float | None]:
    if any(isnan(score) for score in scores):
        return None, None, None
    predicted = max(range(len(scores)), key=lambda option: scores[option])
    margin = scores[gold] - max(score for option, score in enumerate(scores) if option != gold)
    return predicted, predicted == gold, None if isnan(margin) else margin


def content_id(row: Mapping[str, Any]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a row's canonical JSON."""
    return sha256(canonical_json(row).encode()).hexdigest()[:CONTENT_DIGITS]
