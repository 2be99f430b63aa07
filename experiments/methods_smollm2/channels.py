"""Perplexity of SmolLM2-135M with a share of its feed-forward channels set to zero, without any pruning code.

    PRUNEBENCH_DATA=FOLDER python experiments/methods_smollm2/channels.py

Channels go in the order of ||gate_k|| + ||up_k|| + ||down_:,k||.  Measured in float32 on the first two windows of 1,024
tokens of WikiText-2's test text.
"""

import os
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from harness.models.loading import load_model
from harness.config.request import Checkpoint

SHARES = (0.0, 0.1, 0.25, 0.5)


@torch.no_grad()
def main() -> None:
    """Print a line for every share."""
    loaded = load_model(Checkpoint("embedded", "smollm2-135m", None, None, False), torch.float32)
    model: Any = loaded.model
    text = (Path(os.environ["PRUNEBENCH_DATA"]) / "wikitext2" / "wiki.test.raw").read_text(encoding="utf-8")
    tokenizer: Any = loaded.tokenizer
    windows_NL = tokenizer("\n\n".join(text.split("\n")[:2000]), return_tensors="pt").input_ids[0, :2048].view(2, 1024)
    for share in SHARES:
        for block in model.model.layers:
            gate_CH, up_CH, down_HC = (getattr(block.mlp, f"{name}_proj").weight for name in ("gate", "up", "down"))
            norms_C = gate_CH.norm(dim=1) + up_CH.norm(dim=1) + down_HC.norm(dim=0)
            gone = norms_C.argsort()[: round(share * len(norms_C))]  # those of the smaller share among them
            down_HC[:, gone] = 0.0
        logits_NLV = model(input_ids=windows_NL).logits
        loss = cross_entropy(logits_NLV[:, :-1].flatten(0, 1), windows_NL[:, 1:].flatten())
        print(f"{share:.0%} of the channels: {loss.exp():.6g}")


if __name__ == "__main__":
    main()
