"""The sizes of a model, from the headers of its checkpoint's files or from its configuration: no weight is read."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.data.assets import cache_dir
from harness.data.safetensors_files import safetensors_header, tensor_bytes
from harness.models.checkpoint import EMBEDDED, Checkpoint

_BLOCK = re.compile(r"(?P<stack>.*?\.)??(?P<index>\d+)\.(?P<path>.+)")


@dataclass(frozen=True, slots=True)
class Dimensions:
    """Sizes of a causal language model.

    Args:
        num_blocks: decoder blocks.
        matrices: (out_features, in_features) of the matrices of one block, the largest block's, those of stacks too.
        block_weights: weights of that block.
        outside: shapes of the tensors outside of the blocks: embeddings, final norm, head.
        stored_type: safetensors' name of the type that most weights are stored in.
        stored_bytes: of all tensors.
    """

    num_blocks: int
    matrices: tuple[tuple[int, int], ...]
    block_weights: int
    outside: tuple[tuple[int, ...], ...]
    stored_type: str
    stored_bytes: int

    @property
    def outside_weights(self) -> int:
        return sum(math.prod(shape) for shape in self.outside)

    @property
    def num_weights(self) -> int:
        return self.num_blocks * self.block_weights + self.outside_weights

    @property
    def vocab_size(self) -> int:
        return self._embedding[0]

    @property
    def hidden_size(self) -> int:
        return self._embedding[1]

    @property
    def widest(self) -> int:
        """Most features that a matrix of a block reads or makes."""
        return max(max(shape) for shape in self.matrices)

    @property
    def _embedding(self) -> tuple[int, int]:
        rows, columns = max((shape for shape in self.outside if len(shape) == 2), key=math.prod)
        return rows, columns


def dimensions_of(checkpoint: Checkpoint) -> Dimensions | None:
    """The sizes of the model; None where neither files nor a configuration are at hand, or it is no stack of blocks."""
    folder = _folder(checkpoint)
    files = sorted(folder.glob("*.safetensors")) if folder else []
    if files:
        return _of_files(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))
    return of_config(checkpoint.config) if checkpoint.source == "hub" else None


@cache
def _of_files(states: tuple[tuple[Path, int, int], ...]) -> Dimensions | None:
    """The sizes that the headers of these files give, read once for every state (size, last change) of the files."""
    files = [file for file, *_ in states]
    tensors = {name: tensor for file in files for name, tensor in safetensors_header(file)}
    return _dimensions(tensors, stored_bytes=sum(tensor_bytes(file) for file in files))


def _folder(checkpoint: Checkpoint) -> Path | None:
    """The folder that holds the checkpoint's safetensors, None while there is none."""
    match checkpoint.source:
        case "local":
            return Path(str(checkpoint.location))
        case "embedded":
            asset, _ = EMBEDDED[checkpoint.name]
            return cache_dir() / "models" / f"{checkpoint.name}-{asset.sha256[:12]}"
        case "hub":
            from huggingface_hub import try_to_load_from_cache

            found = try_to_load_from_cache(str(checkpoint.location), "config.json", revision=checkpoint.commit)
            return Path(found).parent if isinstance(found, str) else None
        case _:  # other kinds of checkpoint hold no language model
            return None


def of_config(config: Mapping[str, Any]) -> Dimensions | None:
    """The matrices of a plain decoder, by the names that families have for its sizes; no biases and no norms.

    None where a size is missing, and of a mixture of experts.
    """
    config = config.get("text_config", config)

    def size(*names: str) -> int:
        return next((config[name] for name in names if config.get(name)), 0)

    width, blocks, heads = size("hidden_size", "n_embd"), size("num_hidden_layers", "n_layer"), _heads(config)
    vocab_size = size("vocab_size")
    if not (width and blocks and heads and vocab_size) or any("expert" in name for name in config):
        return None
    read, keyed = (count * size("head_dim") or count * width // heads[0] for count in heads)
    inner = size("intermediate_size", "ffn_dim", "n_inner") or 4 * width
    gated = config.get("hidden_act") in ("silu", "swish") or str(config.get("model_type")).startswith("gemma")
    matrices = [(read, width), *[(keyed, width)] * 2, (width, read), *[(inner, width)] * (1 + gated), (width, inner)]
    embedding = (vocab_size, size("word_embed_proj_dim") or width)
    outside = [embedding] if config.get("tie_word_embeddings", True) else [embedding] * 2
    block_weights = sum(map(math.prod, matrices))
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    stored_type, each = STORED.get(dtype, ("F32", 4))
    weights = blocks * block_weights + sum(map(math.prod, outside))
    return Dimensions(blocks, tuple(matrices), block_weights, tuple(outside), stored_type, weights * each)


def _heads(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """How many heads of queries, and of keys and values, an attention has."""
    heads: int = config.get("num_attention_heads") or config.get("n_head") or 0
    keyed: int = config.get("num_key_value_heads") or (1 if config.get("multi_query") else heads)
    return (heads, keyed) if heads else None


STORED = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}
"""Types of weights: safetensors' name, and bytes."""


def _dimensions(tensors: Mapping[str, tuple[str, tuple[int, ...]]], *, stored_bytes: int) -> Dimensions | None:
    stacks: dict[str, dict[int, list[tuple[int, ...]]]] = {}
    members: dict[str, list[str]] = {}
    for name, (_, shape) in tensors.items():
        match = _BLOCK.fullmatch(name)
        if match:
            stack = match["stack"] or ""
            stacks.setdefault(stack, {}).setdefault(int(match["index"]), []).append(shape)
            members.setdefault(stack, []).append(name)
    if not stacks:
        return None
    main = max(stacks, key=lambda stack: sum(math.prod(shape) for part in stacks[stack].values() for shape in part))
    blocks = stacks[main]
    largest = max(blocks.values(), key=lambda shapes: sum(math.prod(shape) for shape in shapes))
    inside = set(members[main])
    outside = tuple(shape for name, (_, shape) in tensors.items() if name not in inside)
    stacked = [shape for shape in largest if len(shape) == 3 and min(shape) > 1]
    matrices = tuple((shape[0], shape[1]) for shape in largest if len(shape) == 2)
    matrices += tuple((rows, columns) for count, rows, columns in stacked for _ in range(count))
    if not matrices or not any(len(shape) == 2 for shape in outside):
        return None
    types = Counter[str]()
    for kind, shape in tensors.values():
        types[kind] += math.prod(shape)
    return Dimensions(
        num_blocks=len(blocks),
        matrices=matrices,
        block_weights=sum(math.prod(shape) for shape in largest),
        outside=outside,
        stored_type=types.most_common(1)[0][0],
        stored_bytes=stored_bytes,
    )
