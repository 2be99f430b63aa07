"""Wanda 2:4 on SmolLM2-135M three ways, on the same tokens in float32: whose masks differ, and where first.

    python experiments/machine_dependence/wanda_masks.py ours FOLDER [SEQUENCES] [START] [BLOCKS]
    python experiments/machine_dependence/wanda_masks.py formula FOLDER     # Sun et al. 2023, no code of ours
    python experiments/machine_dependence/wanda_masks.py eager FOLDER       # the same with attention as products
    python experiments/machine_dependence/wanda_masks.py theirs FOLDER      # where llm-compressor is installed
    python experiments/machine_dependence/wanda_masks.py compare FOLDER

`ours` draws SEQUENCES x 1,024 tokens of C4 and keeps them, and the model or its first BLOCKS, in FOLDER for the others.  Each leaves its
pruned weights there; `compare` counts the weights that one has and another has not, and measures them all.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

LENGTH, WINDOWS, SHOWN = 1024, 8, 100
"""Tokens of a sequence or window; windows; differing weights after which layers are not printed any more."""
WAYS = ("ours", "formula", "eager", "theirs")


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The linears of the decoder blocks, by path."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {name: module for name, module in found.items() if "layers." in name}


def loaded(folder: Path, attention: str = "sdpa") -> tuple[nn.Module, Tensor]:
    """The dense model in float32, and the calibration tokens."""
    options = {"dtype": torch.float32, "attn_implementation": attention}
    model = AutoModelForCausalLM.from_pretrained(folder / "model", **options).eval()
    return model, load_file(folder / "tokens.safetensors")["calibration"]


def ours(folder: Path, sequences: str = "32", start: str = "0", blocks: str = "30") -> None:
    """The walk of this project; first keeps the model and the tokens."""
    from harness.data.arrays import windows
    from harness.data.corpora.base import CORPORA, TextCorpus
    from harness.data.sequences import RandomWindows
    from harness.data.sources import resolve
    from harness.models.checkpoint import Checkpoint
    from harness.models.loading import load_model
    from harness.patterns import SemiStructured
    from harness.pruning.context import PruningContext
    from harness.pruning.methods.wanda import Wanda

    smollm2 = load_model(Checkpoint("embedded", "smollm2-135m", None, None, False), torch.float32)
    smollm2.model.model.layers = smollm2.model.model.layers[: int(blocks)]
    smollm2.model.config.num_hidden_layers = int(blocks)
    c4, wikitext2 = resolve("c4", "calibration"), resolve("wikitext2", "evaluation")
    calibration, evaluation = CORPORA.get("c4"), CORPORA.get("wikitext2")
    assert isinstance(calibration, TextCorpus), "pages of the web are text"
    drawer = RandomWindows(
        calibration.documents(c4),
        smollm2.tokenizer,
        seq_len=LENGTH,
        seed=int(start),
        sampling=calibration.sampling(c4),
    )
    tokens_BL = torch.from_numpy(drawer.draw(int(sequences))[0].copy())
    ids = evaluation.tokens(wikitext2, smollm2.tokenizer, LENGTH, smollm2.vocab_size).ids
    windows_NL = torch.from_numpy(windows(ids, LENGTH, WINDOWS).copy())
    folder.mkdir(parents=True, exist_ok=True)
    smollm2.model.save_pretrained(folder / "model")
    assert smollm2.tokenizer is not None, "the embedded model has a tokenizer"
    smollm2.tokenizer.save_pretrained(folder / "model")
    save_file({"calibration": tokens_BL, "windows": windows_NL}, folder / "tokens.safetensors")
    two_of_four, cpu = SemiStructured(2, 4), torch.device("cpu")
    Wanda().run(PruningContext(smollm2.model, smollm2.offloading, tokens_BL, two_of_four, "pruned", cpu, LENGTH))
    keep(folder, "ours", smollm2.model)


@torch.no_grad()
def formula(folder: Path, attention: str = "sdpa") -> None:
    """|W_ij| ||X_j||, ranked in groups of 4 of a row; the norm over all tokens, in float64; block by block.

    All linears of a block see the inputs that the dense block has; the next block sees the pruned block's outputs.
    """
    model, tokens_BL = loaded(folder, attention)
    future_LL = torch.full((LENGTH, LENGTH), torch.finfo(torch.float32).min).triu(1)
    asked = {"attention_mask": future_LL[None, None] if attention == "eager" else None}
    norms: dict[str, Tensor] = {}
    hidden = [model.model.embed_tokens(row_1L) for row_1L in tokens_BL.split(1)]
    asked["position_embeddings"] = model.model.rotary_emb(hidden[0], torch.arange(LENGTH)[None])
    for block in model.model.layers:
        squares: dict[nn.Module, Tensor] = {}
        inside = [module for module in block.modules() if isinstance(module, nn.Linear)]
        hooks = [linear.register_forward_pre_hook(adder(squares)) for linear in inside]
        for x_1LH in hidden:
            block(x_1LH, **asked)
        for hook in hooks:
            hook.remove()
        names = {linear: name for name, linear in linears(model).items()}
        for linear in inside:
            norms[names[linear]] = squares[linear].sqrt()
            score_OI = linear.weight.double().abs() * norms[names[linear]]
            order = score_OI.view(len(score_OI), -1, 4).argsort(dim=-1, stable=True)
            removed = torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order[..., :2], True)
            linear.weight[removed.view_as(linear.weight)] = 0.0
        hidden = [block(x_1LH, **asked) for x_1LH in hidden]
        hidden = [x_1LH[0] if isinstance(x_1LH, tuple) else x_1LH for x_1LH in hidden]
    save_file(norms, folder / "norms")
    keep(folder, "formula" if attention == "sdpa" else attention, model)


def eager(folder: Path) -> None:
    """The formula, with the attention that llm-compressor calibrates with."""
    formula(folder, "eager")


def adder(squares: dict[nn.Module, Tensor]) -> Callable[[nn.Module, tuple[Tensor]], None]:
    """A hook that adds the squares of a linear's inputs over the tokens."""

    def add(module: nn.Module, args: tuple[Tensor]) -> None:
        squares[module] = squares.get(module, 0.0) + args[0].double().flatten(0, -2).square().sum(dim=0)

    return add


def theirs(folder: Path) -> None:
    """llm-compressor's modifier over the same tokens, in their order, one sequence a batch."""
    from llmcompressor import oneshot
    from llmcompressor.modifiers.pruning.wanda import WandaPruningModifier
    from torch.utils.data import DataLoader

    model, tokens_BL = loaded(folder)
    rows = [{"input_ids": row_L, "attention_mask": torch.ones_like(row_L)} for row_L in tokens_BL]
    modifier = WandaPruningModifier(sparsity=0.5, mask_structure="2:4", ignore=["re:.*lm_head"])
    oneshot(
        model=model,
        dataset=DataLoader(rows, batch_size=1),
        recipe=[modifier],
        num_calibration_samples=len(rows),
        pipeline="sequential",
    )
    keep(folder, "theirs", model)


def keep(folder: Path, way: str, model: nn.Module) -> None:
    """Save the weights of the blocks' linears."""
    save_file({name: linear.weight.data.contiguous() for name, linear in linears(model).items()}, folder / way)


def compare(folder: Path) -> None:
    """Print the layers whose zeros differ, first ones first, and the perplexities."""
    dense, _ = loaded(folder)
    pruned = {way: load_file(folder / way) for way in WAYS if (folder / way).exists()}
    for place, one in enumerate(pruned):
        for other in list(pruned)[place + 1 :]:
            print(f"{one} and {other}: weights that one keeps and the other does not")
            total = 0
            for name, linear in linears(dense).items():
                unlike = (pruned[one][name] != pruned[other][name]).sum().item()
                total += unlike
                if unlike and total - unlike < SHOWN:
                    print(f"  {name}: {unlike} of {linear.weight.numel()}")
                if unlike and unlike == total:
                    score_OI = linear.weight.double().abs() * load_file(folder / "norms")[name]
                    print(f"    {gap(score_OI, pruned[one][name], pruned[other][name])}")
            print(f"  all: {total}")
    for way, weights in pruned.items():
        for name, linear in linears(dense).items():
            linear.weight.data.copy_(weights[name])
        print(f"{way}: perplexity {perplexity(dense, folder):.3f}")


def gap(score_OI: Tensor, one_OI: Tensor, other_OI: Tensor) -> str:
    """Where the first two weights are that changed places, and how far apart their scores are."""
    (row, first), (_, second) = (one_OI != other_OI).nonzero()[:2].tolist()
    a, b = float(score_OI[row, first]), float(score_OI[row, second])
    return f"row {row}, columns {first} and {second}: scores {a:.9g} and {b:.9g}, {abs(a - b) / a:.1e} apart"


@torch.no_grad()
def perplexity(model: nn.Module, folder: Path) -> float:
    """Of the first windows of WikiText-2's test split."""
    windows_NL = load_file(folder / "tokens.safetensors")["windows"]
    losses = [model(input_ids=row_1L, labels=row_1L).loss for row_1L in windows_NL.split(1)]
    return float(torch.stack(losses).double().mean().exp())


if __name__ == "__main__":
    ways = {"ours": ours, "formula": formula, "eager": eager, "theirs": theirs, "compare": compare}
    ways[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
