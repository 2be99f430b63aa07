"""The model that one job leaves to the next job of the same process, dense again.

A sweep prunes the same model many times.  Loading it again costs more than copying the weights that pruning changed
back from the memory-mapped checkpoint, and what was tokenised for it stays good.
"""

import torch

from harness.blocks.layers import decoder_blocks, prunable_linears
from harness.blocks.shards import Shards
from harness.errors import UserError
from harness.models.checkpoint import Checkpoint
from harness.models.loading import LoadedModel, checkpoint_shards, load_model


class ModelShelf:
    """Holds one model at most: the last one that was asked for."""

    def __init__(self) -> None:
        self._key: tuple[Checkpoint, str, torch.dtype | None] | None = None
        self._loaded: LoadedModel | None = None

    def take(self, checkpoint: Checkpoint, identity: str, dtype: torch.dtype | None) -> LoadedModel:
        """The model with its own weights, on the CPU.

        Args:
            identity: what pins the checkpoint's weights; a folder whose content changed is loaded again.

        Raises:
            UserError: see `load_model`.
        """
        key = (checkpoint, identity, dtype)
        kept, self._loaded = self._loaded, None
        if kept is None or self._key != key or not _restore(checkpoint, kept):
            del kept  # two models at once may be more than the memory holds
            kept = load_model(checkpoint, dtype)
        self._key, self._loaded = key, kept
        return kept

    def clear(self) -> None:
        """Forget the model."""
        self._key = self._loaded = None


def _restore(checkpoint: Checkpoint, loaded: LoadedModel) -> bool:
    """Copy the weights of every prunable linear back; False when the checkpoint stores one in another form."""
    model = loaded.model
    model.to("cpu")  # type: ignore[arg-type]  # transformers annotates `to` with another signature
    prefix, blocks = decoder_blocks(model)
    shards: Shards = checkpoint_shards(checkpoint, model)
    for index, block in enumerate(blocks):
        weights = {
            f"{prefix}.{index}.{name}.weight": linear.weight.data for name, linear in prunable_linears(block).items()
        }
        try:
            shards.check(weights)
        except UserError:
            return False
        stored = shards.read(weights, torch.device("cpu"))
        for name, weight in weights.items():
            weight.copy_(stored[name])
    return True
