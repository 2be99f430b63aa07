"""Perplexity against code that spells it out."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn

from harness.blocks.layers import decoder_blocks
from harness.data.sources import resolve
from harness.errors import UserError
from harness.evaluation.base import Estimate
from harness.evaluation.kinds.perplexity import PerplexityProtocol
from harness.evaluation.perplexity import perplexity
from harness.evaluation.windows import cut
from harness.models.folders import byte_tokenizer
from harness.models.loading import LoadedModel
from harness.progress import Silent
from tests.families import VOCAB, tiny_model

CPU = torch.device("cpu")


class Counter:
    """A reporter that adds up what it is told."""

    def __init__(self) -> None:
        self.parts = 0

    def start(self, step: str, total: int) -> None: ...

    def advance(self, parts: int = 1) -> None:
        self.parts += parts

    def note(self, text: str) -> None: ...


def measure(model: Any, windows_NL: Tensor, *, batch_tokens: int = 24) -> Estimate:
    """Perplexity on the CPU; every window is reported once."""
    counter = Counter()
    measured = perplexity(model, windows_NL, batch_tokens=batch_tokens, device=CPU, reporter=counter)
    assert counter.parts == len(windows_NL)
    return measured


@torch.no_grad()
def obvious(model: Any, windows_NL: Tensor) -> tuple[float, list[float]]:
    """(exp of the mean over all predicted tokens of -log p, mean of each window), in float64, one window at a time."""
    means = []
    for window_L in windows_NL:
        logits_LV = model(input_ids=window_L[None], use_cache=False).logits[0].double()
        total = 0.0
        for place in range(len(window_L) - 1):
            scores = logits_LV[place]
            total -= float(scores[window_L[place + 1]] - torch.logsumexp(scores, dim=0))
        means.append(total / (len(window_L) - 1))
    return math.exp(sum(means) / len(means)), means


@pytest.mark.parametrize("batch_tokens", [1, 24, 30, 10_000])
@pytest.mark.parametrize("family", ["llama-gqa", "opt"])
def test_it_is_what_the_papers_compute(family: str, batch_tokens: int, random_tokens: Callable[..., Tensor]) -> None:
    """The exponential of the mean negative log-likelihood of all tokens but each window's first, for every batching;
    the error is that of the mean over windows, by the delta method.
    """
    model, windows_NL = tiny_model(family), random_tokens(7)
    value, means = obvious(model, windows_NL)
    measured = measure(model, windows_NL, batch_tokens=batch_tokens)
    assert measured.value == pytest.approx(value, rel=1e-5)
    mean = sum(means) / 7
    deviation = math.sqrt(sum((one - mean) ** 2 for one in means) / 6)
    assert measured.stderr == pytest.approx(value * deviation / math.sqrt(7), rel=1e-3)
    assert measured.count == 7


def test_one_window_has_no_error(random_tokens: Callable[..., Tensor]) -> None:
    """A spread takes two: None, not 0 and not NaN."""
    assert measure(tiny_model("llama"), random_tokens(1)).stderr is None


class Certain(nn.Module):
    """Gives `logit` to the token after the one it sees, and 0 to all others."""

    def __init__(self, logit: float, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.logit, self.dtype = logit, dtype

    def get_output_embeddings(self) -> None:
        """It has no head apart from itself."""

    def forward(self, input_ids: Tensor, use_cache: bool) -> Any:
        following = (input_ids + 1) % VOCAB
        return SimpleNamespace(logits=self.logit * nn.functional.one_hot(following, VOCAB).to(self.dtype))


UPWARDS = torch.arange(8)[None].repeat(3, 1) + torch.tensor([[0], [5], [9]])


@pytest.mark.parametrize(("logit", "value"), [(0.0, VOCAB), (100.0, 1.0), (math.log(VOCAB - 1), 2.0)])
def test_known_values(logit: float, value: float) -> None:
    """A model that knows nothing has the size of the vocabulary, one that knows all has 1, one of even odds has 2."""
    measured = measure(Certain(logit), UPWARDS)
    assert measured.value == pytest.approx(value, rel=1e-5)
    assert measured.stderr == pytest.approx(0.0, abs=1e-5)


def test_a_destroyed_model_is_infinite() -> None:
    """A loss beyond what exp holds is infinity, without an error; just below it is a number."""
    assert measure(Certain(-1e4), UPWARDS) == Estimate(math.inf, None, 3)
    almost = measure(Certain(-700.0), UPWARDS)
    assert almost.value is not None
    assert 1e300 < almost.value < math.inf


def test_logits_that_are_no_numbers_have_no_perplexity() -> None:
    """NaN is not measured as infinity: the value is missing, though one window alone is bad."""
    assert measure(Certain(math.nan), UPWARDS) == Estimate(None, None, 3)


def test_log_probabilities_are_float32(random_tokens: Callable[..., Tensor]) -> None:
    """Logits in bfloat16 are made float32 before the softmax."""
    model = tiny_model("llama").to(torch.bfloat16)
    value, _ = obvious(model, random_tokens(4))
    assert measure(model, random_tokens(4)).value == pytest.approx(value, rel=1e-4)


def test_the_model_is_not_trained(random_tokens: Callable[..., Tensor]) -> None:
    """No gradient is kept."""
    model = tiny_model("llama")
    measure(model, random_tokens(2))
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch's compiler imports its own old parts
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for the CPU needs g++")
def test_compiled_blocks_measure_the_same_and_are_gone_afterwards() -> None:
    """The same perplexity to rounding, a last batch of another size included; the model is left as it was."""
    model = tiny_model("llama-gqa").eval()
    windows_NL = torch.randint(0, VOCAB, (5, 24), generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"batch_tokens": 48, "device": CPU, "reporter": Silent()}
    plain = perplexity(model, windows_NL, **options)
    compiled = perplexity(model, windows_NL, **options, compiled=True)
    assert compiled.value == pytest.approx(plain.value, rel=1e-5)
    assert all(block._compiled_call_impl is None for block in decoder_blocks(model)[1])
    assert perplexity(model, windows_NL, **options) == plain


def test_compiling_without_a_compiler_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what is missing and what is allowed, before any window is measured."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    windows_NL = torch.zeros((2, 16), dtype=torch.long)
    with pytest.raises(UserError, match=r"compile=true needs a C\+\+ compiler.*allowed: compile=false"):
        perplexity(
            tiny_model("llama"),
            windows_NL,
            batch_tokens=32,
            device=CPU,
            reporter=Silent(),
            compiled=True,
        )


@pytest.mark.parametrize("adds_bos", [False, True])
def test_every_window_begins_with_one_bos(adds_bos: bool, tmp_path: Path) -> None:
    """Whether the tokenizer begins a text with BOS or not: no window has it twice, and all are of the same text."""
    tokenizer = byte_tokenizer()
    bos = tokenizer.bos_token_id
    if adds_bos:
        template = TemplateProcessing(single=f"{tokenizer.bos_token} $A", special_tokens=[(tokenizer.bos_token, bos)])
        tokenizer.backend_tokenizer.post_processor = template
        assert tokenizer("a")["input_ids"][0] == bos
    (tmp_path / "text").write_text("ab" * 20)
    data = resolve("wikitext2", "evaluation", path=tmp_path / "text")
    protocol = PerplexityProtocol("wikitext2", data.unpublished, seq_len=9, bos_every_window=True)
    loaded = LoadedModel(tiny_model("llama", vocab_size=257), tokenizer)
    tokens_NL = cut(protocol, data, loaded).windows_NL
    assert tokens_NL.tolist() == [[bos, *tokenizer("abababab")["input_ids"][adds_bos:]]] * 5


def test_a_text_with_a_token_that_has_no_embedding_is_refused(tmp_path: Path) -> None:
    """Before anything is pruned, with the corpus, the id and those that there are."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    (tmp_path / "text").write_text("a [PAD] b")
    data = resolve("wikitext2", "evaluation", path=tmp_path / "text")
    loaded = LoadedModel(tiny_model("llama", vocab_size=257), tokenizer)
    with pytest.raises(UserError, match=r"^wikitext2 has token id 257; allowed: 0 to 256$"):
        cut(PerplexityProtocol("wikitext2", data.unpublished, seq_len=2), data, loaded)
