"""The sequences of a job are what its statistics see, and nothing that a candidate is measured on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from harness.data.places import DataRef
from harness.job import SequencesSpec
from harness.jobs.calibrate import Draw, drawn_tokens
from harness.progress import Silent

CPU = torch.device("cpu")


class Letters:
    """A tokenizer of one token a character."""

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [*map(ord, text)]}


@pytest.mark.parametrize("sampling", ["documents", "stream", "given"])
@pytest.mark.parametrize("seed", range(5))
def test_held_out_sequences_touch_no_calibration_sequence(tmp_path: Path, sampling: Any, seed: int) -> None:
    """For every sampling, on data in which no token comes twice."""
    characters = [chr(number) for number in range(1000, 1600)]
    if sampling == "given":
        file = tmp_path / "tokens.npy"
        np.save(file, np.arange(600).reshape(60, 10))
    else:
        file = tmp_path / "text.txt"
        file.write_text("\n".join("".join(characters[at : at + 40]) for at in range(0, 600, 40)))
    data = DataRef("tokens" if sampling == "given" else "ptb", "calibration", "path", str(file), "sha256:0", False)
    draw = Draw(SequencesSpec(data.name, data.identity, 8, 10, sampling), data, seed)
    loaded: Any = SimpleNamespace(tokenizer=Letters(), vocab_size=2000, max_length=None)
    drawn_BL, apart_BL = drawn_tokens(draw, loaded, CPU, Silent(), more=6)
    assert drawn_BL.shape == (8, 10)
    assert apart_BL.shape == (6, 10)
    blank = ord(" ")
    assert not (set(drawn_BL.flatten().tolist()) & set(apart_BL.flatten().tolist())) - {blank}
    alone, none = drawn_tokens(draw, loaded, CPU, Silent())
    assert alone.equal(drawn_BL)
    assert not len(none)
