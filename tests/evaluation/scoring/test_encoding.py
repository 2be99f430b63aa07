"""Tokens are those of lm-eval's HFLM, and each text is encoded once."""

import copy
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harness.errors import UserError
from harness.evaluation.scoring.lm import PackedLM
from tests.evaluation.scoring.conftest import instance


class Recorder:
    """Hands back the tokens that would be scored."""

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> Any:
        return [(tuple(context), tuple(continuation)) for _, context, continuation in requests]


class Ours(Recorder, PackedLM):
    """The scorer."""


class Stock(Recorder, HFLM):  # type: ignore[misc]
    """The one of lm-eval."""


def model() -> LlamaForCausalLM:
    """Whose numbers are of no matter."""
    config = LlamaConfig(vocab_size=400, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    return LlamaForCausalLM(config)


@pytest.mark.parametrize("adds_bos", [False, True])
def test_tokens_are_those_of_stock_lm_eval(
    tokenizer: PreTrainedTokenizerFast, requests: list[Instance], adds_bos: bool
) -> None:
    """Spaces that end a context, empty contexts, BOS in the text: as HFLM, with a tokenizer that adds BOS or not."""
    tokenizer = copy.deepcopy(tokenizer)
    if adds_bos:
        from tokenizers.processors import TemplateProcessing

        processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)])
        tokenizer.backend_tokenizer.post_processor = processor
        assert tokenizer("cat")["input_ids"][0] == tokenizer.bos_token_id
    stock = Stock(pretrained=model(), tokenizer=copy.deepcopy(tokenizer), backend="causal")
    expected = stock.loglikelihood(requests, disable_tqdm=True)
    assert Ours(model(), tokenizer).loglikelihood(requests, disable_tqdm=True) == expected


def test_known_texts_are_not_encoded_again(
    tokenizer: PreTrainedTokenizerFast, requests: list[Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second model of a sweep finds its requests encoded."""
    encoded: Any = {}
    first = Ours(model(), tokenizer, encoded=encoded).loglikelihood(requests, disable_tqdm=True)
    second = Ours(model(), tokenizer, encoded=encoded)
    monkeypatch.setattr(second, "_tokenizer", None)  # whoever asks it now fails
    assert second.loglikelihood(requests, disable_tqdm=True) == first


@pytest.mark.parametrize("pair", [("the cat", ""), ("  ", "eats"), ("", "<s>"), ("", "")])
def test_nothing_to_score_is_the_users_mistake(tokenizer: PreTrainedTokenizerFast, pair: tuple[str, str]) -> None:
    """One line that shows the request."""
    with pytest.raises(UserError, match="nothing to score"):
        PackedLM(model(), tokenizer).loglikelihood([instance(*pair)], disable_tqdm=True)
