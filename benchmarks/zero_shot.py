"""Zero-shot scoring: the packed scorer against its floor and stock lm-eval, in one process, on the same requests.

    python -m benchmarks zero_shot --questions 100 --batch-sizes 1 4 16 64 --repeats 5

The floor is what no scorer can save: every distinct beginning of a request through the model's body once, in rows as
long as the requests are on average and without padding, and every state that predicts something through its head once.
The matrix products are those of the floor alone, without attention, norms, activations and sums.  Prints one line a
competitor: median wall time, the median of its ratios to the packed scorer of the same turn, peak memory above the
weights, and how far log-likelihoods and greedy flags are from stock at the first batch size.  In half precision it also
prints how many questions are answered otherwise than by the packed scorer in float32.  Needs the data folder
(PRUNEBENCH_DATA).
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from benchmarks.setting import DTYPES
from harness.data.sources import resolve
from harness.data.tasks.base import TASKS as ENTRIES
from harness.evaluation.head import Head, find_head
from harness.evaluation.scoring.families import HEAD_ROWS
from harness.evaluation.scoring.lm import PackedLM
from harness.evaluation.scoring.packing import Request, grow_trees
from harness.evaluation.upstream import load_task, quiet
from harness.models.checkpoint import Checkpoint
from harness.models.loading import LoadedModel, load_model

TASKS = ("boolq", "piqa", "arc_easy", "arc_challenge", "hellaswag")
NOT_STOCK = 3
"""Of the competitors the first ones; the others are stock lm-eval."""
Answers = list[tuple[float, bool]]


@dataclass(slots=True)
class Competitor:
    """One way to score, and what was measured of it."""

    name: str
    score: Callable[[list[Any]], Answers]
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    answers: Answers = field(default_factory=list)

    def run(self, requests: list[Any], device: torch.device) -> None:
        """Score once and note time and peak memory."""
        before = _reset_peak(device)
        begin = time.perf_counter()
        self.answers = self.score(requests)  # both ways hand back Python numbers: the device is done
        self.seconds.append(time.perf_counter() - begin)
        self.peak_bytes = max(self.peak_bytes, _peak(device) - before)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = _options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    requests = {task: _requests(task, options.questions) for task in options.tasks}
    loaded = _load(options.dtype, options.device)
    if options.each:
        for task, items in requests.items():
            _measure(task, items, loaded, options)
    _measure(" + ".join(requests), [item for items in requests.values() for item in items], loaded, options)


def _measure(title: str, requests: list[Any], loaded: LoadedModel, options: argparse.Namespace) -> None:
    """Let the competitors take turns, and print their medians."""
    device = loaded.model.device
    work = _least_work(loaded, requests)
    competitors = [Competitor("packed", _packed(loaded, options.token_budget))]
    competitors += [Competitor("floor", _floor(work, options.token_budget))]
    competitors += [Competitor("its matrix products", _products(work, options.token_budget))]
    competitors += [Competitor(f"stock, batch size {size}", _stock(loaded, size)) for size in options.batch_sizes]
    for competitor in competitors:  # warm up: allocators, thread pools
        competitor.score(requests[:8])
    for _ in range(options.repeats):
        for competitor in competitors:
            competitor.run(requests, device)
    packed, stock = competitors[0], competitors[NOT_STOCK]
    print(f"\n{title}: {len(requests)} requests, {options.dtype}, {device}, {torch.get_num_threads()} threads")
    for competitor in competitors:
        median = statistics.median(competitor.seconds)
        ratio = statistics.median(a / b for a, b in zip(competitor.seconds, packed.seconds, strict=True))
        print(
            f"  {competitor.name:22} {median:9.2f} s  {ratio:5.2f} x  peak {competitor.peak_bytes / 2**20:8.0f} MiB "
            f"({competitor.peak_bytes / max(1, packed.peak_bytes):4.1f} x)  runs {_list(competitor.seconds)}",
            flush=True,
        )
    apart = [abs(one - other) for (one, _), (other, _) in zip(packed.answers, stock.answers, strict=True)]
    flags = sum(one != other for (_, one), (_, other) in zip(packed.answers, stock.answers, strict=True))
    print(f"  log-likelihoods: at most {max(apart):.2g} from {stock.name}; greedy flags that differ: {flags}")
    if options.dtype != "float32":
        oracle = _choices(requests, _packed(_load("float32", options.device), options.token_budget)(requests))
        for competitor in (packed, *competitors[NOT_STOCK:]):
            changed = sum(a != b for a, b in zip(_choices(requests, competitor.answers), oracle, strict=True))
            print(f"  {competitor.name:22} {changed} of {len(oracle)} questions answered otherwise than in float32")


def _packed(loaded: LoadedModel, token_budget: int) -> Callable[[list[Any]], Answers]:
    """A new scorer every time, so that its trials and its tokenising count."""
    tokenizer = loaded.tokenizer
    assert tokenizer is not None

    def score(requests: list[Any]) -> Answers:
        lm = PackedLM(loaded.model, tokenizer, token_budget=token_budget)
        answers: Answers = lm.loglikelihood(requests, disable_tqdm=True)
        return answers

    return score


class _Asked(PackedLM):
    """Notes the requests as tokens, and scores nothing."""

    asked: Sequence[Request] = ()

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> Answers:
        self.asked = [Request.of(context, continuation, self.max_length) for _, context, continuation in requests]
        return [(0.0, False)] * len(requests)


@dataclass(frozen=True, slots=True)
class _Work:
    """What requests need at least: distinct tokens in rows of some length, and states for the head."""

    model: Any
    head: Head
    num_tokens: int
    num_states: int
    row: int

    def states(self, size: int, count: int) -> torch.Tensor:
        """Hidden states of some size; which, is of no consequence for the time."""
        return torch.randn(count, size, dtype=self.model.dtype, device=self.model.device)

    def read(self) -> None:
        """All states through the head."""
        states = self.states(self.model.get_input_embeddings().weight.shape[1], HEAD_ROWS)
        for first in range(0, self.num_states, HEAD_ROWS):
            self.head.logits(states[: self.num_states - first])
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)


@torch.inference_mode()
def _least_work(loaded: LoadedModel, requests: list[Any]) -> _Work:
    model = loaded.model
    assert loaded.tokenizer is not None
    lm = _Asked(model, loaded.tokenizer)
    lm.loglikelihood(requests, disable_tqdm=True)
    everything = sum(len(request.inputs) for request in lm.asked)
    trees = grow_trees(dict(enumerate(lm.asked)), everything, everything)
    num_tokens = sum(map(len, trees))
    num_states = sum(len({node for node, _, _ in tree.picks}) for tree in trees)
    print(f"{everything} tokens asked for, {num_tokens} distinct; {num_states} states predict something")
    head = find_head(model, torch.tensor([lm.asked[0].inputs]).to(model.device))
    return _Work(model, head, num_tokens, num_states, everything // len(requests))


def _floor(work: _Work, token_budget: int) -> Callable[[list[Any]], Answers]:
    """Body and head over the least work; what they compute is thrown away."""
    rows = torch.randint(0, 1000, (token_budget // work.row, work.row), device=work.model.device)

    @torch.inference_mode()
    def score(_: list[Any]) -> Answers:
        for first in range(0, work.num_tokens // work.row, len(rows)):
            work.head.body(input_ids=rows[: work.num_tokens // work.row - first], use_cache=False)
        work.read()
        return []

    return score


def _products(work: _Work, token_budget: int) -> Callable[[list[Any]], Answers]:
    """The linears of the body and the head over the least work, one after the other."""
    linears = [module for module in work.model.base_model.modules() if isinstance(module, torch.nn.Linear)]
    states = {size: work.states(size, token_budget) for size in {linear.in_features for linear in linears}}

    @torch.inference_mode()
    def score(_: list[Any]) -> Answers:
        for first in range(0, work.num_tokens, token_budget):
            for linear in linears:
                linear(states[linear.in_features][: work.num_tokens - first])
        work.read()
        return []

    return score


def _stock(loaded: LoadedModel, batch_size: int) -> Callable[[list[Any]], Answers]:
    from lm_eval.models.huggingface import HFLM

    def score(requests: list[Any]) -> Answers:
        tokenizer = copy.deepcopy(loaded.tokenizer)
        lm = HFLM(pretrained=loaded.model, tokenizer=tokenizer, backend="causal", batch_size=batch_size)
        answers: Answers = lm.loglikelihood(requests, disable_tqdm=True)
        return answers

    return score


def _choices(requests: list[Any], answers: Answers) -> list[int]:
    """The most probable option of each question, over neighbouring requests of one task and document."""
    questions = groupby(zip(requests, answers, strict=True), key=lambda pair: (pair[0].task_name, pair[0].doc_id))
    options = [[value for _, (value, _) in pairs] for _, pairs in questions]
    return [max(range(len(values)), key=values.__getitem__) for values in options]


def _requests(task: str, questions: int) -> list[Any]:
    ref = resolve(task, "evaluation")
    with quiet():
        loaded = load_task(task, ENTRIES.get(task).version, ENTRIES.get(task).rows(ref)[:questions])
        loaded.build_all_requests()
    return list(loaded.instances)


def _load(dtype: str, device: str) -> LoadedModel:
    loaded = load_model(Checkpoint("embedded", "smollm2-135m", None, None, False), DTYPES[dtype])
    loaded.model.to(device)  # type: ignore[arg-type]
    return loaded


def _reset_peak(device: torch.device) -> int:
    """Forget the peak so far; bytes in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark becomes what is resident now
    return _status("VmRSS")


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _list(seconds: Sequence[float]) -> str:
    return " ".join(f"{value:.1f}" for value in seconds)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Packed zero-shot scoring against stock lm-eval.")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--questions", type=int, default=100, help="first questions of each task")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 4, 16, 64], help="of stock lm-eval")
    parser.add_argument("--token-budget", type=int, default=2048)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="0: as torch likes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--each", action="store_true", help="every task on its own as well")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
