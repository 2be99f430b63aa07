"""The published numbers: complete, typed, and compared only where the settings agree."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.reporting.published import Published, Setting, experiments_folder, load, natural_key, normal_name

WIKITEXT = "perplexity:wikitext2:seq2048"


def test_every_row_of_every_file_is_loaded_as_printed(published: Published) -> None:
    """No row is lost or changed between the files and the typed rows: 1,398 numbers in 44 tables."""
    printed = []
    for file in sorted(experiments_folder().glob("*/published.csv")):
        with file.open(newline="", encoding="utf-8") as stream:
            printed += [(row["table_id"], row["model"], row["value"]) for row in csv.DictReader(stream)]
    assert [(row.table_id, row.model, row.text) for row in published.rows] == printed
    assert (len(printed), len(published.table_ids())) == (1398, 44)


def test_the_value_is_the_number_that_is_printed(published: Published) -> None:
    """`1.7e4` is seventeen thousand."""
    row = next(row for row in published.table("SGPT-T1") if row.text == "1.7e4")
    assert row.value == 17000.0


def test_no_number_stands_twice(published: Published) -> None:
    """Two rows never claim the same cell."""
    cells = [
        (r.table_id, r.model, r.method, r.variant, r.sparsity, r.pattern, r.metric, r.task, r.seq_len)
        for r in published.rows
    ]
    assert len(set(cells)) == len(cells)


def test_an_unknown_table_names_the_known_ones(published: Published) -> None:
    """A wrong id is the user's mistake, answered with the ids there are."""
    with pytest.raises(UserError, match=r"unknown table 'T1'; choose from: .*SGPT-T1, SGPT-T2"):
        published.table("T1")


def test_lookup_ignores_case_and_punctuation_of_names_only(published: Published) -> None:
    """`opt-125m` is OPT-125M; another window length, metric or sparsity is another setting."""
    found = published.lookup(Setting("opt-125m", "sparsegpt", "unstructured", 0.5, WIKITEXT, "perplexity"))
    assert [row.text for row in found] == ["36.85"]
    for other in (
        Setting("opt-125m", "sparsegpt", "unstructured", 0.5, "perplexity:wikitext2:seq1024", "perplexity"),
        Setting("opt-125m", "sparsegpt", "unstructured", 0.6, WIKITEXT, "perplexity"),
        Setting("opt-125m", "sparsegpt", "unstructured", 0.5, WIKITEXT, "acc"),
        Setting("opt-13b", "sparsegpt", "4:8", 0.5, "perplexity:wikitext2:seq2048:first64", "perplexity"),
    ):
        assert published.lookup(other) == ()


def test_lookup_puts_the_method_s_own_paper_first(published: Published) -> None:
    """Wanda at 50 % on LLaMA-7B is printed by four papers; Wanda's own comes first."""
    found = published.lookup(Setting("LLaMA-7B", "wanda", "unstructured", 0.5, WIKITEXT, "perplexity"))
    assert found[0].table_id == "WANDA-PPL-LLAMA"
    assert {row.table_id for row in found} > {"BESA-WT2", "RIA-50"}


def test_lookup_leaves_out_variants_tuning_and_reproductions(published: Published) -> None:
    """A tuned row, a one-sample row and a user's number are not the published value of a plain job."""
    plain = published.lookup(Setting("LLaMA-7B", "Wanda", "unstructured", 0.5, WIKITEXT, "perplexity"))
    assert not {row.table_id for row in plain} & {"WANDA-1SAMPLE", "REPRO-WANDA"}
    tuned = Setting("LLaMA-7B", "LoRAP", "structured", 0.2, "perplexity:wikitext2:seq128", "perplexity")
    assert {row.variant for row in published.lookup(tuned)} == {"w/o tune"}


def test_ptb_of_the_llm_pruner_family_is_not_our_ptb(published: Published) -> None:
    """They measured the validation split; our `ptb` is the test split."""
    protocols = {row.protocol for row in published.table("SLIM-LLAMA7B") if row.task == "ptb"}
    assert protocols == {"perplexity:ptb-validation:seq128"}


def test_wikitext_is_at_4096_tokens_for_llama_2_in_wanda(published: Published) -> None:
    """The one table of the Wanda paper whose windows are longer."""
    assert {row.seq_len for row in published.table("WANDA-PPL-LLAMA2")} == {4096}
    assert {row.seq_len for row in published.table("WANDA-PPL-LLAMA")} == {2048}


def test_names_that_differ_in_dots_and_pluses_stay_apart() -> None:
    """OPT-1.3B is not OPT-13B, and Wanda++ is not Wanda."""
    assert normal_name("OPT-1.3B") != normal_name("OPT-13B")
    assert normal_name("Wanda++") != normal_name("Wanda")


def test_natural_order_counts() -> None:
    """T9 comes before T10."""
    assert sorted(["T10", "T9", "A"], key=natural_key) == ["A", "T9", "T10"]


def test_a_folder_without_published_numbers_is_said(tmp_path: Path) -> None:
    """An empty folder is an error, not an empty table."""
    with pytest.raises(UserError, match=r"no \*/published\.csv"):
        load(tmp_path)


def test_a_broken_row_is_named_by_file_and_line(tmp_path: Path) -> None:
    """A value that is no number points at its line."""
    source = next(iter(sorted(experiments_folder().glob("*/published.csv")))).read_text(encoding="utf-8")
    header, first = source.splitlines()[:2]
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "published.csv").write_text(f"{header}\n{first.replace(',word_ppl,', 'x,word_ppl,')}\n")
    with pytest.raises(UserError, match=r"published.csv, line 2: value=.*x.: Input should be a valid number"):
        load(tmp_path)


def test_reporting_never_imports_torch() -> None:
    """Tables are made on a laptop in a second: no torch, transformers, datasets or lm_eval, and no pandas at import."""
    code = (
        "import sys, harness.reporting.formats.base, harness.reporting.tables, harness.reporting.papers, "
        "harness.reporting.frame, harness.reporting.show, harness.reporting.published as p; p.load(); "
        "print({'torch', 'transformers', 'datasets', 'lm_eval', 'pandas', 'altair', 'vl_convert'} & set(sys.modules))"
    )
    root = experiments_folder().parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
