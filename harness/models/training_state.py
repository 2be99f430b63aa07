"""Training that goes on after a kill: weights, optimiser, generators and losses in one file, whole or not at all."""

import os
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

EVERY_S = 60.0
"""So much work is lost at most."""


class TrainingState:
    """What is kept of one training, in a file that its owner removes.

    Args:
        begun: what the training is of, beside the weights that it begins with: another one's state is not taken up.
    """

    def __init__(
        self, file: Path, learnt: Sequence[Tensor], optimizer: torch.optim.Optimizer, begun: Sequence[object]
    ) -> None:
        self._file, self._learnt, self._optimizer = file, learnt, optimizer
        digest = sha256(repr(begun).encode())
        for weight in learnt:
            digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        self._begun, self._written = digest.hexdigest(), time.monotonic()

    def resumed(self) -> list[float]:
        """Take up what is kept of this very training; the losses of the steps that it is behind."""
        if not self._file.is_file():
            return []
        kept = torch.load(self._file, map_location="cpu", weights_only=True)
        if kept["begun"] != self._begun:
            return []
        with torch.no_grad():
            for weight, value in zip(self._learnt, kept["weights"], strict=True):
                weight.copy_(value)
        self._optimizer.load_state_dict(kept["optimizer"])
        torch.set_rng_state(kept["generator"])
        if (device := self._learnt[0].device).type == "cuda":
            torch.cuda.set_rng_state(kept["generator_of_device"], device)
        losses: list[float] = kept["losses"]
        return losses

    def keep(self, losses: Sequence[float]) -> None:
        """Write the state after a step, where the last one is old enough."""
        if time.monotonic() - self._written < EVERY_S:
            return
        device = self._learnt[0].device
        kept = {
            "begun": self._begun,
            "weights": [weight.detach() for weight in self._learnt],
            "optimizer": self._optimizer.state_dict(),
            "generator": torch.get_rng_state(),
            "generator_of_device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "losses": list(losses),
        }
        partial = self._file.with_name(f"{self._file.name}.partial")
        torch.save(kept, partial)
        os.replace(partial, self._file)
        self._written = time.monotonic()
