"""LaTeX that compiles: every table of the papers, a comparison, the properties, and the longest and oddest."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.cli.properties import method_properties
from harness.reporting.formats.latex import latex, tex
from harness.reporting.layout import Cell, Column, Table
from harness.reporting.papers import paper_table
from harness.reporting.properties import property_table
from harness.reporting.published import load
from harness.reporting.tables import comparison

TABLE_IDS = load().table_ids()
DOCUMENT = r"""\documentclass[a4paper,10pt]{article}
\usepackage[utf8]{inputenc}
\usepackage[T1]{fontenc}
\usepackage{lmodern}
\usepackage[margin=25mm]{geometry}
\usepackage{array,booktabs,longtable,pdflscape}
\begin{document}
%s
\end{document}
"""

needs_latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")


def compile_pdf(fragments: list[str], folder: Path) -> str:
    """Compile fragments, a page each, to `tables.pdf`; the log."""
    (folder / "tables.tex").write_text(DOCUMENT % "\\clearpage\n".join(fragments), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    for _ in range(2):  # a longtable learns its widths in the first run
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    log = (folder / "tables.log").read_text(encoding="utf-8", errors="replace")
    assert done.returncode == 0, log[-3000:]
    return log


def too_wide(log: str) -> list[float]:
    """By how many points boxes stick out of the page, where it can be seen."""
    return [
        float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt too wide\)", log) if float(points) > 5
    ]


def _comparison(record, perplexity, accuracy, published) -> Table:
    methods = ("dense", "magnitude", "wanda", "sparsegpt")
    jobs = [
        record(method, results=(perplexity(30.0 + i), accuracy(0.5 + i / 100)), seed=seed)
        for i, method in enumerate(methods)
        for seed in (0, 1)
    ]
    return comparison(jobs, published, mean_over_seed=True)


@pytest.mark.latex
@pytest.mark.slow
@needs_latex
def test_every_table_compiles_and_fits_its_page(record, perplexity, accuracy, published, tmp_path: Path) -> None:
    """All 44 tables, a comparison of means and the properties: no error, nothing over the margin."""
    tables = [paper_table(table_id, [], published) for table_id in TABLE_IDS]
    tables += [_comparison(record, perplexity, accuracy, published), property_table(method_properties())]
    assert too_wide(compile_pdf(list(map(latex, tables)), tmp_path)) == []


@pytest.mark.latex
@needs_latex
def test_hostile_text_compiles(tmp_path: Path) -> None:
    """Commands, comments, braces and characters that no font has are printed, not run."""
    hostile = "\\input{/etc/passwd} %$#&_{}~^\\\\[2pt]*\"'`<>|-1 é Ł 中 \u202e \U0001f600 ≈±→"
    table = Table(
        hostile,
        (Column(hostile), Column("ppl", "k", "ppl", False)),
        ((Cell(hostile), Cell(measured=-1.5)),),
        (hostile,),
    )
    compile_pdf([latex(table)], tmp_path)


def test_characters_without_a_glyph_are_named() -> None:
    """A character that would stop LaTeX is told by its code; accented letters stay."""
    assert tex("Gonzalès 中") == "Gonzalès U+4E2D"


def test_small_tables_float_and_long_ones_break() -> None:
    """Forty rows fit a page; more become a longtable with its header on every page."""
    columns = (Column("method"), Column("ppl", "k", "ppl", False))
    small = latex(Table("t", columns, ((Cell("a"), Cell(measured=1.0)),) * 40))
    long = latex(Table("t", columns, ((Cell("a"), Cell(measured=1.0)),) * 41))
    assert r"\begin{table}" in small
    assert r"\begin{longtable}" in long
    assert r"\endhead" in long


def test_wide_tables_turn_and_then_split() -> None:
    """Every column is in exactly one part, the labels in all of them."""
    columns = (Column("method"), *(Column(f"column {i} of many", f"k{i}", "ppl", False) for i in range(40)))
    row = (Cell("a"), *(Cell(measured=float(i)) for i in range(40)))
    text = latex(Table("t", columns, (row,)))
    assert r"\begin{landscape}" in text
    assert len(re.findall(r"\\begin\{longtable\}", text)) >= 2
    assert all(f" {i}.00 " in text for i in range(40))
    assert text.count(r"\endfirsthead") == text.count("    a & ")
