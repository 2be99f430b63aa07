"""The language model that lm-eval is given: same tokens and same numbers as its `HFLM`, fewer of them computed."""

from collections.abc import MutableMapping, Sequence
from itertools import groupby
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import resolve_max_length
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from harness.errors import UserError
from harness.evaluation.base import EvaluationContext
from harness.evaluation.scoring.families import HEAD_ROWS, Scorer
from harness.evaluation.scoring.packing import Request, Rows, chains, fill_batches, grow_trees, lay_out
from harness.progress import Reporter, Silent
from harness.record import JsonValue

TREE_NODES = 128  # questions that share little are merged up to here: measured, wider trees cost more than they save

Encoded = MutableMapping[tuple[str, bool], list[int]]
"""Tokens of a text, with the tokenizer's own special tokens or without."""
Encoding = tuple[tuple[str, str], list[int], list[int]]
"""A request's texts, and the tokens of context and continuation that lm-eval made of them."""


class PackedLM(TemplateLM):  # type: ignore[misc]  # lm-eval ships no types
    """Log-likelihoods under an in-memory causal model, for lm-eval, which splits requests into tokens itself.

    What requests share is computed once (see `packing`), the head reads only the states that predict something, and
    its log-softmax is float32 whatever the model's type. Which of it the model allows is tried at construction (see
    `families`) and said in `details`. The model is put into evaluation mode and otherwise left as it is.

    Args:
        token_budget: padded tokens of a batch, >= 1; a longer sequence is a batch of its own.
        encoded: texts whose tokens are known; share it between the models of a tokenizer.
        reporter: told of every batch, under the name `step`.

    Attributes:
        eot_token_id: what stands before a text without context.
        cut: texts of the last call that were longer than the model can hold.

    Raises:
        UserError: the tokenizer has neither a BOS nor an EOS token.
    """

    eot_token_id: int = -1

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        token_budget: int = 2048,
        encoded: Encoded | None = None,
        reporter: Reporter | None = None,
        step: str = "",
    ) -> None:
        super().__init__()
        prefix = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if prefix is None:
            raise UserError(f"the tokenizer {tokenizer.name_or_path!r} has no BOS and no EOS token; scoring needs one")
        model.train(False)
        self.eot_token_id = int(prefix)
        self.max_length: int = resolve_max_length(model.config, tokenizer)
        self._tokenizer, self._prefix_text = tokenizer, str(tokenizer.decode(prefix))
        self._encoded: Encoded = {} if encoded is None else encoded
        self._scorer = Scorer(model)
        self._token_budget = token_budget
        self._reporter, self._step = reporter or Silent(), step
        self.cut: set[tuple[str, str]] = set()
        self.counts = dict.fromkeys(("requests", "cut", "requested", "computed", "padded", "head_rows"), 0)

    @property
    def details(self) -> dict[str, JsonValue]:
        """How requests were scored, for the record: ways taken and why, and the counts of the last call.

        Of its `requests`, `cut` were longer than the model can hold. One forward pass a request would read `requested`
        tokens; `computed` were read, `padded` with padding, and `head_rows` states went through the head.
        """
        return {
            "scorer": "packed",
            "token_budget": self._token_budget,
            "head_path": self._scorer.head.name,
            "tree": self._scorer.tree,
            "tree_reason": self._scorer.tree_reason,
            "tree_depth_limit": self._scorer.depth_limit,
            "head_rows_at_a_time": HEAD_ROWS,
            "counts": dict(self.counts),
        }

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Tokens of a text, as `HFLM` has them: one that begins with the BOS token as text gets no second one."""
        special = add_special_tokens is not False and not string.startswith(self._prefix_text)
        if (string, special) not in self._encoded:
            options = {} if special else {"add_special_tokens": False}
            self._encoded[string, special] = self._tokenizer.encode(string, **options)
        if not self._encoded[string, special] and add_special_tokens is False:  # what lm-eval asks for without context
            raise UserError(f"nothing to score: continuation {string!r}, which stands alone, has no tokens")
        return self._encoded[string, special]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> Any:
        """Refused, as are texts without context: this scorer only scores continuations.

        Raises:
            UserError: always.
        """
        tasks = ", ".join(sorted({str(getattr(item, "task_name", None) or "unnamed") for item in requests}))
        raise UserError(f"these tasks generate text: {tasks}; the zero-shot scorer takes log-likelihood tasks only")

    loglikelihood_rolling = generate_until

    def _loglikelihood_tokens(self, requests: Sequence[Encoding], **_: Any) -> list[tuple[float, bool]]:
        """Natural log-probability of each continuation, and whether greedy decoding would write it.

        Raises:
            UserError: nothing to score in a request, or a continuation longer than the model can hold.
        """
        for texts, context, continuation in requests:
            if not context or not continuation:
                raise UserError("nothing to score: context {!r} or continuation {!r} has no tokens".format(*texts))
            if len(continuation) > self.max_length:
                raise UserError(f"a continuation has {len(continuation)} tokens; the model holds {self.max_length}")
        cut = [texts for texts, *tokens in requests if sum(map(len, tokens)) > self.max_length + 1]
        asked = [Request.of(context, continuation, self.max_length) for _, context, continuation in requests]
        self.cut = set(cut)
        self.counts = dict.fromkeys(self.counts, 0) | {"requests": len(asked), "cut": len(cut)}
        self.counts["requested"] = sum(len(request.inputs) for request in asked)
        self._reporter.start(self._step, len(asked))
        owners: list[int] = []
        results: list[tuple[Tensor, Tensor]] = []
        for rows in self._plan(asked):
            layout = lay_out(rows)
            results.append(self._scorer.score(layout))
            owners += layout.requests
            self.counts["computed"] += sum(len(tree) for row in rows for tree in row)
            self.counts["padded"] += sum(map(len, layout.tokens))
            self.counts["head_rows"] += len(layout.states)
            self._reporter.advance(len(set(layout.requests)))
        return _gather(results, owners, len(asked))

    def _plan(self, requests: Sequence[Request]) -> list[Rows]:
        """Batches of all requests: trees as far as the model takes them, plain rows beyond."""
        limit, tree = self._scorer.depth_limit or self.max_length, self._scorer.tree
        near = {number: request for number, request in enumerate(requests) if len(request.inputs) <= limit}
        # A window may count places in the row instead of positions, so a tree stays within it like a sequence.
        largest = min(limit, self._token_budget)
        trees = grow_trees(near, min(TREE_NODES, largest), largest, limit) if tree else chains(near)
        batches = list(fill_batches(trees, self._token_budget, pack=tree))
        # Rotary scaling may depend on the longest sequence of the batch, so what is beyond the limit is never padded.
        beyond = sorted(chains({n: request for n, request in enumerate(requests) if n not in near}), key=len)
        for _, equals in groupby(beyond, key=len):
            batches += fill_batches(equals, self._token_budget, pack=False)
        return batches


def packed(context: EvaluationContext, step: str) -> PackedLM:
    """The scorer of the model that is measured; what was tokenised for other jobs with its tokenizer is not again."""
    loaded = context.loaded
    assert loaded.tokenizer is not None, "what is scored is text"
    return PackedLM(
        loaded.model,
        loaded.tokenizer,
        token_budget=context.options.zero_shot_token_budget,
        encoded=loaded.cache.of(PackedLM, dict),
        reporter=context.reporter,
        step=step,
    )


def _gather(results: Sequence[tuple[Tensor, Tensor]], owners: Sequence[int], count: int) -> list[tuple[float, bool]]:
    """Sum the predictions of each request; the one place that waits for the device."""
    sums = torch.zeros(count, dtype=torch.float64)
    misses = torch.zeros(count, dtype=torch.long)
    if results:
        owner = torch.tensor(owners)
        sums.index_add_(0, owner, torch.cat([log_probs for log_probs, _ in results]).cpu().double())
        misses.index_add_(0, owner, (~torch.cat([greedy for _, greedy in results]).cpu()).long())
    return [(value, missed == 0) for value, missed in zip(sums.tolist(), misses.tolist(), strict=True)]
