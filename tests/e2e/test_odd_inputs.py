"""Kinds of fault that users have met: each input is pruned as what it is, or refused in one line before anything is."""

from pathlib import Path

import pytest

from tests.odd_inputs import CASES, tried

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("name", CASES)
def test_what_users_came_with(name: str, tmp_path: Path) -> None:
    """The exit code, and what is said or recorded; no traceback, and no record of what is refused."""
    case = CASES[name]
    code, said = tried(case, tmp_path)
    assert case.says in said
    assert code == case.code
    assert "Traceback" not in said
    assert (code == 0) or not list((tmp_path / "results").glob("*/*__*.json"))
