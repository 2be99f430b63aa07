"""How large a model is: parameters, bytes in every form that sparse matrices are stored in, multiplications a token."""

import json
import math
from collections.abc import Mapping

import torch
from safetensors.torch import _TYPES
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from harness.blocks.experts import stacked_again
from harness.blocks.layers import prunable_layers, weight_view

INDEX_BYTES = 4
"""Of a row or column number in CSR, as torch stores it for matrices of this size."""
STORED_TYPES = {dtype: name for name, dtype in _TYPES.items()}
"""Names of types in the header of a safetensors file."""


def sizes_of(model: nn.Module, device: torch.device) -> dict[str, int]:
    """By metric.  Parameters that are tied count once.

    - `parameters`, `nonzeros`: of the whole model.
    - `bytes_dense`: of its parameters in memory.  `bytes_bitmap`: the prunable matrices as their values that are not
      zero and a bit a weight; `bytes_csr`: as these with their columns and the beginnings of rows; `bytes_2_4`: those
      that are 2:4 as half their values and two bits for the place of each; the rest dense.
    - `bytes_on_disk`: of the safetensors file that it would be saved to; the names of experts may be others there.
    - `macs_per_token`: multiplications of a token, by its own input, with weights: experts that are not chosen and the
      embedding have none.  Zeros that are stored are multiplied, too.
    """
    weights = list(model.parameters())
    dense = sum(weight.numel() * weight.itemsize for weight in weights)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=device), use_cache=False)
    found = {"parameters": sum(weight.numel() for weight in weights), "nonzeros": sum(map(_nonzeros, weights))}
    found["bytes_dense"] = found["bytes_bitmap"] = found["bytes_csr"] = found["bytes_2_4"] = dense
    for weight_OI in map(weight_view, prunable_layers(model).values()):
        for form, size in _stored(weight_OI).items():
            found[form] += size - weight_OI.numel() * weight_OI.itemsize
    with stacked_again(model):
        found["bytes_on_disk"] = file_size(model.state_dict())
    return found | {"macs_per_token": counter.get_total_flops() // 2}


def _nonzeros(weight: Tensor) -> int:
    return int(torch.count_nonzero(weight))


def _stored(weight_OI: Tensor) -> dict[str, int]:
    """Bytes of one matrix in every form."""
    kept, count = _nonzeros(weight_OI), weight_OI.numel()
    values, two_of_four = kept * weight_OI.itemsize, is_two_of_four(weight_OI)
    return {
        "bytes_bitmap": values + math.ceil(count / 8),
        "bytes_csr": values + INDEX_BYTES * (kept + len(weight_OI) + 1),
        "bytes_2_4": count // 2 * weight_OI.itemsize + count // 8 if two_of_four else count * weight_OI.itemsize,
    }


def is_two_of_four(weight_OI: Tensor) -> bool:
    """Whether at most two of every four weights of a row that lie side by side are not zero."""
    return weight_OI.shape[1] % 4 == 0 and int((weight_OI != 0).unflatten(1, (-1, 4)).sum(dim=2).max()) <= 2


def file_size(state: Mapping[str, Tensor]) -> int:
    """Bytes of the safetensors file of these tensors, those that share memory once, by their first name."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    seen, end = set(), 0
    for name, tensor in state.items():
        if (place := (tensor.data_ptr(), tensor.shape)) in seen:
            continue
        seen.add(place)
        begin, end = end, end + tensor.numel() * tensor.itemsize
        header[name] = {"dtype": STORED_TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = len(json.dumps(header, separators=(",", ":")).encode())
    return 8 + math.ceil(text / 8) * 8 + end
