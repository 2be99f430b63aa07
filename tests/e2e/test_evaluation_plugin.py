"""A kind of evaluation is added by one file outside the package."""

from pathlib import Path

import pytest

from harness.record import from_json
from tests.e2e.conftest import in_a_fork

pytestmark = pytest.mark.e2e

NORM = """
from dataclasses import dataclass
from typing import ClassVar
from harness.evaluation.base import EVALUATIONS, Evaluation, Measured
from harness.job import EvaluationProtocol, protocol_key
from harness.record import EvalResult

@dataclass(frozen=True, slots=True)
class NormProtocol(EvaluationProtocol):
    kind: ClassVar[str] = "norm"
    of: str
    @property
    def name(self): return self.of
    @property
    def key(self): return protocol_key([self.kind, self.of, "v1"], None)

@EVALUATIONS.register("norm")
@dataclass(frozen=True, slots=True)
class Norm(Evaluation[NormProtocol]):
    called: ClassVar[str] = "norms"
    norms: tuple[str, ...] = ()
    @classmethod
    def choices(cls): return {"weights": "norm of all weights"}
    @property
    def names(self): return {"evaluation.norms": self.norms}
    def ask(self, find): return [(NormProtocol(n), None) for n in self.norms]
    @classmethod
    def needs_tokenizer(cls, protocol): return False
    @classmethod
    def measure(cls, asked, context):
        total = sum(float(p.detach().square().sum()) for p in context.loaded.model.parameters()) ** 0.5
        rest = ("norm", total, None, 1, True, None, "none", "none")
        made = (EvalResult(a.protocol.key, "norm", a.protocol.name, *rest) for a in asked)
        return Measured(tuple(made))
"""


def test_one_file_adds_a_kind_that_the_command_line_runs(tmp_path: Path) -> None:
    """Its field is asked for like any other, and its number is in the record under its own key and kind."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "norm.py").write_text(NORM)
    job = ("model=tiny-llama", "method=dense", "evaluation=none", f"results_dir={tmp_path / 'results'}")
    done = in_a_fork("run", *job, f"plugins={tmp_path / 'plugins'}", "evaluation.norms=[weights]")
    assert "done in" in done.err, done.err
    (path,) = (tmp_path / "results").rglob("*__*.json")
    (result,) = from_json(path.read_bytes(), str(path)).results
    assert (result.protocol, result.kind, result.task) == ("norm:weights:v1", "norm", "weights")
    assert result.value is not None
    assert result.value > 0
