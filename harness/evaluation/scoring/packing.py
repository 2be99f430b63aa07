"""Which tokens to compute for a set of requests, and how to lay them out in batches. No tensor library here.

All sequences that share a beginning are merged into one *tree* (a trie of tokens): a context stands once, and so does
what the choices of a question have in common. Read in depth-first order, the tree is one packed sequence in which
token ``i`` may attend to token ``j`` exactly if ``j <= i < ends[j]``, where ``ends[j]`` is the index behind the last
descendant of ``j``. Positions are depths, so every branch sees the positions it would have alone.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Request:
    """Tokens of one request, cut from the left to what the model can hold.

    The last token of a continuation is only ever predicted, so it is no input.
    """

    inputs: tuple[int, ...]
    targets: tuple[int, ...]

    @classmethod
    def of(cls, context: Sequence[int], continuation: Sequence[int], max_length: int) -> "Request":
        """The request for `continuation` after `context`, keeping the last `max_length` inputs.

        The caller sees to it that both have a token and that the continuation fits.
        """
        assert context, "a request needs a token of context"
        assert 0 < len(continuation) <= max_length, f"{len(continuation)} tokens to score, room for {max_length}"
        whole = (*context, *continuation)[-(max_length + 1) :]
        return cls(whole[:-1], tuple(continuation))


@dataclass(frozen=True, slots=True)
class Pick:
    """The tree nodes whose predictions make up the log-likelihood of request number `request`."""

    request: int
    nodes: tuple[int, ...]
    targets: tuple[int, ...]


@dataclass(slots=True)
class Tree:
    """A packed set of sequences in depth-first order; see the module for `ends`."""

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    picks: list[Pick] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def is_chain(self) -> bool:
        """Whether it is a plain sequence: no branches, so an ordinary causal mask does."""
        return self.depths[-1] == len(self.tokens) - 1


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of trees, padded to `width` tokens; `branched` says that the mask of the module is needed."""

    width: int
    rows: tuple[tuple[Tree, ...], ...]
    branched: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """A batch spelled out: (B, L) inputs and, for the head, which of the B * L states predict what.

    `states` are the flat indices of the states that the head reads, each once, ascending. Prediction ``k`` is of
    `targets[k]` from ``states[sources[k]]`` for request `requests[k]`; `sources` ascend.
    """

    tokens: list[list[int]]
    positions: list[list[int]]
    ends: list[list[int]]
    states: list[int]
    sources: list[int]
    targets: list[int]
    requests: list[int]


def grow_trees(requests: Mapping[int, Request], small: int, largest: int) -> list[Tree]:
    """Merge the (numbered) requests into trees of shared beginnings.

    A sequence joins the tree of its neighbour in lexicographic order if at least half of it is already there and the
    tree stays within `largest` tokens, or if anything is and the tree stays within `small` (attention is quadratic in
    the width of a tree). A sequence alone may be longer than either.
    """
    order = sorted(requests, key=lambda number: requests[number].inputs)
    trees: list[Tree] = []
    path: list[int] = []  # nodes of the sequence before, from the root of the last tree
    before: tuple[int, ...] = ()
    for number in order:
        inputs = requests[number].inputs
        shared = _common_prefix(before, inputs)
        room = largest if 2 * shared >= len(inputs) else small
        if not shared or len(trees[-1]) + len(inputs) - shared > room:
            shared = 0
            path = []
            trees.append(Tree())
        _insert(trees[-1], path, shared, inputs)
        _pick(trees[-1], path, number, requests[number])
        before = inputs
    return trees


def chains(requests: Mapping[int, Request]) -> list[Tree]:
    """One tree without branches per distinct sequence of inputs: for models that take no mask of ours."""
    trees: dict[tuple[int, ...], Tree] = {}
    for number, request in requests.items():
        tree = trees.get(request.inputs)
        if tree is None:
            tree = trees[request.inputs] = Tree()
            _insert(tree, [], 0, request.inputs)
        _pick(tree, list(range(len(tree))), number, request)
    return list(trees.values())


def fill_batches(trees: Iterable[Tree], token_budget: int, *, pack: bool) -> Iterator[Batch]:
    """Batches of at most `token_budget` padded tokens (or one tree), widest first.

    With `pack` the space that is left in a row is filled with the largest trees that fit; without it a row is one tree.
    """
    waiting = sorted(trees, key=len)
    sizes = [len(tree) for tree in waiting]
    while waiting:
        width = sizes[-1]
        count = min(max(1, token_budget // width), len(waiting))
        rows = [[waiting.pop()] for _ in range(count)]
        del sizes[-count:]
        for row in rows if pack else ():
            room = width - len(row[0])
            while fit := bisect_right(sizes, room):
                room -= sizes.pop(fit - 1)
                row.append(waiting.pop(fit - 1))
        branched = any(len(row) > 1 or not row[0].is_chain for row in rows)
        yield Batch(width, tuple(map(tuple, rows)), branched)


def lay_out(batch: Batch) -> Layout:
    """Spell a batch out. A padding token is 0 and attends to itself alone, so that no row of attention is empty."""
    width = batch.width
    tokens, positions, ends = [], [], []
    picked: list[tuple[int, int, int]] = []  # state, target, request
    for index, row in enumerate(batch.rows):
        row_tokens: list[int] = []
        row_positions: list[int] = []
        row_ends: list[int] = []
        for tree in row:
            start = len(row_tokens)
            row_tokens += tree.tokens
            row_positions += tree.depths
            row_ends += [end + start for end in tree.ends]
            first = index * width + start
            for pick in tree.picks:
                picked += [
                    (first + node, target, pick.request) for node, target in zip(pick.nodes, pick.targets, strict=True)
                ]
        padding = width - len(row_tokens)
        tokens.append(row_tokens + [0] * padding)
        positions.append(row_positions + [0] * padding)
        ends.append(row_ends + list(range(width - padding + 1, width + 1)))
    picked.sort()
    states = sorted({state for state, _, _ in picked})
    rank = {state: number for number, state in enumerate(states)}
    return Layout(
        tokens=tokens,
        positions=positions,
        ends=ends,
        states=states,
        sources=[rank[state] for state, _, _ in picked],
        targets=[target for _, target, _ in picked],
        requests=[request for _, _, request in picked],
    )


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    for index, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return index
    return min(len(left), len(right))


def _insert(tree: Tree, path: list[int], shared: int, inputs: Sequence[int]) -> None:
    """Add the tokens of `inputs` behind its first `shared`, and make `path` its nodes."""
    del path[shared:]
    first = len(tree)
    added = len(inputs) - shared
    tree.tokens += inputs[shared:]
    tree.depths += range(shared, len(inputs))
    tree.ends += [first + added] * added
    for node in path:  # the ancestors now reach further
        tree.ends[node] = first + added
    path += range(first, first + added)


def _pick(tree: Tree, path: Sequence[int], number: int, request: Request) -> None:
    start = len(request.inputs) - len(request.targets)
    tree.picks.append(Pick(number, tuple(path[start:]), request.targets))
