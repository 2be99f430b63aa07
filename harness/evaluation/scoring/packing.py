"""Which tokens to compute for a set of requests, and how to lay them out in batches. No tensor library here.

All sequences that share a beginning are merged into one *tree* (a trie of tokens): a context stands once, and so does
what the choices of a question have in common. Read in depth-first order, the tree is one packed sequence in which
token ``i`` may attend to token ``j`` exactly if ``j <= i < ends[j]``, where ``ends[j]`` is the index behind the last
descendant of ``j``. Positions are depths, so every branch sees the positions it would have alone.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat, takewhile


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


@dataclass(slots=True)
class Tree:
    """A packed set of sequences in depth-first order; see the module for `ends`.

    `picks` says which nodes predict what: node, target token and number of the request.
    """

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    picks: list[tuple[int, int, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def is_chain(self) -> bool:
        """Whether it is a plain sequence: no branches, so an ordinary causal mask does."""
        return self.depths[-1] == len(self.tokens) - 1


Rows = list[list[Tree]]
"""A batch: the trees that every row holds."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A batch spelled out: (B, L) inputs and, for the head, which of the B * L states predict what.

    `states` are the flat indices of the states that the head reads, each once, ascending. Prediction ``k`` is of
    `targets[k]` from ``states[sources[k]]`` for request `requests[k]`; `sources` ascend.  Where it is `branched`, the
    mask and positions of the module are needed, else the model's own causal ones do.
    """

    tokens: list[list[int]]
    positions: list[list[int]]
    ends: list[list[int]]
    states: list[int]
    sources: list[int]
    targets: list[int]
    requests: list[int]
    branched: bool


def grow_trees(requests: Mapping[int, Request], small: int, largest: int, longest: int = 0) -> list[Tree]:
    """Merge the (numbered) requests into trees of shared beginnings.

    A sequence joins the tree of its neighbour in lexicographic order if all of it is already there, if at least half of
    it is and the tree stays within `largest` tokens, or if anything is and the tree stays within `small` (attention is
    quadratic in the width of a tree). Behind a long beginning, as examples are, a tree may be twice as long as that, up
    to `longest`. A sequence alone may be longer than any; with 0 everywhere no tree has branches.
    """
    trees: list[Tree] = []
    path: list[int] = []  # nodes of the sequence before, from the root of the last tree
    before: tuple[int, ...] = ()
    for number in sorted(requests, key=lambda number: requests[number].inputs):
        inputs, targets = requests[number].inputs, requests[number].targets
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, inputs, strict=False)))
        room = max(largest, min(longest, 2 * shared)) if 2 * shared >= len(inputs) else small
        if not shared or (shared < len(inputs) and len(trees[-1]) + len(inputs) - shared > room):
            shared = 0
            trees.append(Tree())
        tree = trees[-1]
        first, end = len(tree), len(tree) + len(inputs) - shared
        tree.tokens += inputs[shared:]
        tree.depths += range(shared, len(inputs))
        tree.ends += [end] * (end - first)
        path = [*path[:shared], *range(first, end)]
        for node in path[:shared]:  # the ancestors now reach further
            tree.ends[node] = end
        tree.picks += zip(path[-len(targets) :], targets, repeat(number))
        before = inputs
    return trees


def chains(requests: Mapping[int, Request]) -> list[Tree]:
    """A tree without branches for each distinct sequence, as they are asked: for models that take no mask of ours."""
    return sorted(grow_trees(requests, 0, 0), key=lambda tree: tree.picks[0][2])


def fill_batches(trees: Iterable[Tree], token_budget: int, *, pack: bool) -> Iterator[Rows]:
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
        yield rows


def lay_out(rows: Rows) -> Layout:
    """Spell a batch out. A padding token is 0 and attends to itself alone, so that no row of attention is empty."""
    width = max(sum(map(len, row)) for row in rows)
    tokens, positions, ends = [], [], []
    picked: list[tuple[int, int, int]] = []  # state, target, request
    for index, row in enumerate(rows):
        row_tokens: list[int] = []
        row_positions: list[int] = []
        row_ends: list[int] = []
        for tree in row:
            start = len(row_tokens)
            row_tokens += tree.tokens
            row_positions += tree.depths
            row_ends += [end + start for end in tree.ends]
            picked += [(index * width + start + node, target, request) for node, target, request in tree.picks]
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
        branched=any(len(row) > 1 or not row[0].is_chain for row in rows),
    )
