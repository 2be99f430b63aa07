"""A tiny LLaMA on disk, token arrays, and the command line called in this process."""

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harness.cli.main import main
from harness.jobs.run import PROCESS_CACHE

VOCAB = 64


@dataclass(frozen=True)
class Outcome:
    """What one call of the command line did."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def empty_cache() -> Iterator[None]:
    """No test gets the model that the one before it left in the process; the jobs of one test share theirs."""
    PROCESS_CACHE.clear()
    yield
    PROCESS_CACHE.clear()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-block LLaMA without a tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def speaking_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-block LLaMA with a tokenizer of bytes."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bytes"
    save_speaking_model(folder)
    return folder


def save_speaking_model(folder: Path) -> None:
    """The same, for those who are no tests."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<end>", special=True)])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>").save_pretrained(folder)


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight sequences of sixteen token ids."""
    path = tmp_path_factory.mktemp("tokens") / "tokens.npy"
    np.save(path, np.random.default_rng(0).integers(0, VOCAB, (8, 16)))
    return path


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Call the command line."""

    def call(*arguments: str) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        captured = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    return call


def in_a_fork(*arguments: str, **variables: str) -> Outcome:
    """Call the command line in a fork of this process: what it registers, caches and sets ends with it.

    A new process would say the same, after seconds of imports.
    """
    context = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(sender, arguments, variables))
    process.start()
    try:
        assert receiver.poll(300), "the command line says nothing"
        outcome: Outcome = receiver.recv()
        return outcome
    finally:
        process.kill()
        process.join()


def _tell(sender: Connection, arguments: tuple[str, ...], variables: dict[str, str]) -> None:
    os.environ.update(variables)
    PROCESS_CACHE.clear()
    out, err, code = StringIO(), StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as ended:
            code = int(ended.code or 0)
        except BaseException:
            code = 1
            traceback.print_exc()
    sender.send(Outcome(code, out.getvalue(), err.getvalue()))


@pytest.fixture
def job(tiny_model: Path, tokens: Path, tmp_path: Path) -> tuple[str, ...]:
    """Overrides of a job that runs in a moment."""
    return quick_job(tiny_model, tokens, tmp_path / "results")


def quick_job(tiny_model: Path, tokens: Path, results: Path) -> tuple[str, ...]:
    """The same, for fixtures that outlive a test."""
    return (
        "model=local",
        f"model.path={tiny_model}",
        "calibration=tokens",
        f"calibration.path={tokens}",
        "evaluation.corpora=[tokens]",
        f"data.tokens={tokens}",
        "evaluation.seq_len=16",
        "dtype=float32",
        f"results_dir={results}",
    )
