"""Patterns: illegal ones cannot be written, and the text N:M means what it says."""

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import harness
from harness.errors import UserError
from harness.patterns import Channels, Pattern, SemiStructured, Structured, Unstructured, parse_n_of_m

GROUPS = st.integers(2, 64).flatmap(lambda group: st.tuples(st.integers(1, group - 1), st.just(group)))


@given(GROUPS, st.sampled_from(["", " ", "\t"]))
def test_every_n_of_m_is_read_back(numbers: tuple[int, int], blank: str) -> None:
    """`N:M` keeps N of every M; its label is the text again."""
    keep, group = numbers
    pattern = parse_n_of_m(f"{blank}{keep}:{group}{blank}")
    assert pattern == SemiStructured(keep, group)
    assert pattern.label == f"{keep}:{group}"
    assert pattern.slug == f"nm-{keep}-{group}"
    assert pattern.sparsity == pytest.approx((group - keep) / group)


@given(st.text())
def test_any_text_is_a_pattern_or_none_or_a_user_error(text: str) -> None:
    """Nothing else comes out: what is read has 1 <= N < M and says the same."""
    try:
        pattern = parse_n_of_m(text)
    except UserError:
        pattern = None
    if pattern is not None:
        assert 1 <= pattern.keep < pattern.group
        assert ":" in text


@given(st.integers(0, 99), st.integers(0, 99))
def test_numbers_that_make_no_pattern_are_refused(keep: int, group: int) -> None:
    """5:4, 4:4 and 0:4 are N:M in form only; the line says what is allowed."""
    if 1 <= keep < group:
        assert parse_n_of_m(f"{keep}:{group}") is not None
    else:
        with pytest.raises(UserError, match=rf"pattern={keep}:{group} is not N:M .*allowed: 1 <= N < M"):
            parse_n_of_m(f"{keep}:{group}")


@pytest.mark.parametrize("text", ["unstructured", "2", "2:", ":4", "2:4:8", "-2:4", "2.0:4", "124", "", "2;4"])
def test_other_text_is_no_n_of_m(text: str) -> None:
    """None: the text may name something else."""
    assert parse_n_of_m(text) is None


@pytest.mark.parametrize("sparsity", [0.0, 1.0, -0.1, 1.2, float("nan"), float("inf")])
def test_a_sparsity_outside_its_range_is_refused(sparsity: float) -> None:
    """The line holds the value and the range."""
    with pytest.raises(UserError, match=rf"sparsity={sparsity:g} .*allowed: 0 < sparsity < 1"):
        Unstructured.requested(sparsity)


@pytest.mark.parametrize("sparsity", [-0.1, 1.2, float("nan"), float("inf")])
def test_a_layer_may_lose_all_or_nothing_but_not_more(sparsity: float) -> None:
    """One threshold over a model may leave a layer whole, or take all of it."""
    assert (Unstructured(0.0).sparsity, Unstructured(1.0).sparsity) == (0.0, 1.0)
    with pytest.raises(UserError, match=rf"sparsity={sparsity:g} .*allowed: 0 <= sparsity <= 1"):
        Unstructured(sparsity)


def test_unstructured_names() -> None:
    """Label and slug, the slug with the sparsity."""
    pattern = Unstructured(0.5)
    assert (pattern.label, pattern.slug, pattern.sparsity) == ("unstructured", "unstructured-0.5", 0.5)


@given(GROUPS, st.integers(1, 200))
def test_a_width_is_taken_when_it_holds_whole_groups(numbers: tuple[int, int], width: int) -> None:
    """`check_width` refuses exactly the widths that M does not divide, naming the layer."""
    pattern = SemiStructured(*numbers)
    if width % pattern.group == 0:
        pattern.check_width(width, "fc1")
    else:
        with pytest.raises(UserError, match=rf"{pattern.label}.*divisible by {pattern.group}; fc1 has {width} "):
            pattern.check_width(width, "fc1")


KNOWS_N_OF_M = {"patterns.py", "pruning/numerics/masks.py", "config/build.py"}


def test_only_masks_know_n_of_m() -> None:
    """Beside the patterns, the masks and what reads the configuration, code that names N:M does so to declare which
    patterns it takes, in the body of a class.
    """
    root, named = Path(harness.__file__).parent, []
    for path in root.rglob("*.py"):
        tree = ast.parse(path.read_text())
        declared = {
            id(node)
            for body in ast.walk(tree)
            if isinstance(body, ast.ClassDef)
            for statement in body.body
            if isinstance(statement, ast.Assign | ast.AnnAssign) and "patterns" in ast.unparse(statement).split("=")[0]
            for node in ast.walk(statement)
        }
        used = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "SemiStructured"]
        if any(id(node) not in declared for node in used):
            named.append(path.relative_to(root).as_posix())
    assert set(named) == KNOWS_N_OF_M


@pytest.mark.parametrize("pattern", [Unstructured(0.3), Channels(0.3), Structured(0.3)], ids=lambda each: each.slug)
def test_other_patterns_fit_any_width(pattern: Pattern) -> None:
    """Only N:M has groups to fill."""
    for width in (1, 7, 1000):
        pattern.check_width(width, "fc1")
