"""What all benchmarks run on: the embedded model and the embedded text."""

import torch
from torch import Tensor

from harness.data.corpora.base import CORPORA, TextCorpus
from harness.data.sequences import RandomWindows
from harness.data.sources import resolve
from harness.models.checkpoint import Checkpoint
from harness.models.loading import LoadedModel, load_model

DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}


def embedded_model(dtype: torch.dtype) -> LoadedModel:
    """SmolLM2-135M on the CPU."""
    return load_model(Checkpoint("embedded", "smollm2-135m", None, None, False), dtype)


def embedded_tokens(loaded: LoadedModel, num_sequences: int, seq_len: int) -> Tensor:
    """Calibration sequences [B, L] of the embedded C4 sample, seed 0."""
    c4 = CORPORA.get("c4")
    assert isinstance(c4, TextCorpus), "pages of the web are text"
    documents = c4.documents(resolve("c4", "calibration", source="embedded"))
    text = RandomWindows(documents, loaded.tokenizer, seq_len=seq_len, seed=0, sampling="stream")
    return torch.from_numpy(text.draw(num_sequences)[0])
