"""The model that one job leaves to the next job of the same process, dense again.

A sweep prunes the same model many times.  Loading it again costs more than copying the weights that a job changed back
from the memory-mapped checkpoint, and what was computed for it stays good.
"""

import torch
from torch import Tensor

from harness.blocks.changes import ModelChange
from harness.models.checkpoint import Checkpoint
from harness.models.loading import LoadedModel, checkpoint_shards, load_model

SAMPLED = 512
"""Values of every tensor, from its first to its last, that a stored one is recognised by."""


class ModelCache:
    """Holds one model at most: the last one that a job gave back.

    One rule: exactly what the job says it changed is put back, and only from tensors that the checkpoint is seen to
    store as they were loaded.  Where it stores them otherwise (quantised, transposed, in parts), or where modules or
    shapes changed, the model is loaded again.
    """

    def __init__(self) -> None:
        self._key: tuple[Checkpoint, str, torch.dtype | None] | None = None
        self._loaded: LoadedModel | None = None
        self._samples: dict[str, Tensor] = {}
        self._change: ModelChange | None = None

    def take(self, checkpoint: Checkpoint, identity: str, dtype: torch.dtype | None) -> LoadedModel:
        """The model with its own weights, on the CPU; it is the caller's until `give_back`.

        Args:
            identity: what pins the checkpoint's weights; a folder whose content changed is loaded again.

        Raises:
            UserError: see `load_model`.
        """
        key = (checkpoint, identity, dtype)
        if self._key != key or not self._restored(checkpoint):
            self.clear()  # two models at once may be more than the memory holds
            loaded = load_model(checkpoint, dtype)
            self._samples = {name: _sample(tensor) for name, tensor in loaded.model.state_dict().items()}
            self._key, self._loaded = key, loaded
        self._change = None
        assert self._loaded is not None, "restored or loaded"
        return self._loaded

    def give_back(self, change: ModelChange) -> None:
        """The caller is done with the model, of which it changed just this."""
        self._change = change

    def clear(self) -> None:
        """Forget the model."""
        self._key = self._loaded = self._change = None

    def _restored(self, checkpoint: Checkpoint) -> bool:
        """Put back what the last job changed; False when that cannot be, or nobody says what changed."""
        loaded, change = self._loaded, self._change
        if loaded is None or change is None or not change.keeps_shapes:
            return False
        loaded.model.to("cpu")  # type: ignore[arg-type]  # transformers annotates `to` with another signature
        state, shards = loaded.model.state_dict(), checkpoint_shards(checkpoint, loaded.model)
        for name in sorted(change.names):  # one at a time: together they may be most of the model
            if name not in shards:
                return False
            stored = shards.stored({name: state[name]}, torch.device("cpu"))[name]
            if stored.shape != state[name].shape or not torch.equal(_sample(stored), self._samples[name]):
                return False
            state[name].copy_(stored)
        return True


def _sample(tensor: Tensor) -> Tensor:
    values = tensor.detach().reshape(-1)
    return values[torch.linspace(0, len(values) - 1, min(SAMPLED, len(values)), dtype=torch.float64).long()].clone()
