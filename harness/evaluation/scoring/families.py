"""What a causal model allows: its head on chosen rows, and our own mask and positions. Found out by trying.

Nothing here is decided by the name of a family. A short forward pass of the model as it is gives reference
log-probabilities; a shortcut is used only if it reproduces them, and what was found is said.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.evaluation.head import find_head, first_output
from harness.evaluation.scoring.packing import Layout, Request, fill_batches, grow_trees, lay_out

ROUNDING = 1e-4  # a trial may be this far off (root mean square of log-likelihoods), or one ulp of them if that is more
WRONG_IS = 4.0  # and deliberate faults must each be this many times further off, or the trial says nothing
PROBE_TOKENS = 48  # two rows
HEAD_ROWS = 128  # states through the head at a time, measured: as fast as more, and the logits in memory stay small


class Scorer:
    """Log-probabilities of chosen next tokens under `model`, by the shortest way that the model is seen to allow.

    Attributes:
        head: how logits come from hidden states.
        depth_limit: longest sequence, and largest tree, in which attention sees everything before it; None if it always
            does.
        tree, tree_reason: whether branches can share their beginning under a mask and positions of ours, and why.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._device = _embedding(model).device
        requests = _probe_requests(model)
        with torch.inference_mode():
            self.head = find_head(model, torch.tensor([requests[0].inputs]).to(self._device))
        self.depth_limit = _depth_limit(model)
        if self.depth_limit is not None and self.depth_limit < PROBE_TOKENS:
            self.tree = False
            self.tree_reason = f"its attention reaches back {self.depth_limit} tokens, too few for a trial"
        else:
            self.tree, self.tree_reason = self._try_tree(requests)

    @torch.inference_mode()
    def score(self, layout: Layout) -> tuple[Tensor, Tensor]:
        """Log-probability (float32) of every prediction of the layout and whether it is the most probable token.

        Both results stay on the device, and nothing here waits for it.
        """
        inputs: dict[str, Any] = {"input_ids": self._send(layout.tokens), "use_cache": False}
        if layout.branched:
            inputs["position_ids"] = self._send(layout.positions)
            inputs["attention_mask"] = self._mask(self._send(layout.ends))
        states_NH = first_output(self.head.body(**inputs)).flatten(0, 1)[self._send(layout.states)]
        sources, targets = self._send(layout.sources), self._send(layout.targets)
        log_probs, greedy = [], []
        begin = 0
        for first in range(0, len(layout.states), HEAD_ROWS):
            end = bisect_left(layout.sources, first + HEAD_ROWS, begin)
            logits_NV = self.head.logits(states_NH[first : first + HEAD_ROWS]).float()
            rows, wanted = sources[begin:end] - first, targets[begin:end]
            greedy.append(logits_NV.argmax(-1)[rows] == wanted)
            # `logsumexp` is nearer to float64 (CPU), but this is the sum that `HFLM` reports, to the last digits.
            log_probs.append(logits_NV.log_softmax(-1)[rows, wanted])
            begin = end
        return torch.cat(log_probs), torch.cat(greedy)

    def _mask(self, ends_BL: Tensor) -> Tensor:
        """Additive (B, 1, L, L) mask: query i sees key j exactly if j <= i < ends[j]."""
        index_L = torch.arange(ends_BL.shape[1], device=ends_BL.device)
        seen_BLL = (index_L[None, :, None] >= index_L[None, None, :]) & (index_L[None, :, None] < ends_BL[:, None, :])
        mask_BLL = torch.zeros(seen_BLL.shape, dtype=self._model.dtype, device=ends_BL.device)
        return mask_BLL.masked_fill_(~seen_BLL, torch.finfo(mask_BLL.dtype).min)[:, None]

    def _send(self, numbers: list[int] | list[list[int]]) -> Tensor:
        tensor = torch.tensor(numbers, dtype=torch.long)
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor.to(self._device)

    def _try_tree(self, requests: list[Request]) -> tuple[bool, str]:
        reference = _reference(self._model, requests, self._device)
        try:
            ours = self._error(requests, reference, lambda layout: layout)
            wrong = min(self._error(requests, reference, fault) for fault in (_see_everything, _stand_still))
        except Exception as error:  # whatever a family raises at a mask that it does not know: it does not take it
            return False, f"the model refuses a mask of ours: {type(error).__name__}: {error}".splitlines()[0][:200]
        ulp = torch.finfo(self._model.dtype).eps * float(reference.square().mean().sqrt())
        if not ours <= max(ROUNDING, ulp):
            return False, f"log-probabilities under a tree mask are {ours:.2g} off"
        if not wrong >= WRONG_IS * ours:
            return (
                False,
                f"a trial cannot tell our mask and positions ({ours:.2g} off) from wrong ones ({wrong:.2g} off)",
            )
        return True, f"tried: {ours:.2g} off, {wrong:.2g} with a wrong mask or positions"

    def _error(self, requests: list[Request], reference: Tensor, change: Callable[[Layout], Layout]) -> float:
        """Root mean square of the differences from the reference; NaN if any is not finite."""
        found = torch.zeros_like(reference)
        trees = grow_trees(dict(enumerate(requests)), 0, PROBE_TOKENS)
        for rows in fill_batches(trees, PROBE_TOKENS, pack=True):
            layout = change(replace(lay_out(rows), branched=True))
            log_probs, _ = self.score(layout)
            found.index_add_(0, torch.tensor(layout.requests), log_probs.cpu().double())
        return float((found - reference).square().mean().sqrt())


def _see_everything(layout: Layout) -> Layout:
    """The fault of a mask that is only causal: branches see their neighbours."""
    return replace(layout, ends=[[len(row)] * len(row) for row in layout.ends])


def _stand_still(layout: Layout) -> Layout:
    """The fault of positions that are all the same: a model that takes no notice makes its own, wrong for a tree."""
    return replace(layout, positions=[[0] * len(row) for row in layout.positions])


def _embedding(model: PreTrainedModel) -> Tensor:
    """The (V, hidden) input embedding: where inputs have to be, and how many tokens there are."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor), f"the embedding of {type(model).__name__} is no tensor"
    return weight


def _probe_requests(model: PreTrainedModel) -> list[Request]:
    """Three questions of random tokens with branches inside branches; packed, the two short ones share a row.

    Answers of a question are equally long, so that the model's own passes take them together, without padding.
    """
    vocabulary = _embedding(model).shape[0]
    numbers = torch.Generator().manual_seed(0)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, vocabulary, (count,), generator=numbers).tolist())

    requests: list[Request] = []
    for length in (16, 4, 4):
        context, stem = draw(length), draw(2)
        continuations = (stem + draw(2), stem + draw(2), draw(4))
        requests += [Request.of(context, continuation, max_length=1024) for continuation in continuations]
    return requests


@torch.inference_mode()
def _reference(model: PreTrainedModel, requests: list[Request], device: torch.device) -> Tensor:
    """Log-likelihood of each request by the model's own forward passes without padding, float64 on the CPU."""
    sums = torch.zeros(len(requests), dtype=torch.float64)
    for length in {len(request.inputs) for request in requests}:
        places = [place for place, request in enumerate(requests) if len(request.inputs) == length]
        inputs_BL = torch.tensor([requests[place].inputs for place in places]).to(device)
        logits_BLV = first_output(model(input_ids=inputs_BL, use_cache=False)).float()
        for place, logits_LV in zip(places, logits_BLV, strict=True):
            targets = torch.tensor(requests[place].targets).to(device)
            log_probs_LV = logits_LV[-len(targets) :].log_softmax(-1)
            sums[place] = log_probs_LV.gather(1, targets[:, None]).double().sum().cpu()
    return sums


def _depth_limit(model: PreTrainedModel) -> int | None:
    """Shortest window or rotary range that the configuration names; beyond it a mask of ours would not be the model's.

    A trial on short sequences cannot see a window, so it is read off the configuration.
    """
    config = model.config.get_text_config()
    names = ("sliding_window", "attention_window_size", "window_size", "attention_chunk_size")
    limits = [value for name in names if isinstance(value := getattr(config, name, None), int) and value > 0]
    rope = getattr(config, "rope_parameters", None) or {}
    for part in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if part.get("rope_type") in {"dynamic", "longrope"}:  # these depend on the longest sequence of a batch
            original = part.get("original_max_position_embeddings") or config.max_position_embeddings
            limits.append(int(original))
    return min(limits, default=None)
