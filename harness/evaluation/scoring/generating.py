"""Greedy answers of the model in memory: lm-eval's own batched decoding, with the lengths of the answers beside it."""

import copy
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from harness.data.generation.base import GENERATED_TOGETHER
from harness.progress import Reporter


class GreedyLM(HFLM):  # type: ignore[misc]  # lm-eval's model is untyped
    """Lm-eval's model of transformers around one that is loaded.

    Attributes:
        lengths: tokens of every answer up to where it stopped, in the order in which they were generated.
        cut: how many answers did not stop by themselves.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int | None, reporter: Reporter
    ) -> None:
        own: Any = copy.deepcopy(tokenizer)  # it is given a padding token and a side
        super().__init__(pretrained=model, tokenizer=own, max_length=max_length, batch_size=GENERATED_TOGETHER)
        self.lengths: list[int] = []
        self.cut = 0
        self._reporter = reporter

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        answers: list[str] = super().generate_until(requests, disable_tqdm=True)
        return answers

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **options: Any) -> Tensor:
        tokens_BL: Tensor = super()._model_generate(context, max_length, stop, **options)
        for answer in tokens_BL[:, context.shape[1] :].tolist():
            length, stopped = self._stops(answer, stop, max_length - context.shape[1])
            self.lengths.append(length)
            self.cut += not stopped
        self._reporter.advance(len(tokens_BL))
        return tokens_BL

    def _stops(self, answer: list[int], stop: list[str], most: int) -> tuple[int, bool]:
        """How many tokens come before the end of the answer, of `most` that it may have, and whether it has one."""
        ends = self.eot_token_id
        if ends in answer:  # what follows is padding, or nobody reads it
            answer = answer[: answer.index(ends)]
        text = self.tok_decode(answer, skip_special_tokens=False)
        places = [text.find(each) for each in stop if each in text]
        if not places:
            return len(answer), len(answer) < most
        kept = text[: min(places)]
        return len(self.tok_encode(kept, add_special_tokens=False)), True
