"""Tokens are those of lm-eval's HFLM, and each text is encoded once."""

import copy
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harness.errors import UserError
from harness.evaluation.scoring.encoding import PairEncoder


class Recorder(HFLM):  # type: ignore[misc]
    """Stock HFLM that hands back the tokens it would score."""

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> Any:
        return [(tuple(context), tuple(continuation)) for _, context, continuation in requests]


def stock(tokenizer: PreTrainedTokenizerFast) -> Recorder:
    """Over a model that is never run."""
    config = LlamaConfig(vocab_size=400, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    return Recorder(pretrained=LlamaForCausalLM(config), tokenizer=copy.deepcopy(tokenizer), backend="causal")


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
    expected = stock(tokenizer).loglikelihood(requests, disable_tqdm=True)
    assert PairEncoder(tokenizer).encode([item.args for item in requests]) == expected


def test_an_empty_context_before_bos_uses_the_bos_of_the_text(tokenizer: PreTrainedTokenizerFast) -> None:
    """The text's own BOS becomes the context instead of a second one."""
    context, continuation = PairEncoder(tokenizer).encode([("", "<s>cat")])[0]
    assert context == (tokenizer.bos_token_id,)
    assert continuation == tuple(tokenizer("cat")["input_ids"])


def test_known_pairs_are_not_encoded_again(tokenizer: PreTrainedTokenizerFast) -> None:
    """A second model of a sweep finds its requests encoded."""
    encoder = PairEncoder(tokenizer)
    first = encoder.encode([("the cat", " eats")])
    encoder.tokenizer = None  # type: ignore[assignment]  # whoever asks it now fails
    assert encoder.encode([("the cat", " eats")] * 2) == first * 2


@pytest.mark.parametrize("pair", [("the cat", ""), ("  ", "eats"), ("", "<s>")])
def test_nothing_to_score_is_the_users_mistake(tokenizer: PreTrainedTokenizerFast, pair: tuple[str, str]) -> None:
    """One line that shows the request."""
    with pytest.raises(UserError, match="nothing to score"):
        PairEncoder(tokenizer).encode([pair])


def test_a_tokenizer_without_bos_and_eos_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    """There would be nothing to put before a text without context."""
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(UserError, match="no BOS and no EOS"):
        PairEncoder(bare)
