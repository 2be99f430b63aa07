"""Blocks that are in memory, on disk or on an accelerator are pruned and measured to the same outcome."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from harness.blocks import prefetch
from harness.blocks.layers import decoder_blocks, prunable_linears
from harness.blocks.offload import InMemory
from harness.blocks.runner import BlockRunner, in_batches
from harness.blocks.slots import outside_on
from harness.errors import UserError
from harness.evaluation.base import Estimate
from harness.evaluation.perplexity import TrialLoss, perplexity, perplexity_from
from harness.job import Choice
from harness.models.checkpoint import Checkpoint
from harness.models.loading import LoadedModel, load_from_disk, load_model
from harness.models.saving import save_model
from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.progress import Silent
from harness.pruning.allocations.base import ALLOCATIONS, UNIFORM
from harness.pruning.context import PruningOutcome
from harness.pruning.fingerprints import weights_fingerprint
from harness.pruning.methods.base import METHODS, LayerwiseMethod
from harness.pruning.methods.sparsegpt import SparseGPT
from harness.pruning.methods.wanda import Wanda
from harness.record import LayerReport
from tests.accelerator import CPU, DEVICE, Accelerator, ImplicitTransferError
from tests.contexts import a_context
from tests.contracts.test_global_pruning import choices_of, label
from tests.families import FAMILIES, MIXTURES, plain_model, tiny_model

MAPPABLE = sorted(FAMILIES | MIXTURES)
"""Checkpoints of mixtures store experts in stacks or one by one, gate and up apart; the model has one linear each."""
Open = Callable[..., LoadedModel]


@pytest.fixture
def open_model(tmp_path: Path) -> Iterator[Open]:
    """Save a tiny model in several shards and open it, with its blocks in memory or on disk."""
    with ExitStack() as stack:

        def open_it(family: str, *, on_disk: bool, dtype: torch.dtype = torch.float32) -> LoadedModel:
            folder = tmp_path / f"{family}-source"
            if not folder.exists():
                plain_model(family).save_pretrained(folder, max_shard_size="20KB")
            if on_disk:
                return stack.enter_context(load_from_disk(local(folder), dtype, tmp_path / "scratch"))
            return load_model(local(folder), dtype)

        yield open_it


def local(folder: Path) -> Checkpoint:
    """A checkpoint in `folder`."""
    return Checkpoint("local", "tiny", str(folder), None, False)


def prune(loaded: LoadedModel, tokens_BL: Tensor, method: LayerwiseMethod | None = None) -> PruningOutcome:
    """Prune 2:4, with Wanda unless told otherwise, two sequences of twelve tokens a pass."""
    context = a_context(loaded.model, tokens_BL, SemiStructured(2, 4), offloading=loaded.offloading)
    return (method or Wanda()).run(context)


def measure(loaded: LoadedModel, windows_NL: Tensor) -> Estimate:
    """Perplexity block by block."""
    return perplexity_from(BlockRunner(loaded.model, in_batches(windows_NL, 24), loaded.offloading, CPU), Silent())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", MAPPABLE)
def test_disk_and_memory_prune_the_same_bits(
    name: str, dtype: torch.dtype, open_model: Open, random_tokens: Callable[..., Tensor], tmp_path: Path
) -> None:
    """Reports, fingerprint and every saved tensor are equal, tied embeddings and transposed weights included, and
    transformers loads either folder.
    """
    tokens = random_tokens(4)
    memory, disk = open_model(name, on_disk=False, dtype=dtype), open_model(name, on_disk=True, dtype=dtype)
    assert prune(memory, tokens).layers == prune(disk, tokens).layers
    assert weights_fingerprint(memory.model) == weights_fingerprint(disk.model, disk.offloading)
    for loaded, folder in ((memory, "from-memory"), (disk, "from-disk")):
        save_model(loaded, tmp_path / folder)
    configs = [(tmp_path / folder / "config.json").read_text() for folder in ("from-memory", "from-disk")]
    assert json.loads(configs[0]) == json.loads(configs[1])
    one, other = (
        AutoModelForCausalLM.from_pretrained(tmp_path / folder, dtype="auto").state_dict()
        for folder in ("from-memory", "from-disk")
    )
    assert set(one) == set(other)
    assert all(torch.equal(one[path], other[path]) and one[path].dtype == other[path].dtype for path in one)


def test_sparsegpt_gives_the_same_bits_from_disk(open_model: Open, random_tokens: Callable[..., Tensor]) -> None:
    """Also a method that changes the weights it keeps."""
    memory, disk = open_model("opt", on_disk=False), open_model("opt", on_disk=True)
    tokens = random_tokens(4)
    assert prune(memory, tokens, SparseGPT()).layers == prune(disk, tokens, SparseGPT()).layers
    assert weights_fingerprint(memory.model) == weights_fingerprint(disk.model, disk.offloading)


@pytest.mark.parametrize("name", MAPPABLE)
def test_perplexity_by_blocks_is_the_perplexity(
    name: str, open_model: Open, random_tokens: Callable[..., Tensor]
) -> None:
    """Over windows of several batches, from memory and from disk; final norms and soft caps are the model's own."""
    windows = random_tokens(5, seed=3)
    memory, disk = open_model(name, on_disk=False), open_model(name, on_disk=True)
    plain = perplexity(memory.model, windows, batch_tokens=24, device=CPU, reporter=Silent())
    for measured in (measure(memory, windows), measure(disk, windows)):
        assert measured.value == pytest.approx(plain.value, rel=1e-6)
        assert measured.stderr == pytest.approx(plain.stderr, rel=1e-4)
        assert measured.count == 5


def test_a_head_that_is_not_known_is_left_to_the_model(
    random_tokens: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that does something of its own to its logits is measured through its own forward."""
    model = tiny_model("llama")
    windows = random_tokens(3)
    own = model.forward

    def forward(**inputs: object) -> object:
        output = own(**inputs)
        output.logits = output.logits * torch.linspace(0.5, 2.0, output.logits.shape[-1])
        return output

    monkeypatch.setattr(model, "forward", forward)
    plain = perplexity(model, windows, batch_tokens=24, device=CPU, reporter=Silent())
    assert measure(LoadedModel(model, None), windows).value == pytest.approx(plain.value, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", MAPPABLE)
def test_what_is_in_no_checkpoint_is_computed(name: str, dtype: torch.dtype, open_model: Open) -> None:
    """Rotary tables, masks and scales have the values and types that transformers' own loading gives them."""
    memory, disk = (open_model(name, on_disk=on_disk, dtype=dtype).model for on_disk in (False, True))
    expected, found = dict(memory.named_buffers()), dict(disk.named_buffers())
    assert set(found) == set(expected)
    for path, buffer in expected.items():
        assert found[path].dtype == buffer.dtype, path
        assert torch.equal(found[path], buffer), path


def test_only_the_block_in_use_is_in_memory(open_model: Open) -> None:
    """Parameters of all other blocks, and of this one afterwards, are on the meta device; the rest is real."""
    loaded = open_model("llama", on_disk=True)
    prefix, blocks = decoder_blocks(loaded.model)
    with loaded.offloading.block(1, CPU) as block:
        assert block is blocks[1]
        assert all(weight.device == CPU for weight in block.parameters())
        assert all(weight.is_meta for weight in blocks[0].parameters())
    for path, weight in loaded.model.named_parameters():
        assert weight.is_meta == path.startswith(f"{prefix}."), path


def test_a_changed_block_is_kept_only_where_it_is_said(open_model: Open) -> None:
    """With `writes` the change is read back; without, or when the body fails, the block is as it was."""
    offloading = open_model("llama", on_disk=True).offloading

    def first_weight() -> float:
        with offloading.block(0, CPU) as block:
            return float(block.mlp.up_proj.weight[0, 0])

    before = first_weight()
    with offloading.block(0, CPU) as block:
        block.mlp.up_proj.weight[0, 0] = 7.0
    assert first_weight() == before
    with suppress(ZeroDivisionError), offloading.block(0, CPU, writes=True) as block:
        block.mlp.up_proj.weight[0, 0] = 7.0
        _ = 1 / 0
    assert first_weight() == before
    with offloading.block(0, CPU, writes=True) as block:
        block.mlp.up_proj.weight[0, 0] = 7.0
    assert first_weight() == 7.0


def test_tied_embeddings_stay_one_tensor(open_model: Open) -> None:
    """The head of a tied model is its embedding, also while both are on another device."""
    loaded = open_model("opt", on_disk=True)
    head, embedding = loaded.model.get_output_embeddings(), loaded.model.get_input_embeddings()
    assert head.weight is embedding.weight
    with Accelerator(), outside_on(loaded.model, DEVICE):
        assert head.weight.device == DEVICE
        assert head.weight is embedding.weight
    assert head.weight is embedding.weight


def test_nothing_is_left_on_disk(tmp_path: Path, random_tokens: Callable[..., Tensor]) -> None:
    """Changed blocks and activations are gone when the model is closed; the checkpoint is as it was."""
    folder = tmp_path / "source"
    tiny_model("llama").save_pretrained(folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with load_from_disk(local(folder), None, tmp_path / "scratch") as loaded:
        prune(loaded, random_tokens(4))
        (own,) = (tmp_path / "scratch").iterdir()
        assert sorted(file.name for file in own.iterdir()) == ["block-00000.safetensors", "block-00001.safetensors"]
    assert list((tmp_path / "scratch").iterdir()) == []
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_the_dense_model_is_saved_in_the_type_asked_for(open_model: Open, tmp_path: Path) -> None:
    """Blocks that nothing changed are converted on their way."""
    save_model(open_model("gpt2", on_disk=True, dtype=torch.bfloat16), tmp_path / "out")
    tensors = [tensor for file in (tmp_path / "out").glob("*.safetensors") for tensor in load_file(file).values()]
    assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors)
    assert len(index["weight_map"]) == len(tensors)


def respell(folder: Path, spelling: Callable[[str], str | None]) -> None:
    """Give the tensors in `folder` other names, or drop those that get None."""
    file = folder / "model.safetensors"
    named = {spelling(key): tensor for key, tensor in load_file(file).items()}
    save_file({key: tensor for key, tensor in named.items() if key}, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("name", "spelling"),
    [
        ("gpt2", lambda key: key.removeprefix("transformer.")),
        ("opt", lambda key: key.removeprefix("model.")),
        ("gpt-neox", lambda key: key.replace("lm_head.", "embed_out.")),
        ("llama", lambda key: key),
    ],
)
def test_names_may_be_spelt_as_older_releases_did(name: str, spelling: Callable[[str], str], tmp_path: Path) -> None:
    """Without the base model's prefix (GPT-2 and OPT on the hub) or under an older name (Pythia's head)."""
    tiny_model(name).save_pretrained(tmp_path / "model")
    respell(tmp_path / "model", spelling)
    expected = weights_fingerprint(load_model(local(tmp_path / "model"), None).model)
    with load_from_disk(local(tmp_path / "model"), None, tmp_path) as loaded:
        assert weights_fingerprint(loaded.model, loaded.offloading) == expected


@pytest.mark.parametrize("family", ["zamba", "zamba-2"])
def test_blocks_that_share_a_weight_are_refused(family: str, open_model: Open) -> None:
    """Each block would have a copy of its own, of which one is pruned."""
    said = r"^offload=disk cannot map model\.layers\.3\.shared_tr\S+: block 1 has the same tensor; allowed: \S+ or cpu$"
    with pytest.raises(UserError, match=said):
        open_model(family, on_disk=True)


def test_a_checkpoint_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    """Before anything is computed, with the name of the first one, be it in a block or outside."""
    for lacking in ("model.layers.1.mlp.up_proj.weight", "lm_head.weight"):
        folder = tmp_path / lacking
        tiny_model("llama").save_pretrained(folder)
        respell(folder, lambda key, lacking=lacking: None if key == lacking else key)
        with (
            pytest.raises(UserError, match=f"offload=disk cannot map {lacking}"),
            load_from_disk(local(folder), None, tmp_path),
        ):
            pass


def test_a_checkpoint_that_stores_a_tensor_in_other_parts_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what transformers changes when it loads, only putting experts together is known."""
    plain_model("mixtral").save_pretrained(tmp_path / "model")
    monkeypatch.setattr("harness.blocks.shards._puts_experts_together", lambda converter: False)
    with (
        pytest.raises(UserError, match=r"offload=disk cannot map model\.layers\.0\.mlp\.experts.*in parts"),
        load_from_disk(local(tmp_path / "model"), None, tmp_path),
    ):
        pass


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "lm_head.weight"])
def test_weights_that_are_not_finite_are_refused_before_a_job_begins(name: str, tmp_path: Path) -> None:
    """In a block and outside of them: each block is read once when the model is opened."""
    tiny_model("llama").save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    good = load_file(file)
    save_file(good | {name: good[name] * torch.nan}, file, metadata={"format": "pt"})
    with (
        pytest.raises(UserError, match=f"not finite, first in {name}"),
        load_from_disk(local(tmp_path / "model"), None, tmp_path),
    ):
        pass


def eager(family: str, **changes: int) -> PreTrainedModel:
    """A tiny model whose attention is plain matrix products: fused kernels are chosen by the kind of device."""
    return tiny_model(family, _attn_implementation="eager", _experts_implementation="eager", **changes)


# Torch makes the tensor behind Falcon's `x[..., [-1], :]` without asking the mode that the stand-in is.
ON_STAND_IN = [(name, Wanda()) for name in sorted(set(FAMILIES) - {"falcon"})] + [("llama-gqa", SparseGPT())]


@pytest.mark.parametrize(("name", "method"), ON_STAND_IN, ids=lambda value: value if isinstance(value, str) else "")
def test_on_an_accelerator_everything_a_block_reads_is_there(
    name: str, method: LayerwiseMethod, random_tokens: Callable[..., Tensor]
) -> None:
    """With blocks in main memory and computed on a stand-in for an accelerator, that refuses operations on tensors of
    both devices as CUDA does, weights, reports and perplexity are those of the CPU, and the model is back afterwards.
    """
    tokens, windows = random_tokens(4), random_tokens(3, seed=5)
    outcomes = []
    for device in (CPU, DEVICE):
        model = eager(name)
        with Accelerator() as accelerator:
            outcome = method.run(a_context(model, tokens, SemiStructured(2, 4), device=device))
            measured = perplexity_from(BlockRunner(model, in_batches(windows, 24), InMemory(model), device), Silent())
        assert bool(accelerator.computed) == (device == DEVICE)
        assert all(tensor.device == CPU for tensor in model.state_dict().values())
        outcomes.append((outcome.layers, measured, weights_fingerprint(model)))
    assert outcomes[0] == outcomes[1]


def taken(choice: Choice, most: int) -> Sequence[Pattern]:
    """The first so many patterns that a layerwise method takes; none of another kind of method."""
    method = METHODS.build(choice)
    if not isinstance(method, LayerwiseMethod):
        return []
    return [each for each in (SemiStructured(2, 4), Unstructured(0.5)) if method.refuses(each) is None][:most]


PRUNED_BY: list[tuple[Choice, Pattern]] = [
    (choice, pattern)
    for name in METHODS.all()
    for number, choice in enumerate(choices_of(name))
    for pattern in taken(choice, most=1 if number else 2)
]
"""Every layerwise method with its defaults and both kinds of pattern, and once with each of its choices."""
NOT_ON_STAND_IN = {
    # It and its optimiser call torch.tensor(..., device=...), and torch makes that tensor without asking the mode that
    # the stand-in is.
    "besa",
}
"""Allocations that the stand-in cannot run; a test below sees to it that it really cannot."""
FEWER_TRIALS: dict[str, dict[str, float]] = {"sensitivity": {"tolerance": 0.1}}
"""Parameters with which an allocation is soon done."""
SPREAD_BY: list[tuple[Choice, Pattern]] = [
    (Choice(name, FEWER_TRIALS.get(name, {})), pattern)
    for name in ALLOCATIONS.all()
    for pattern in (Unstructured(0.5), SemiStructured(4, 8))
    if name not in NOT_ON_STAND_IN and ALLOCATIONS.build(Choice(name)).refuses(pattern) is None
]
UNIFORM_ONE = Choice(UNIFORM)
WIDE_ENOUGH = {"hidden_size": 80, "intermediate_size": 72, "head_dim": 24, "num_key_value_heads": 4}
"""That every allocation comes within 0.1 % of the request, in whole groups of 8."""


def on_both(
    choice: Choice, pattern: Pattern, tokens_BL: Tensor, allocation: Choice = UNIFORM_ONE, **widths: int
) -> list[tuple[list[LayerReport], str]]:
    """Reports and fingerprints of what is pruned by the CPU and by the stand-in, in this order."""
    found = []
    for device in (CPU, DEVICE):
        model, method = eager("llama-gqa", **widths), METHODS.build(choice)
        assert isinstance(method, LayerwiseMethod)
        with Accelerator() as accelerator:
            held_out = TrialLoss(model, InMemory(model), tokens_BL[:1], batch_tokens=24, device=device)
            context = a_context(
                model, tokens_BL, pattern, propagation=method.propagation, device=device,
                allocation=ALLOCATIONS.build(allocation), held_out=lambda _, loss=held_out: loss,
            )  # fmt: skip
            outcome = method.run(context)
        assert bool(accelerator.computed) == (device == DEVICE)
        assert all(tensor.device == CPU for tensor in model.state_dict().values())
        found.append((outcome.layers, weights_fingerprint(model)))
    return found


@pytest.mark.parametrize(("choice", "pattern"), PRUNED_BY, ids=label)
def test_every_method_prunes_on_an_accelerator_as_on_the_cpu(
    choice: Choice, pattern: Pattern, random_tokens: Callable[..., Tensor]
) -> None:
    """Generated over the registry: no tensor of a method is left on the other device, and numbers are the same."""
    cpu, accelerator = on_both(choice, pattern, random_tokens(2), num_hidden_layers=1)
    assert cpu == accelerator


@pytest.mark.parametrize(("allocation", "pattern"), SPREAD_BY, ids=label)
def test_every_allocation_spreads_on_an_accelerator_as_on_the_cpu(
    allocation: Choice, pattern: Pattern, random_tokens: Callable[..., Tensor]
) -> None:
    """Before the first block, in trials of changed weights, and once a block was observed: all is the same."""
    cpu, accelerator = on_both(Choice("wanda"), pattern, random_tokens(2), allocation, **WIDE_ENOUGH)
    assert cpu == accelerator


@pytest.mark.parametrize("name", sorted(NOT_ON_STAND_IN))
def test_nothing_is_kept_from_the_stand_in_that_it_can_run(name: str, random_tokens: Callable[..., Tensor]) -> None:
    """What is listed stops there with a tensor that is elsewhere."""
    with pytest.raises(ImplicitTransferError):
        on_both(Choice("wanda"), Unstructured(0.5), random_tokens(2), Choice(name), **WIDE_ENOUGH)


def test_blocks_go_from_disk_to_an_accelerator(open_model: Open, random_tokens: Callable[..., Tensor]) -> None:
    """The stored weights and the tables that are in no checkpoint are on the device, the written ones are the CPU's."""
    tokens, prints = random_tokens(4), []
    for device in (CPU, DEVICE):
        loaded = open_model("llama-gqa", on_disk=True)
        loaded.model.set_attn_implementation("eager")
        with Accelerator():
            Wanda().run(
                a_context(loaded.model, tokens, SemiStructured(2, 4), offloading=loaded.offloading, device=device)
            )
        prints.append(weights_fingerprint(loaded.model, loaded.offloading))
    assert prints[0] == prints[1]


def test_the_stand_in_sees_a_forgotten_tensor(random_tokens: Callable[..., Tensor]) -> None:
    """A weight that stays behind on the CPU is an error: the tests above can fail."""
    model = eager("llama")
    _, blocks = decoder_blocks(model)
    with Accelerator(), torch.no_grad():
        blocks[0].to(DEVICE)
        blocks[0].mlp.up_proj.weight = torch.nn.Parameter(torch.zeros(48, 32), requires_grad=False)
        with pytest.raises(ImplicitTransferError):
            blocks[0].mlp(torch.ones(2, 3, 32, device=DEVICE))


@pytest.mark.parametrize("method", [Wanda(), SparseGPT()], ids=["wanda", "sparsegpt"])
def test_the_host_waits_once_a_layer_and_never_once_a_batch(
    method: LayerwiseMethod, random_tokens: Callable[..., Tensor]
) -> None:
    """Numbers that the host reads (errors, zeros, checks) are as many for two batches as for eight, once the calls are
    recorded: there the model looks at its mask, and each argument of the blocks is compared with those kept so far.
    """
    reads, tokens_BL = [], random_tokens(8)
    for sequences_a_pass in (4, 1):
        model, batch_tokens = eager("llama-gqa"), 12 * sequences_a_pass
        batches = in_batches(tokens_BL, batch_tokens)
        with Accelerator() as recording:
            BlockRunner(model, batches, InMemory(model), DEVICE)
        assert len(recording.waits) <= 8 * len(batches)
        context = a_context(model, tokens_BL, SemiStructured(2, 4), device=DEVICE, batch_tokens=batch_tokens)
        with Accelerator() as accelerator:
            method.run(context)
        assert accelerator.waits[: len(recording.waits)] == recording.waits
        reads.append(accelerator.waits[len(recording.waits) :])
    assert len(reads[0]) == len(reads[1])
    num_linears = sum(len(prunable_linears(block)) for block in decoder_blocks(eager("llama-gqa"))[1])
    assert len(reads[0]) <= 8 * num_linears


# ------------------------------------------------------------------------------------------------ reading ahead


class _Blocks:
    """Three blocks of one tensor each that count how often, and in which thread, they are read."""

    def __init__(self) -> None:
        self.tensors = [torch.full((2,), float(index)) for index in range(3)]
        self.reads: list[tuple[int, bool]] = []

    def __call__(self, index: int) -> dict[str, Tensor]:
        self.reads.append((index, threading.current_thread() is threading.main_thread()))
        if index == 2 and self.tensors[2][0] < 0:
            raise UserError("block 2 is broken")
        return {"weight": self.tensors[index], "tied": self.tensors[index]}


@pytest.fixture
def reads_ahead(monkeypatch: pytest.MonkeyPatch) -> _Blocks:
    """Blocks, and a CPU that counts as a device whose copies run beside its work."""
    monkeypatch.setattr(prefetch, "overlaps", lambda _: True)
    return _Blocks()


def test_the_next_block_is_read_in_another_thread(reads_ahead: _Blocks) -> None:
    """Each block is read once; all but the first while the one before is in use; tied tensors stay one."""
    prefetcher = prefetch.Prefetcher(reads_ahead, 3)
    for index in range(3):
        taken = prefetcher.take(index, CPU)
        assert torch.equal(taken["weight"], torch.full((2,), float(index)))
        assert taken["weight"] is taken["tied"]
    assert reads_ahead.reads == [(0, True), (1, False), (2, False)]


def test_a_walk_that_starts_again_reads_what_is_there_now(reads_ahead: _Blocks) -> None:
    """What was read ahead for a walk that ended early is not given to the next, which may find changed weights."""
    prefetcher = prefetch.Prefetcher(reads_ahead, 3)
    prefetcher.take(0, CPU)
    reads_ahead.tensors[0] = torch.full((2,), 7.0)
    assert float(prefetcher.take(0, CPU)["weight"][0]) == 7.0


def test_an_error_of_reading_ahead_comes_at_the_blocks_turn(reads_ahead: _Blocks) -> None:
    """The user's mistake is raised where the block is asked for, as it is."""
    reads_ahead.tensors[2][0] = -1
    prefetcher = prefetch.Prefetcher(reads_ahead, 3)
    prefetcher.take(0, CPU)
    prefetcher.take(1, CPU)
    with pytest.raises(UserError, match="block 2 is broken"):
        prefetcher.take(2, CPU)


def test_a_processor_reads_nothing_ahead() -> None:
    """On the CPU a block is read when its turn comes, by who asks for it."""
    blocks = _Blocks()
    prefetch.Prefetcher(blocks, 3).take(0, CPU)
    assert blocks.reads == [(0, True)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_is_given_the_same_numbers_block_by_block() -> None:
    """Pinned copies on a stream of their own hold what was read, in order, for several walks."""
    blocks = _Blocks()
    device = torch.device("cuda:0")
    prefetcher = prefetch.Prefetcher(blocks, 3)
    for _ in range(3):
        for index in range(3):
            taken = prefetcher.take(index, device)["weight"]
            assert taken.device == device
            assert torch.equal(taken.cpu(), blocks.tensors[index])
