"""How the models are trained that no checkpoint is shipped of; no torch, so that planning can name them."""

from dataclasses import asdict, dataclass
from hashlib import sha256

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

    @property
    def digest(self) -> str:
        """Pins the recipe, as part of a checkpoint's identity."""
        return sha256(canonical_json(asdict(self)).encode()).hexdigest()[:16]


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
"""By model name."""

EXPECTED_WEIGHTS = {"digits-cnn": "23df4f4d3922b99377268a95ef1cf82b7617531f428f5dcebd6e8871650b160c"}
"""sha256 of the weights that the recipes gave on x86-64 with torch 2.13: of all tensors by name, in float32.

Training in float64 and rounding the outcome to bfloat16 lets other machines come to the same; one that does not says
so in its records.
"""
