"""How the models are made that no checkpoint is shipped of: trained, or drawn at random; no torch, for planning.

Random models are small enough to be trained here, for methods that train.  Their weights are drawn with one fixed seed,
so that every job starts from the same ones, and their tokenizer has one token a byte and one that ends a text: text of
any language can be read without a vocabulary that is larger than the model.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from harness.data.corpora.digits import IDENTITIES
from harness.job import canonical_json


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the weights, but for the rounding of the machine.

    Args:
        architecture: of the network; raised when its code changes what it computes.
        data: identity of the training rows.
        seed: of the first weights and of the order of the rows.
        epochs, batch: passes over the rows, rows a step.
        learning_rate, weight_decay: of AdamW; the rate falls to 0 along a cosine.
    """

    architecture: str
    data: str
    seed: int
    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float


RECIPES = {
    "digits-cnn": Recipe(
        architecture="stem 16, convolutions 16-16 32-32, linears 64-10, v1",
        data=IDENTITIES["calibration"],
        seed=0,
        epochs=10,
        batch=64,
        learning_rate=3e-3,
        weight_decay=0.05,
    )
}
"""Of trained models, by name."""

EXPECTED_WEIGHTS = {"digits-cnn": "23df4f4d3922b99377268a95ef1cf82b7617531f428f5dcebd6e8871650b160c"}
"""sha256 of the weights that the recipes gave on x86-64 with torch 2.13: of all tensors by name, in float32.

Training in float64 and rounding the outcome to bfloat16 lets other machines come to the same; one that does not says
so in its records.
"""

BYTES = 256
END_OF_TEXT = "<|endoftext|>"
SEED = 0
DRAW = "normal 0.02, v1"
"""How weights are drawn; part of a model's identity."""

SCRATCH: Mapping[str, Mapping[str, Any]] = {
    "tiny-llama": {
        "model_type": "llama",
        "vocab_size": BYTES + 1,
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
        "bos_token_id": BYTES,
        "eos_token_id": BYTES,
        "tie_word_embeddings": False,
    }
}
"""Configurations of random models, by name."""


def digest_of(name: str) -> str:
    """Pins the weights of a trained or random model, as part of its checkpoint's identity."""
    decides = asdict(RECIPES[name]) if name in RECIPES else [SCRATCH[name], SEED, DRAW]
    return sha256(canonical_json(decides).encode()).hexdigest()[:16]
