"""The method that CONTRIBUTING shows is one: copied as it stands, it works."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from harness.calibration.statistics import FeatureNorm, Statistics
from harness.errors import UserError
from harness.job import Choice
from harness.pruning.methods.base import METHODS, ScoreMethod

CONTRIBUTING = Path(__file__).parents[2] / "CONTRIBUTING.md"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The example, run; its name is gone after the test."""
    METHODS.all()
    monkeypatch.setattr(METHODS, "_entries", METHODS.all())
    code, *_ = re.findall(r"```python\n(.*?)```", CONTRIBUTING.read_text(encoding="utf-8"), re.DOTALL)
    module = ModuleType("harness.pruning.methods.example")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, "example", "exec"), module.__dict__)
    (name,) = re.findall(r'@METHODS.register\("(.*?)"\)', code)
    yield name
    monkeypatch.undo()


def test_the_example_is_a_method(shown: str) -> None:
    """With power 1 it scores as Wanda; a power below 0 is refused in one line."""
    weight_OI = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    norm = FeatureNorm(2, torch.device("cpu"))
    norm.update(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), 1)
    stats = Statistics([norm])
    method, wanda = METHODS.build(Choice(shown, {"power": 1.0})), METHODS.build(Choice("wanda"))
    assert isinstance(method, ScoreMethod)
    assert isinstance(wanda, ScoreMethod)
    torch.testing.assert_close(method.score(weight_OI, stats), wanda.score(weight_OI, stats))
    with pytest.raises(UserError, match=r"method.power=-1 is not allowed; allowed: power >= 0"):
        METHODS.build(Choice(shown, {"power": -1.0}))
