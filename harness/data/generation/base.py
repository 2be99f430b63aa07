"""What a generation task is: questions that a model answers in its own words, and what an answer is held against.

Prompts, stop sequences, filters and metrics are lm-eval's.  A new one is a file here or a plug-in.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.data.formats import Row
from harness.data.tasks.base import Task
from harness.registry import Registry

GENERATED_TOGETHER = 8
"""Questions answered at a time.  Batches of other sizes round otherwise, so that no option may change it."""


def _no_options(row: Row) -> list[str]:
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationTask(Task):
    """A task whose answers are generated; `metrics` are exact matches.

    Args:
        filters: for every metric lm-eval's filter that takes the answer out of the text.
        prompt_tokens: about what the longest prompt takes, for the estimate of memory.
    """

    options: Callable[[Row], list[str]] = _no_options
    filters: Mapping[str, str]
    prompt_tokens: int


GENERATION_TASKS: Registry[GenerationTask] = Registry("generation task", "harness.data.generation")
