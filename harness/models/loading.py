"""Loading a causal language model and its tokenizer: safetensors only, no remote code unless asked for."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from harness.blocks.experts import split_experts
from harness.blocks.layers import decoder_blocks
from harness.blocks.offload import InMemory, Offloading, OnDisk
from harness.blocks.shards import Shards, stored_dtype
from harness.blocks.slots import materialise_outside
from harness.errors import UserError
from harness.models.cache import Cache
from harness.models.checkpoint import Checkpoint, weight_files
from harness.models.digits import trained_note
from harness.models.folders import folder_of, quiet
from harness.models.kinds.base import kind_of
from harness.models.rehearsal import rehearse
from harness.models.skeleton import skeleton
from harness.models.soundness import check_finite, not_embedded, unexpected_note, without_quantisation

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model on the CPU or its blocks on disk, in evaluation mode, with its tokenizer where it has one.

    Args:
        on_disk: gives out the blocks, where they are not in memory with the rest of the model.
        reserved: bytes of an accelerator that are not for hidden states; None = half of what is free.
        notes: what a record must say of the weights.
        not_embedded: special tokens of the tokenizer that the model cannot read.
        cache: what was computed for this model and its tokenizer and later jobs can use again.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    on_disk: OnDisk | None = None
    notes: tuple[str, ...] = ()
    reserved: int | None = None
    not_embedded: tuple[str, ...] = ()
    cache: Cache = field(default_factory=Cache)

    @property
    def offloading(self) -> Offloading:
        return self.on_disk or InMemory(self.model, self.reserved)

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
    folder, notes = folder_of(checkpoint)
    weight_files(folder)
    with quiet(), _one_line_errors(checkpoint.name, folder):
        config = _configuration(folder, checkpoint)
        quantisation = getattr(config, "quantization_config", None)  # gone from it once weights are de-quantised
        found: Any = (
            kind_of(config.model_type)
            .auto_class()
            .from_pretrained(
                folder,
                config=config,
                dtype=dtype or "auto",
                use_safetensors=True,
                output_loading_info=True,
                **_options(checkpoint),
            )
        )
        tokenizer = _tokenizer(folder, checkpoint)
    model, report = found
    if report["missing_keys"]:  # transformers draws them at random, and only logs it
        lacking = sorted(report["missing_keys"])
        raise UserError(
            f"model {checkpoint.name} in {folder} lacks {len(lacking)} tensors, first {lacking[0]}; "
            "allowed: a complete checkpoint"
        )
    check_finite(checkpoint.name, model)
    notes += unexpected_note(checkpoint.name, model, report["unexpected_keys"])
    notes += without_quantisation(checkpoint.name, model, quantisation)
    split_experts(model)
    if checkpoint.source == "trained":
        notes += trained_note(checkpoint.name, model)
    return _tried(checkpoint.name, LoadedModel(model.eval(), tokenizer, notes=notes))


@contextmanager
def load_from_disk(
    checkpoint: Checkpoint, dtype: torch.dtype | None, scratch: Path, reserved: int | None = None
) -> Iterator[LoadedModel]:
    """The model with its blocks on disk, each read from the checkpoint's shards when it is needed.

    Changed blocks and activations lie in a new folder below `scratch` until the body ends.

    Raises:
        UserError: as `load_model` does, or the checkpoint stores a tensor in another form than the model has it.
    """
    folder, notes = folder_of(checkpoint)
    files = weight_files(folder)
    with quiet():
        with _one_line_errors(checkpoint.name, folder):
            config = _configuration(folder, checkpoint)
            if getattr(config, "quantization_config", None) is not None:
                raise UserError("offload=disk cannot map quantised weights; allowed: offload=none")
            model = skeleton(config, dtype or config.dtype or stored_dtype(files), checkpoint.trust_remote_code)
            with suppress(OSError):  # no file of its own: what the model's configuration says
                model.generation_config = GenerationConfig.from_pretrained(folder, **_options(checkpoint))
            shards = Shards(files, model)
            tokenizer = _tokenizer(folder, checkpoint)
        notes += unexpected_note(checkpoint.name, model, shards.unexpected)
        materialise_outside(model, shards)
    scratch.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(prefix=".blocks-", dir=scratch))
    try:
        on_disk = OnDisk(model, shards, own, reserved)
        yield _tried(checkpoint.name, LoadedModel(model.eval(), tokenizer, on_disk, notes))
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _tried(name: str, loaded: LoadedModel) -> LoadedModel:
    """The model, where it is one of language after it and its tokenizer were tried."""
    if kind_of(loaded.model.config.model_type).reads != "text":
        return loaded
    rehearse(name, loaded.model, loaded.offloading)
    return replace(loaded, not_embedded=not_embedded(name, loaded.tokenizer, loaded.vocab_size))


def checkpoint_shards(checkpoint: Checkpoint, model: PreTrainedModel) -> Shards:
    """The tensors of `model` in its checkpoint's files."""
    return Shards(weight_files(folder_of(checkpoint)[0]), model)


@contextmanager
def _one_line_errors(name: str, folder: Path) -> Iterator[None]:
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


def _configuration(folder: Path, checkpoint: Checkpoint) -> Any:
    config = AutoConfig.from_pretrained(folder, **_options(checkpoint))
    if hasattr(config, "rescale_every"):
        # RWKV in evaluation halves hidden states between blocks and divides weights in place to match, against overflow
        # in float16: the weights would not be those of the checkpoint.
        config.rescale_every = 0
    return config


def _tokenizer(folder: Path, checkpoint: Checkpoint) -> PreTrainedTokenizerBase | None:
    may_lack_one = checkpoint.source in ("local", "trained")
    if may_lack_one and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, **_options(checkpoint))
    return tokenizer


def _options(checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything is loaded from a folder: nothing else is asked, and nothing converted elsewhere."""
    return {"trust_remote_code": checkpoint.trust_remote_code, "local_files_only": True}
