"""Jobs that one process runs after another: each comes out as if it had run alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.jobs.run import PROCESS_CACHE
from tests.e2e.conftest import Outcome
from tests.eight_bits import in_eight_bits

pytestmark = pytest.mark.e2e


def test_jobs_on_quantised_weights_do_not_see_each_other(
    cli: Callable[..., Outcome], job: tuple[str, ...], tiny_model: Path, tmp_path: Path
) -> None:
    """Of a checkpoint in 8 bits the second job has the weights that a process of its own would have."""
    shutil.copytree(tiny_model, tmp_path / "model")
    in_eight_bits(tmp_path / "model")
    job = (*job, f"model.path={tmp_path / 'model'}", "sparsity=0.5")

    def records(folder: Path, *, alone: bool) -> list[dict[str, Any]]:
        for method in ("magnitude", "wanda"):
            if alone:
                PROCESS_CACHE.clear()
            assert cli("run", *job, f"method={method}", f"results_dir={folder}").code == 0
        return [json.loads(file.read_text()) for file in sorted(folder.rglob("*__*.json"))]

    together, alone = records(tmp_path / "together", alone=False), records(tmp_path / "alone", alone=True)
    for field in ("weights_fingerprint", "results"):
        for one, other in zip(together, alone, strict=True):
            for result in [*one["results"], *other["results"]]:
                result["details"].pop("seconds", None)
            assert one[field] == other[field], field
