"""Text to tokens exactly as lm-eval's `HFLM` does it for causal models, but many texts at a time and each once.

Source of the rules: `TemplateLM.loglikelihood`, `TemplateLM._encode_pair` and `HFLM.tok_encode` of lm-eval 0.4.13.
"""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from transformers import PreTrainedTokenizerBase

from harness.errors import UserError

Pair: TypeAlias = tuple[str, str]
EncodedPair: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]


class PairEncoder:
    """Encodes (context, continuation) pairs and remembers them: share one between the models of a tokenizer.

    Raises:
        UserError: the tokenizer has neither a BOS nor an EOS token to put before a text without context.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        prefix = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if prefix is None:
            raise UserError(f"the tokenizer {tokenizer.name_or_path!r} has no BOS and no EOS token; scoring needs one")
        self.prefix_token = int(prefix)
        self._prefix_text = str(tokenizer.decode(self.prefix_token))
        self._known: dict[Pair, EncodedPair] = {}

    def encode(self, pairs: Sequence[Pair]) -> list[EncodedPair]:
        """Tokens of context and continuation of each pair.

        Raises:
            UserError: a context or a continuation has no tokens.
        """
        new = dict.fromkeys(pair for pair in pairs if pair not in self._known)
        moved = {pair: _move_spaces(pair) for pair in new if pair[0]}
        wholes = self.texts({context + continuation for context, continuation in moved.values()})
        contexts = self.texts({context for context, _ in moved.values()})
        bare = self.texts({continuation for context, continuation in new if not context}, special=False)
        for pair in new:
            if pair in moved:
                context, continuation = moved[pair]
                start = contexts[context]
                encoded = tuple(start), tuple(wholes[context + continuation][len(start) :])
            else:
                encoded = self._without_context(bare[pair[1]])
            if not all(encoded):
                raise UserError(f"nothing to score: context {pair[0]!r} or continuation {pair[1]!r} has no tokens")
            self._known[pair] = encoded
        return [self._known[pair] for pair in pairs]

    def texts(self, texts: Iterable[str], *, special: bool = True) -> dict[str, list[int]]:
        """Tokens of each text, with the tokenizer's own special tokens if `special`.

        A text that begins with the BOS token as text gets none, so that it does not stand twice.
        """
        plain: list[str] = []
        marked: list[str] = []
        for text in texts:
            (marked if not special or text.startswith(self._prefix_text) else plain).append(text)
        encoded: dict[str, list[int]] = {}
        if plain:
            encoded.update(zip(plain, self.tokenizer(plain)["input_ids"], strict=True))
        if marked:
            encoded.update(zip(marked, self.tokenizer(marked, add_special_tokens=False)["input_ids"], strict=True))
        return encoded

    def _without_context(self, continuation: Sequence[int]) -> EncodedPair:
        if continuation and continuation[0] == self.prefix_token:
            return tuple(continuation[:1]), tuple(continuation[1:])
        return (self.prefix_token,), tuple(continuation)


def _move_spaces(pair: Pair) -> Pair:
    """Spaces that end the context belong to the continuation: tokens hold the space before their word."""
    context, continuation = pair
    stripped = context.rstrip()
    return stripped, context[len(stripped) :] + continuation
