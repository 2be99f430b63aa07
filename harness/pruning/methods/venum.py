"""Venum: Wanda's score on linears and convolutions.  satabios/sconce, https://github.com/satabios/sconce

The in-house mode of the sconce compression package (version 0.70; no paper).  On linears it is Wanda, on purpose the
same code.  What it adds to Wanda is here for every method: convolutions through the patches that their kernels see
(`harness/blocks/layers.py`), sparsities a layer from a scan (`allocation=sensitivity`) and a short training under the
masks (`recovery=masked_finetune`).  Its hooks prune a layer after the layer has made its dense output of the first
batch, so that inputs are those of the dense model.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.pruning.methods.base import METHODS
from harness.pruning.methods.wanda import Wanda


@METHODS.register("venum")
@dataclass(frozen=True, slots=True)
class Venum(Wanda):
    """S_ij = |W_ij| * ||X_j||_2 with W [C_out, C_in * kh * kw] and X the patches, ranked within each output channel."""

    propagation = "dense"
