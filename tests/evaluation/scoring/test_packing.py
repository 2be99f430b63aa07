"""Packed plans hold every request exactly: its tokens, its positions, its mask, its predictions, each once."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from harness.evaluation.scoring.packing import Layout, Request, Tree, chains, fill_batches, grow_trees, lay_out

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=9)  # few tokens: many shared beginnings
REQUESTS = st.lists(st.builds(Request.of, TOKENS, TOKENS, st.integers(9, 12)), min_size=1, max_size=25)


def seen(layout: Layout, state: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens and positions that a state attends to under the layout's mask, in order."""
    row, query = divmod(state, len(layout.tokens[0]))
    keys = [key for key in range(query + 1) if query < layout.ends[row][key]]
    return tuple(layout.tokens[row][key] for key in keys), tuple(layout.positions[row][key] for key in keys)


def check(requests: list[Request], trees: list[Tree], budget: int, pack: bool) -> None:
    """Every prediction of every request is read off a state that sees the request's tokens before it, no others."""
    wanted = Counter(
        (number, request.inputs[: len(request.inputs) - len(request.targets) + index + 1], target)
        for number, request in enumerate(requests)
        for index, target in enumerate(request.targets)
    )
    found: Counter[tuple[int, tuple[int, ...], int]] = Counter()
    for rows in fill_batches(trees, budget, pack=pack):
        layout = lay_out(rows)
        assert len(layout.tokens[0]) * len(rows) <= budget or len(rows) == 1
        assert layout.states == sorted(set(layout.states))
        assert layout.sources == sorted(layout.sources)
        if not layout.branched:
            assert all(positions[0] == 0 for positions in layout.positions)
            assert all(len(row) == 1 and row[0].is_chain for row in rows)
        for source, target, request in zip(layout.sources, layout.targets, layout.requests, strict=True):
            tokens, positions = seen(layout, layout.states[source])
            assert positions == tuple(range(len(tokens)))
            found[request, tokens, target] += 1
    assert found == wanted


@given(REQUESTS, st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(1, 60))
def test_trees_hold_every_request_as_if_it_were_alone(
    requests: list[Request], small: int, largest: int, longest: int, budget: int
) -> None:
    """Under the mask, each predicting state of a tree sees its own sequence from position 0, and nothing else."""
    trees = grow_trees(dict(enumerate(requests)), small, largest, longest)
    assert all(len(tree) <= max(small, largest, longest) or tree.is_chain for tree in trees)
    check(requests, trees, budget, pack=True)


@given(REQUESTS, st.integers(1, 60))
def test_plain_rows_hold_every_request(requests: list[Request], budget: int) -> None:
    """Without trees a row is one sequence, each stands once, and no mask is needed."""
    trees = chains(dict(enumerate(requests)))
    assert len(trees) == len({request.inputs for request in requests})
    assert not any(lay_out(rows).branched for rows in fill_batches(trees, budget, pack=False))
    check(requests, trees, budget, pack=False)


def test_a_shared_context_is_computed_once() -> None:
    """Four choices behind a context of six tokens: six, and the choices without their last tokens and shared stem."""
    context = [1, 2, 3, 4, 5, 6]
    choices = [[7, 8, 9], [7, 8, 10, 11], [12], [13, 14]]
    requests = {number: Request.of(context, choice, 100) for number, choice in enumerate(choices)}
    (tree,) = grow_trees(requests, 0, 2048)
    assert len(tree) == 6 + len([7, 8, 10, 13])
    assert not tree.is_chain


def test_one_token_choices_are_read_off_one_row() -> None:
    """Yes and no after a passage cost the passage, one head row, and no mask."""
    requests = {number: Request.of([1, 2, 3], [answer], 100) for number, answer in enumerate((4, 5))}
    (rows,) = fill_batches(grow_trees(requests, 0, 2048), 2048, pack=True)
    layout = lay_out(rows)
    assert (layout.tokens, layout.states, layout.sources, layout.targets) == ([[1, 2, 3]], [2], [0, 0], [4, 5])
    assert not layout.branched


def test_questions_that_share_little_stay_apart_beyond_the_limit() -> None:
    """A shared first word merges two questions only while the tree stays small."""
    requests = {0: Request.of([1, 2, 3, 4], [5], 100), 1: Request.of([1, 6, 7, 8], [5], 100)}
    assert [len(tree) for tree in grow_trees(requests, 7, 2048)] == [7]
    assert [len(tree) for tree in grow_trees(requests, 6, 2048)] == [4, 4]


def test_a_long_shared_prompt_does_not_grow_one_endless_tree() -> None:
    """Questions behind the same examples share them as far as the largest tree reaches, or twice their length does."""
    prompt = list(range(100))
    requests = {number: Request.of([*prompt, 200 + number], [1], 1000) for number in range(50)}
    assert [len(tree) for tree in grow_trees(requests, 0, 120)] == [120, 120, 110]
    assert [len(tree) for tree in grow_trees(requests, 0, 120, 130)] == [130, 120]
    assert [len(tree) for tree in grow_trees(requests, 0, 0, 1000)] == [150]
    requests[50] = Request.of(prompt * 2, [1], 1000)
    assert [len(tree) for tree in grow_trees(requests, 0, 0, 1000)] == [200, 150]


def test_rows_are_filled_with_smaller_trees() -> None:
    """Rows of 9 and 8 leave a gap of one that a tree of one fills."""
    lengths = [9, 8, 5, 4, 1]
    requests = {
        number: Request.of([10 * number + offset for offset in range(length)], [0], 100)
        for number, length in enumerate(lengths)
    }
    batches = list(fill_batches(grow_trees(requests, 0, 2048), 27, pack=True))
    assert [[[len(tree) for tree in row] for row in rows] for rows in batches] == [[[9], [8, 1], [5, 4]]]


def test_a_request_too_long_loses_its_beginning() -> None:
    """The last `max_length` inputs stay, as in lm-eval: the continuation is whole."""
    request = Request.of([1, 2, 3, 4], [5, 6], max_length=3)
    assert request == Request(inputs=(3, 4, 5), targets=(5, 6))
