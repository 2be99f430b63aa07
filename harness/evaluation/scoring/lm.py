"""The language model that lm-eval is given: same tokens and same numbers as its `HFLM`, fewer of them computed."""

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import resolve_max_length
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from harness.errors import UserError
from harness.evaluation.scoring.encoding import EncodedPair, PairEncoder
from harness.evaluation.scoring.families import HEAD_ROWS, Scorer
from harness.evaluation.scoring.packing import Batch, Request, chains, fill_batches, grow_trees, lay_out
from harness.record import JsonValue

TREE_NODES = 128  # questions that share little are merged up to here: measured, wider trees cost more than they save

Progress = Callable[[int, int], None]


class PackedLM(LM):  # type: ignore[misc]  # lm-eval ships no types
    """Log-likelihoods under an in-memory causal model, for lm-eval.

    What requests share is computed once (see `packing`), the head reads only the states that predict something, and
    its log-softmax is float32 whatever the model's type. Which of it the model allows is tried at construction (see
    `families`) and said in `details`. The model is put into evaluation mode and otherwise left as it is.

    Args:
        model: causal language model.
        tokenizer: its tokenizer.
        token_budget: padded tokens of a batch; a longer sequence is a batch of its own.
        encoder: remembered encodings to share between models of the same tokenizer; made here if not given.
        progress: called after every batch with the requests done and all requests of the call.

    Raises:
        UserError: `token_budget` is not positive, or the encoder is another tokenizer's.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        token_budget: int = 2048,
        encoder: PairEncoder | None = None,
        progress: Progress | None = None,
    ) -> None:
        super().__init__()
        if token_budget < 1:
            raise UserError(f"token_budget must be at least 1, not {token_budget}")
        if encoder is not None and encoder.tokenizer is not tokenizer:
            raise UserError("the encoder given to the scorer belongs to another tokenizer")
        model.train(False)
        self.tokenizer = tokenizer
        self.max_length: int = resolve_max_length(model.config, tokenizer)
        self._encoder = encoder or PairEncoder(tokenizer)
        self._scorer = Scorer(model)
        self._device = self._scorer.device
        self._token_budget = token_budget
        self.progress = progress
        self.counts = dict.fromkeys(("requests", "cut", "requested", "computed", "padded", "head_rows"), 0)

    @property
    def details(self) -> dict[str, JsonValue]:
        """How requests were scored, for the record: ways taken and why, and the counts of the last call.

        Of its `requests`, `cut` were longer than the model can hold. One forward pass a request would read `requested`
        tokens; `computed` were read, `padded` with padding, and `head_rows` states went through the head.
        """
        abilities = self._scorer.abilities
        return {
            "scorer": "packed",
            "token_budget": self._token_budget,
            "head_path": abilities.head_path,
            "tree": abilities.tree,
            "tree_reason": abilities.tree_reason,
            "tree_depth_limit": abilities.depth_limit,
            "head_rows_at_a_time": HEAD_ROWS,
            "counts": dict(self.counts),
        }

    @property
    def tokenizer_name(self) -> str:
        """Name by which lm-eval keys caches of requests."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Natural log-probability of each continuation after its context, and whether greedy decoding would write it.

        Args:
            requests: instances with arguments (context, continuation).
            disable_tqdm: of lm-eval's interface; progress goes to the callback of the constructor instead.

        Raises:
            UserError: nothing to score in a request, or a continuation longer than the model can hold.
        """
        pairs = [(str(context), str(continuation)) for context, continuation in (item.args for item in requests)]
        answers = self._score(self._encoder.encode(pairs))
        for pair, answer in zip(pairs, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", pair, answer)
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Natural log-probability of each whole text, in disjoint windows of the model's length as `HFLM` cuts them."""
        texts = [str(item.args[0]) for item in requests]
        tokens = self._encoder.texts(set(texts))
        windows: list[EncodedPair] = []
        owners: list[int] = []
        for number, text in enumerate(texts):
            for pair in get_rolling_token_windows(tokens[text], self._encoder.prefix_token, self.max_length, 1):
                context, continuation = make_disjoint_window(pair)
                windows.append((tuple(context), tuple(continuation)))
                owners.append(number)
        totals = [0.0] * len(texts)
        for owner, (value, _) in zip(owners, self._score(windows), strict=True):
            totals[owner] += value
        for text, total in zip(texts, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Refused: this scorer only scores.

        Raises:
            UserError: always.
        """
        tasks = ", ".join(sorted({str(getattr(item, "task_name", None) or "unnamed") for item in requests}))
        raise UserError(f"these tasks generate text: {tasks}; the zero-shot scorer takes log-likelihood tasks only")

    def _score(self, encoded: Sequence[EncodedPair]) -> list[tuple[float, bool]]:
        """Log-likelihood and greedy flag of each encoded pair, in order."""
        longest = max((len(continuation) for _, continuation in encoded), default=0)
        if longest > self.max_length:
            raise UserError(f"a continuation has {longest} tokens; the model holds {self.max_length}")
        requests = [Request.of(context, continuation, self.max_length) for context, continuation in encoded]
        self.counts = dict.fromkeys(self.counts, 0) | {
            "requests": len(requests),
            "cut": sum(len(context) + len(continuation) > self.max_length + 1 for context, continuation in encoded),
            "requested": sum(len(request.inputs) for request in requests),
        }
        left = [len(request.targets) for request in requests]
        done = 0
        owners: list[int] = []
        results: list[tuple[Tensor, Tensor]] = []
        for batch in self._plan(requests):
            layout = lay_out(batch)
            results.append(self._scorer.score(layout, branched=batch.branched))
            owners += layout.requests
            self._count(batch, len(layout.states))
            for owner in layout.requests:
                left[owner] -= 1
                done += left[owner] == 0
            if self.progress is not None:
                self.progress(done, len(requests))
        return _gather(results, owners, len(requests))

    def _plan(self, requests: Sequence[Request]) -> list[Batch]:
        """Batches of all requests: trees as far as the model takes them, plain rows beyond."""
        abilities = self._scorer.abilities
        limit = abilities.depth_limit or self.max_length
        near = {number: request for number, request in enumerate(requests) if len(request.inputs) <= limit}
        if abilities.tree:
            # A window may count places in the row instead of positions, so a tree stays within it like a sequence.
            largest = min(limit, self._token_budget)
            trees = grow_trees(near, min(TREE_NODES, largest), largest)
        else:
            trees = chains(near)
        batches = list(fill_batches(trees, self._token_budget, pack=abilities.tree))
        # Rotary scaling may depend on the longest sequence of the batch, so what is beyond the limit is never padded.
        beyond = sorted(chains({n: request for n, request in enumerate(requests) if n not in near}), key=len)
        for _, equals in groupby(beyond, key=len):
            batches += fill_batches(equals, self._token_budget, pack=False)
        return batches

    def _count(self, batch: Batch, head_rows: int) -> None:
        self.counts["computed"] += sum(len(tree) for row in batch.rows for tree in row)
        self.counts["padded"] += batch.width * len(batch.rows)
        self.counts["head_rows"] += head_rows


def _gather(results: Sequence[tuple[Tensor, Tensor]], owners: Sequence[int], count: int) -> list[tuple[float, bool]]:
    """Sum the predictions of each request; the one place that waits for the device."""
    sums = torch.zeros(count, dtype=torch.float64)
    misses = torch.zeros(count, dtype=torch.long)
    if results:
        owner = torch.tensor(owners)
        sums.index_add_(0, owner, torch.cat([log_probs for log_probs, _ in results]).cpu().double())
        misses.index_add_(0, owner, (~torch.cat([greedy for _, greedy in results]).cpu()).long())
    return [(value, missed == 0) for value, missed in zip(sums.tolist(), misses.tolist(), strict=True)]
