"""Checkpoints in 8-bit floating point: what is stored under a weight's name has its shape, and not its value."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

GROUP = 16
"""Rows and columns that share a scale."""


def in_eight_bits(folder: Path) -> None:
    """Quantise the linears of the LLaMA in `folder` to e4m3, in the form that transformers reads as fp8."""
    stored: dict[str, Tensor] = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if ".layers." not in name or weight.dim() != 2:
            stored[name] = weight
            continue
        rows, columns = (size // GROUP for size in weight.shape)
        groups = weight.reshape(rows, GROUP, columns, GROUP)
        scale = groups.abs().amax(dim=(1, 3)) / 448
        stored[name] = (groups / scale[:, None, :, None]).reshape(weight.shape).to(torch.float8_e4m3fn)
        stored[name.replace(".weight", ".weight_scale_inv")] = scale
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "fp8",
        "weight_block_size": [GROUP, GROUP],
        "activation_scheme": "dynamic",
        "dequantize": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
