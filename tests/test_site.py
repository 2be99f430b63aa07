"""What the documentation takes from the code; `make docs` builds it and refuses lost links."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from harness.cli.listing import EXPLAINED, facts_of, rows_of

FILE = Path(__file__).parents[1] / "docs" / "generate.py"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """The module, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("generate", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_choice_has_its_place_with_all_its_parameters(generate: ModuleType, tmp_path: Path) -> None:
    """As `prunebench list` has them, so that a method that is added is in the documentation."""
    generate.write_pages(tmp_path / "pages")
    for kind in EXPLAINED:
        page = (tmp_path / "pages" / f"{kind}.md").read_text()
        for row in rows_of(kind):
            section = page.partition(f"\n## {row['name']}\n")[2].partition("\n## ")[0]
            assert section
            assert all(f"| `{each['name']}` |" in section for each in facts_of(kind, row["name"])["parameters"])


@pytest.mark.parametrize(
    ("said", "markdown"),
    [
        (
            "S_ij = |W_ij| * ||X_j||_2^p",
            r"S<sub>ij</sub> = \|W<sub>ij</sub>\| * \|\|X<sub>j</sub>\|\|<sub>2</sub><sup>p</sup>",
        ),
        ("H^-1 of out_features, ``a_b * c``", r"H<sup>-1</sup> of out\_features, `a_b * c`"),
        ("the <unk> [1], https://arxiv.org/abs/1.", r"the \<unk> \[1\], <https://arxiv.org/abs/1>."),
    ],
)
def test_formulas_of_docstrings_are_set(generate: ModuleType, said: str, markdown: str) -> None:
    """Indices and powers are; what Markdown would take for markup of its own stays text."""
    assert generate.prose(said) == markdown
