"""A small tokenizer whose tokens span word boundaries, and requests in its language."""

import random
import warnings

import pytest
from lm_eval.api.instance import Instance
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

WORDS = ["the", "a", "red", "blue", "cat", "dog", "sees", "eats", "big", "small", "never", "always", "water", "stone"]
WORDS += ["running", "walked", "unhappy", "remarkable"]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that the space before a word is part of its token."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, initial_alphabet=sorted(alphabet), show_progress=False)
    backend.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    backend.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def instance(context: str, continuation: str) -> Instance:
    """One log-likelihood request as lm-eval makes them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Instance("loglikelihood", {}, (context, continuation), 0)


@pytest.fixture(scope="session")
def requests() -> list[Instance]:
    """Four kinds of question: long choices with shared beginnings, one word, other contexts, and oddities."""
    draw = random.Random(0)

    def some(low: int, high: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(low, high)))

    made = []
    for _ in range(6):
        context, stem = f"Question: {some(3, 12)}\nAnswer:", some(1, 3)
        made += [(context, f" {stem} {some(1, 6)}") for _ in range(3)] + [(context, f" {some(1, 4)}")]
        passage = some(25, 60)
        made += [(passage, " yes"), (passage, " no")]
        made += [(f"{passage} {name}", " walked the dog") for name in ("cat", "dog")]
    made += [("", "a cat sees"), ("the cat ", "eats"), ("the cat  \n", "eats water"), ("<s>the cat", " eats")]
    made += [made[0], made[3]]
    return [instance(*pair) for pair in made]
