"""LoRA: learn a change of low rank for every layer, add it to the weights that pruning left, and nothing to its zeros.

Hu et al. 2021, https://arxiv.org/abs/2106.09685: W + (alpha / rank) B A.  The defaults are those of LLM-Pruner (Ma et
al. 2023, https://arxiv.org/abs/2305.11627, `scripts/llama_prune.sh` at 38452d5), on all linears of the blocks, without
its dropout, warm-up and instructions.  The product is masked while it is trained, W + (alpha / rank) (B A) * M with
M = [W != 0], as in MaskLoRA (Zimmer et al. 2023, https://arxiv.org/abs/2312.15230): what is merged is what was trained.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from harness.job import Count, Positive
from harness.recovery.base import RECOVERIES, MaskedTraining, Recovered, RecoveryContext

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.blocks.layers import PrunableLinear

_ADAPTER = "recovery"


@RECOVERIES.register("lora")
@dataclass(frozen=True, slots=True)
class Lora(MaskedTraining):
    """Adam on peft's adapters of the prunable layers, which are merged; all that is no such layer stays as it is.

    Args:
        steps: optimiser steps, >= 1.
        batch: sequences a step, >= 1; all, where there are not so many.
        learning_rate: constant, > 0.
        rank: of every adapter, >= 1.
        alpha: the product counts alpha / rank times, >= 1.
    """

    learning_rate: Positive = 1e-4
    rank: Count = 8
    alpha: Count = 16

    def recover(self, context: RecoveryContext) -> Recovered:
        return self.trained(context, context.rows_BL, None, f"adapted by LoRA of rank {self.rank}")

    @contextmanager
    def learnt(self, model: nn.Module, seed: int) -> Iterator[dict[PrunableLinear, Tensor]]:
        """The adapters, which remove nothing; they are gone afterwards, and added to the weights they are of."""
        import torch
        from peft import LoraConfig, LoraModel
        from peft.tuners.lora import LoraLayer

        from harness.blocks.layers import decoder_blocks, prunable_linears
        from harness.models.objective import trainable

        blocks = decoder_blocks(model)[1]  # and not the model, of which peft may refuse layers that are adapted here
        names = [f"{index}.{name}" for index, block in enumerate(blocks) for name in prunable_linears(block)]
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=names)
        device = next(model.parameters()).device
        with trainable(model, lambda _: False), torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="fan_in_fan_out")  # it finds out itself how a weight lies
                tuner: Any = LoraModel(blocks, config, _ADAPTER)
            layers: dict[str, Any] = {
                name: layer for name, layer in blocks.named_modules() if isinstance(layer, LoraLayer)
            }
            assert set(layers) == set(names), f"adapted are other layers: {set(layers) ^ set(names)}"
            for layer in layers.values():
                layer.forward = partial(_forward, layer)
            parts = [each[_ADAPTER] for layer in layers.values() for each in (layer.lora_A, layer.lora_B)]
            yield {part: torch.zeros_like(part.weight, dtype=torch.bool) for part in parts}
            with torch.no_grad():
                for layer in layers.values():
                    base = layer.get_base_layer()
                    base.weight.copy_(_adapted(layer))
            tuner.unload()


def _adapted(layer: Any) -> Tensor:
    """W + (alpha / rank) (B A) * [W != 0], as the layer stores W."""
    weight: Tensor = layer.get_base_layer().weight
    delta: Tensor = layer.get_delta_weight(_ADAPTER)
    return weight + delta * (weight != 0)


def _forward(layer: Any, x: Tensor) -> Tensor:
    """The layer with its adapted weight."""
    from torch.func import functional_call

    out: Tensor = functional_call(layer.get_base_layer(), {"weight": _adapted(layer)}, (x,))
    return out
