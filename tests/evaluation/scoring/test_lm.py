"""Log-likelihoods and greedy flags are stock HFLM's at batch size 1, whatever the family, and faults are seen."""

import copy
import dataclasses
import warnings
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MptConfig,
    OPTConfig,
    PhiConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from harness.errors import UserError
from harness.evaluation import head
from harness.evaluation.scoring import lm
from harness.evaluation.scoring.lm import PackedLM
from harness.evaluation.scoring.packing import Layout, lay_out
from tests.evaluation.scoring.conftest import instance

SIZES: dict[str, Any] = {"vocab_size": 350, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = SIZES | {"intermediate_size": 48, "max_position_embeddings": 128}
GROUPED = LLAMA | {"num_key_value_heads": 2}
NEO: dict[str, Any] = {"vocab_size": 350, "hidden_size": 32, "num_layers": 2, "num_heads": 4}
NEO |= {"attention_types": [[["global", "local"], 1]], "max_position_embeddings": 128}
FAMILIES: dict[str, tuple[PretrainedConfig, str, bool]] = {
    "llama": (LlamaConfig(**GROUPED), "linear", True),
    "llama-tied": (LlamaConfig(**GROUPED, tie_word_embeddings=True), "linear", True),
    "qwen3": (Qwen3Config(**GROUPED, head_dim=8), "linear", True),
    "mistral-window": (MistralConfig(**GROUPED, sliding_window=48), "linear", True),
    "gemma2": (Gemma2Config(**GROUPED, head_dim=8, sliding_window=48), "soft-capped", True),
    "gemma3": (Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=48), "linear", True),
    "cohere": (CohereConfig(**GROUPED), "scaled", True),
    "granite": (GraniteConfig(**GROUPED, logits_scaling=3.0), "scaled", True),
    "opt": (OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=16, max_position_embeddings=128), "linear", True),
    "gpt2": (GPT2Config(vocab_size=350, n_embd=32, n_layer=2, n_head=4, n_positions=128), "linear", True),
    "gpt-neox": (GPTNeoXConfig(**LLAMA), "linear", True),
    "phi": (PhiConfig(**LLAMA), "linear", True),
    "mpt": (MptConfig(vocab_size=350, d_model=32, n_layers=2, n_heads=4, max_seq_len=128), "linear", False),
    "bloom": (BloomConfig(vocab_size=350, hidden_size=32, n_layer=2, n_head=4), "linear", False),
    "gpt-neo": (GPTNeoConfig(**NEO, window_size=48), "linear", True),  # a window over places in the row
    "gpt-neo-narrow": (GPTNeoConfig(**NEO, window_size=16), "linear", False),
    "mamba": (MambaConfig(vocab_size=350, hidden_size=32, num_hidden_layers=2), "linear", False),
}


def build(family: str) -> PreTrainedModel:
    """A tiny random model whose matrices are large enough for contexts to matter."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_config(FAMILIES[family][0]).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter *= 6
    return model.eval()


def stock(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, batch_size: int = 1) -> HFLM:
    """Stock HFLM on the same model."""
    return HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), backend="causal", batch_size=batch_size)


def difference(ours: list[tuple[float, bool]], theirs: list[tuple[float, bool]]) -> float:
    """Largest difference of a log-likelihood; infinite where a greedy flag differs."""
    assert len(ours) == len(theirs) > 0
    if [greedy for _, greedy in ours] != [greedy for _, greedy in theirs]:
        return float("inf")
    return max(abs(one - other) for (one, _), (other, _) in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_are_those_of_stock_lm_eval(
    family: str, tokenizer: PreTrainedTokenizerFast, requests: list[Instance]
) -> None:
    """Equal to 1e-4 in float32, also beyond a sliding window, and the way taken is said."""
    _, head_path, tree = FAMILIES[family]
    model = build(family)
    scorer = PackedLM(model, tokenizer, token_budget=300)
    assert (scorer.details["head_path"], scorer.details["tree"]) == (head_path, tree), scorer.details["tree_reason"]
    ours = scorer.loglikelihood(requests)
    assert difference(ours, stock(model, tokenizer).loglikelihood(requests, disable_tqdm=True)) < 1e-4
    counts = scorer.details["counts"]
    assert isinstance(counts, dict)
    assert counts["requests"] == len(requests)
    if family == "llama":  # with trees, far fewer tokens than one pass a request reads
        assert counts["computed"] < 0.6 * counts["requested"]
        assert counts["padded"] < 1.2 * counts["computed"]


def test_a_window_shorter_than_a_request_is_respected(
    tokenizer: PreTrainedTokenizerFast, requests: list[Instance]
) -> None:
    """The fixture's requests reach beyond the window of 48, else the families above would show nothing of it."""
    scorer = PackedLM(build("mistral-window"), tokenizer)
    longest = max(len(tokenizer("".join(item.args))["input_ids"]) for item in requests)
    assert longest > 48 == scorer.details["tree_depth_limit"]


def test_greedy_continuations_are_recognised(tokenizer: PreTrainedTokenizerFast) -> None:
    """The model's own greedy continuation is flagged, another is not, as by HFLM."""
    model = build("llama")
    start = tokenizer("the red cat", return_tensors="pt")["input_ids"]
    written = start
    for _ in range(3):
        written = torch.cat([written, model(written).logits[:, -1:].argmax(-1)], dim=1)
    tokens = written[0, start.shape[1] :].tolist()
    scorer = PackedLM(model, tokenizer)
    context = start[0].tolist()
    other = [tokens[0] + 1, *tokens[1:]]
    asked = [(("", ""), context, continuation) for continuation in (tokens, other, tokens[:1])]
    answers = scorer._loglikelihood_tokens(asked)
    assert [greedy for _, greedy in answers] == [True, False, True]


def test_a_request_too_long_is_cut_as_stock_cuts_it(tokenizer: PreTrainedTokenizerFast) -> None:
    """The beginning goes, and the count of cut requests is said."""
    model = build("gpt2")
    long = "the unhappy dog never eats " * 40
    items = [instance(long, f" {end}") for end in ("water", "a big stone")] + [instance("the cat", " eats")]
    scorer = PackedLM(model, tokenizer)
    ours = scorer.loglikelihood(items)
    assert difference(ours, stock(model, tokenizer).loglikelihood(items, disable_tqdm=True)) < 1e-4
    assert scorer.details["counts"]["cut"] == 2  # type: ignore[call-overload, index]
    with pytest.raises(UserError, match=r"a continuation has \d+ tokens; the model holds 128"):
        scorer.loglikelihood([instance("the", long)])


def _wide_mask(layout: Layout) -> Layout:
    width = len(layout.ends[0])
    return dataclasses.replace(layout, ends=[[width] * width for _ in layout.ends])


def _running_positions(layout: Layout) -> Layout:
    return dataclasses.replace(layout, positions=[list(range(len(row))) for row in layout.positions])


def _row_before(layout: Layout) -> Layout:
    return dataclasses.replace(layout, states=[max(0, state - 1) for state in layout.states])


def _next_target(layout: Layout) -> Layout:
    return dataclasses.replace(layout, targets=layout.targets[1:] + layout.targets[:1])


@pytest.mark.parametrize("fault", [_wide_mask, _running_positions, _row_before, _next_target])
def test_a_planted_fault_fails_the_comparison(
    fault: Any, tokenizer: PreTrainedTokenizerFast, requests: list[Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A causal mask over the whole row, positions that run on, rows or targets off by one: all are far off 1e-4."""
    model = build("llama")
    scorer = PackedLM(model, tokenizer, token_budget=300)
    monkeypatch.setattr(lm, "lay_out", lambda rows: fault(lay_out(rows)))
    theirs = stock(model, tokenizer).loglikelihood(requests, disable_tqdm=True)
    assert difference(scorer.loglikelihood(requests), theirs) > 1e-2


def test_a_model_that_ignores_our_mask_is_found_out(
    tokenizer: PreTrainedTokenizerFast, requests: list[Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial at construction turns trees off, says so, and the numbers are right."""
    model = build("llama")
    body, forward = model.base_model, model.base_model.forward
    monkeypatch.setattr(body, "forward", lambda *args, attention_mask=None, **rest: forward(*args, **rest))
    scorer = PackedLM(model, tokenizer)
    assert scorer.details["tree"] is False
    assert "under a tree mask are" in str(scorer.details["tree_reason"])
    theirs = stock(model, tokenizer).loglikelihood(requests, disable_tqdm=True)
    assert difference(scorer.loglikelihood(requests), theirs) < 1e-4


def test_in_half_precision_a_model_with_its_own_positions_is_found_out(tokenizer: PreTrainedTokenizerFast) -> None:
    """MPT counts places in the row; in bfloat16 that would pass for rounding, were faults not tried beside it."""
    details = PackedLM(build("mpt").to(torch.bfloat16), tokenizer).details
    assert details["tree"] is False
    assert "cannot tell" in str(details["tree_reason"])


def test_a_head_that_is_not_known_is_not_guessed(
    tokenizer: PreTrainedTokenizerFast, requests: list[Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A family with its own way of finishing logits gets the model's own forward, and the right numbers."""
    model = build("gemma2")
    monkeypatch.setattr(head, "_ways", lambda _, linear: [("linear", linear)])
    scorer = PackedLM(model, tokenizer)
    assert scorer.details["head_path"] == "full"
    theirs = stock(model, tokenizer).loglikelihood(requests, disable_tqdm=True)
    assert difference(scorer.loglikelihood(requests), theirs) < 1e-4


def test_weights_that_are_not_finite_turn_trees_off(tokenizer: PreTrainedTokenizerFast) -> None:
    """A trial on a broken model shows nothing, so no shortcut is taken, and answers are not numbers."""
    model = build("llama")
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(torch.nan)
    scorer = PackedLM(model, tokenizer)
    assert scorer.details["tree"] is False
    ((value, _),) = scorer.loglikelihood([instance("the cat", " eats")])
    assert value != value


def test_half_precision_weights_get_float32_softmax(
    tokenizer: PreTrainedTokenizerFast, requests: list[Instance]
) -> None:
    """In bfloat16 trees are still told from a wrong mask, and results stay near those of stock with float32 softmax."""
    model = build("llama").to(torch.bfloat16)
    scorer = PackedLM(model, tokenizer)
    assert scorer.details["tree"] is True
    theirs = HFLM(
        pretrained=model, tokenizer=copy.deepcopy(tokenizer), backend="causal", batch_size=1, softmax_dtype="float32"
    ).loglikelihood(requests, disable_tqdm=True)
    pairs = zip(scorer.loglikelihood(requests), theirs, strict=True)
    assert max(abs(one - other) / abs(other) for (one, _), (other, _) in pairs) < 0.02


class NoWaiting(TorchDispatchMode):
    """Fails at operations whose result the host waits for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waiting = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal.default", "unique")
        assert not any(name in str(func) for name in waiting), f"{func} makes the host wait for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", ["llama", "gpt-neox", "opt", "gpt2"])  # Gemma's own forward asks about positions
def test_scoring_never_waits_for_the_device(
    family: str, tokenizer: PreTrainedTokenizerFast, requests: list[Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the batches of a call no number is fetched from the device; results are fetched once, at the end."""
    scorer = PackedLM(build(family), tokenizer, token_budget=100)
    free = scorer._scorer.score

    def watched(*args: Any, **kwargs: Any) -> Any:
        with NoWaiting():
            return free(*args, **kwargs)

    monkeypatch.setattr(scorer._scorer, "score", watched)
    scorer.loglikelihood(requests)
    with NoWaiting(), pytest.raises(AssertionError, match="wait"):
        torch.ones(()).item()


def test_what_it_cannot_do_is_refused_in_a_line(tokenizer: PreTrainedTokenizerFast) -> None:
    """Generation, whole texts, and a tokenizer that has nothing to put before a text without context."""
    model = build("llama")
    for refused in (PackedLM.generate_until, PackedLM.loglikelihood_rolling):
        with pytest.raises(UserError, match="generate text: unnamed"):
            refused(PackedLM(model, tokenizer), [instance("a", "b")])
    with pytest.raises(UserError, match="no BOS and no EOS"):
        PackedLM(model, PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer))
