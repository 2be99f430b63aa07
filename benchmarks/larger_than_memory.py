"""A model larger than memory: made, pruned 2:4 with Wanda and measured inside a limit on memory.

    python -m benchmarks larger_than_memory --folder /somewhere/with/12GB --limit-gb 2.5

A randomly initialised LLaMA of 2.7 billion parameters (bfloat16, 5.4 GB) is written one shard at a time.  Then one
job of the command line prunes it with `offload=disk` and measures its perplexity on 8 windows.  Both run in processes
whose memory is limited by a control group where one can be made (that takes root); page cache counts there too, and
the kernel takes pages of it back.  Elsewhere the peak of resident memory, mapped files included, is compared with the
limit afterwards.  Which of the two was done is printed.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig

SHAPE = {"hidden_size": 2560, "intermediate_size": 6912, "num_attention_heads": 20, "num_key_value_heads": 20}
VOCAB = 32_000
CGROUP = Path("/sys/fs/cgroup")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the model where it is not there yet, run the job, print what was seen."""
    options = _options(arguments)
    if options.make:
        make(options.folder / "model", options.blocks)
    elif options.folder is not None:
        compare(options.folder, options.blocks, int(options.limit_gb * 2**30))
    else:
        with tempfile.TemporaryDirectory() as folder:
            compare(Path(folder), options.blocks, int(options.limit_gb * 2**30))


def compare(folder: Path, num_blocks: int, limit: int) -> None:
    """Make, prune and measure a model within `limit` bytes of memory."""
    model, results = folder / "model", folder / "results"
    shutil.rmtree(results, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    if not (model / "config.json").is_file():
        make_here = [sys.executable, "-m", "benchmarks.larger_than_memory", "--make", "--folder", str(folder)]
        _measure("make", [*make_here, "--blocks", str(num_blocks)], limit)
    size = json.loads((model / "model.safetensors.index.json").read_text())["metadata"]["total_size"]
    print(f"model: {size // 2:,} parameters, {size / 2**30:.2f} GiB in {model}", flush=True)
    _measure("prune and measure", _job(folder, model), limit)
    (record,) = (json.loads(path.read_text()) for path in results.rglob("*__*.json"))
    (result,) = record["results"]
    print(
        f"achieved sparsity {record['achieved_sparsity']:.4f}, perplexity {result['value']:.1f} on "
        f"{result['num_samples']} windows, timings {record['timings_s']}"
    )


def make(folder: Path, num_blocks: int) -> None:
    """A LLaMA with random weights, a shard a block, so that no more than one block is in memory."""
    folder.mkdir(parents=True)
    config = LlamaConfig(
        vocab_size=VOCAB,
        num_hidden_layers=num_blocks,
        dtype="bfloat16",
        max_position_embeddings=2048,
        architectures=["LlamaForCausalLM"],
        **SHAPE,
    )
    generator = torch.Generator().manual_seed(0)
    shards = [_outside(config)] + [_block(config, index) for index in range(num_blocks)]
    weight_map, total = {}, 0
    for place, shapes in enumerate(shards, 1):
        name = f"model-{place:05d}-of-{len(shards):05d}.safetensors"
        tensors = {path: _random(shape, generator) for path, shape in shapes.items()}
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
        total += sum(tensor.nbytes for tensor in tensors.values())
        del tensors
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.save_pretrained(folder)


def _outside(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    vocabulary = (config.vocab_size, config.hidden_size)
    return {"model.embed_tokens.weight": vocabulary, "lm_head.weight": vocabulary, "model.norm.weight": vocabulary[1:]}


def _block(config: LlamaConfig, index: int) -> dict[str, tuple[int, ...]]:
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {f"self_attn.{name}_proj": (hidden, hidden) for name in "qkvo"}
    shapes |= {"mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)}
    shapes |= {"input_layernorm": (hidden,), "post_attention_layernorm": (hidden,)}
    return {f"model.layers.{index}.{name}.weight": shape for name, shape in shapes.items()}


def _random(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0.0, 0.02, generator=generator)


def _job(folder: Path, model: Path) -> list[str]:
    numbers = np.random.default_rng(0)
    np.save(folder / "calibration.npy", numbers.integers(0, VOCAB, (4, 128)))
    np.save(folder / "windows.npy", numbers.integers(0, VOCAB, (8, 128)))
    return [
        sys.executable, "-m", "harness", "run", "model=local", f"model.path={model}", "method=wanda", "pattern=2:4",
        "calibration=tokens", f"calibration.path={folder / 'calibration.npy'}", "evaluation.corpora=[tokens]",
        f"data.tokens={folder / 'windows.npy'}", "evaluation.seq_len=128", "dtype=bfloat16", "device=cpu",
        "batch_tokens=1024", "offload=disk", f"results_dir={folder / 'results'}", "force=true",
    ]  # fmt: skip


def _measure(step: str, command: list[str], limit: int) -> None:
    """Run `command` within the limit and print how much memory it took.

    Raises:
        SystemExit: it failed, or took more.
    """
    begin = time.perf_counter()
    with _limited(limit) as (join, enforced_by):
        done = subprocess.run(command, preexec_fn=join, check=False)
    seconds = time.perf_counter() - begin
    # The largest of all children so far; the making of the model comes first and takes less.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    how = f"enforced by {enforced_by}" if enforced_by else "not enforced, compared with the peak"
    print(
        f"{step}: {seconds:.0f} s, peak resident memory {peak / 2**30:.2f} GiB; "
        f"limit {limit / 2**30:.2f} GiB, {how}; exit code {done.returncode}",
        flush=True,
    )
    if done.returncode or peak > limit:
        sys.exit(1)


@contextmanager
def _limited(limit: int) -> Iterator[tuple[Callable[[], None], str]]:
    """What a child does to come under the limit, and what enforces it; nothing where no control group can be made."""
    name = f"prunebench-{os.getpid()}"
    if (CGROUP / "memory" / "memory.limit_in_bytes").is_file():
        group, file = CGROUP / "memory" / name, "memory.limit_in_bytes"
    else:
        group, file = CGROUP / name, "memory.max"
    try:
        group.mkdir()
        (group / file).write_text(str(limit))
        swap = group / "memory.memsw.limit_in_bytes"
        if swap.is_file():
            swap.write_text(str(limit))
    except OSError:
        yield lambda: None, ""
        return
    try:
        yield lambda: (group / "cgroup.procs").write_text(str(os.getpid())) and None, f"control group ({file})"
    finally:
        group.rmdir()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="for the model and the results, kept; else a temporary one")
    parser.add_argument("--limit-gb", type=float, default=2.5, help="memory, GiB")
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument("--make", action="store_true", help="only make the model")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
