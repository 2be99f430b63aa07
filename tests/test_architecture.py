"""`docs/architecture.md` is what the code is."""

import ast
import importlib
from pathlib import Path

import pytest

from benchmarks.house import MARK, flow_picture, measures, rooms, rooms_table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"


def test_the_page_lists_the_rooms_that_there_are() -> None:
    """Its table and picture are made of the import graph: `python -m benchmarks house --page docs/architecture.md`."""
    found = rooms()
    assert PAGE.read_text(encoding="utf-8").partition(MARK)[2].strip() == rooms_table(found)
    assert PAGE.with_suffix(".svg").read_text(encoding="utf-8") == flow_picture(found)


@pytest.mark.parametrize(
    ("measure", "most"),
    [
        ("modules at the door", 8),
        ("rooms", 24),
        ("floors", 10),
        ("arrows between rooms", 110),
        ("rooms in cycles", 0),
        ("functions over 60 lines", 0),
        ("runs of 6 equal lines", 0),
    ],
)
def test_the_house_keeps_its_measures(measure: str, most: int) -> None:
    """What was reached is not lost again."""
    assert int(measures(ROOT)[measure]) <= most


@pytest.mark.parametrize("script", sorted((ROOT / "experiments").glob("*/*.py")), ids=lambda path: path.name)
def test_what_a_script_of_an_experiment_imports_is_there(script: Path) -> None:
    """Numbers that are written down have its command beside them."""
    found = [node for node in ast.walk(ast.parse(script.read_text())) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in found if str(node.module).startswith("harness")]
    assert all(hasattr(importlib.import_module(str(node.module)), name.name) for node in ours for name in node.names)
