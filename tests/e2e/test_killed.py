"""A sweep that was killed at whatever moment is run again: it ends as if nothing had happened, and leaves nothing."""

from pathlib import Path

import pytest

from tests.killing import Trial, sweeps

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
TRIED = 2
"""Moments of a sweep that are tried here beside those around its records; `python -m tests.killing` tries all."""


@pytest.mark.parametrize("name", ["saved", "saved from disk", "from disk", "measured on"])
def test_a_killed_sweep_is_run_again(name: str, speaking_model: Path, tmp_path: Path) -> None:
    """Records, answers and models are what they are without the kill; folders and temporary files are gone."""
    trial = Trial(sweeps(speaking_model, tmp_path)[name], tmp_path / "trial")
    moments = trial.moments
    around_records = [
        place + 1
        for place, (write, _) in enumerate(moments[:-1])
        if write.startswith("os.rename") and "/tiny/" in write and write.endswith(".json")
    ]
    tried = {*around_records, *((2 * number + 1) * len(moments) // (2 * TRIED) for number in range(TRIED))}
    wrong = {moments[place][0]: trial.differences(moments[place][1]) for place in sorted(tried)}
    assert {before: differing for before, differing in wrong.items() if differing} == {}
