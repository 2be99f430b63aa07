"""EvoPress for depth: an evolution of which blocks are gone.  Sieberling et al. 2024, https://arxiv.org/abs/2410.14649

A candidate is a set of blocks that are gone, always equally many.  From the best of random ones, every generation makes
offspring, in which up to three blocks have changed places with blocks that are gone; they are measured on few random
windows, and the best of them, with their parent, on more; the best one survives.  The draws are those of
https://github.com/IST-DASLab/EvoPress (`evo_drop_search.py` with `--drop_entire_block`), which measures by perplexity
or by the divergence from the dense model: here it is the loss, which ranks as perplexity does.

Other than the published code: tokens are at most those that are held out (there the search would not end), and
`trial_tokens` may end it before its last generation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import comb
from random import Random
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from harness.errors import UserError
from harness.job import Count
from harness.pruning.methods.base import METHODS
from harness.pruning.methods.whole_model import DepthMethod

if TYPE_CHECKING:
    import torch

    from harness.blocks.trial import SampledTrials
    from harness.pruning.context import PruningContext

Flags = tuple[bool, ...]
"""Whether each block is gone."""
MOST_FLIPS = 3
LONG_FLOP = 1e14
"""Operations that are worth a warning."""


@METHODS.register("evopress-depth")
@dataclass(frozen=True, slots=True)
class EvoPressDepth(DepthMethod):
    """Keeps the set of blocks that survives.

    Args:
        offspring: candidates of a generation, >= 1.
        initial: random candidates in the beginning, >= 1.
        initial_tokens: that they are measured on, >= 1.
        survivors: of the first selection of a generation, >= 1; of the second one survives.
        first_tokens: that the first selection measures on, >= 1.
        last_tokens: that the second one does.
        generations: None = gone x left / 1.5 in numbers of blocks, the published number.
        trial_tokens: the most that candidates are measured on in all, >= 1; None = all generations.
        held_out: sequences that windows are drawn from, >= 1.
        seed: of the draws, >= 0.  The job's, unless it is given.
    """

    offspring: Count = 32
    initial: Count = 64
    initial_tokens: Count = 2048
    survivors: Count = 2
    first_tokens: Count = 2048
    last_tokens: Count = 32768
    generations: Count | None = None
    trial_tokens: Count | None = None
    held_out: Count = 64
    seed: Annotated[int, Field(ge=0)] = 0

    def warning(self, shapes: Mapping[str, tuple[int, int]], device: torch.device) -> str | None:
        from harness.pruning.numerics.speed import seconds_per_flop

        blocks = len({re.findall(r"(?:^|\.)(\d+)\.", name)[0] for name in shapes})
        generations = self.generations or int(blocks**2 / 4 / 1.5)
        tokens = self.initial * self.initial_tokens + generations * self._of_generation
        tokens = tokens if self.trial_tokens is None else min(tokens, self.trial_tokens)
        flop = 2 * tokens * sum(rows * columns for rows, columns in shapes.values())
        if flop < LONG_FLOP:
            return None
        return (
            f"method=evopress-depth measures candidates on up to {tokens:,} tokens: at most "
            f"{flop * seconds_per_flop(device) / 3600:.1f} hours on {device.type}, from a short trial; "
            "method.trial_tokens ends it earlier"
        )

    @property
    def _of_generation(self) -> int:
        return self.offspring * self.first_tokens + (self.survivors + 1) * self.last_tokens

    def removals(self, context: PruningContext, count: int) -> tuple[list[int], list[str]]:
        from harness.blocks.layers import decoder_blocks
        from harness.blocks.trial import SampledTrials

        trials = context.held_out(self.held_out)
        if not isinstance(trials, SampledTrials):
            raise UserError("method=evopress-depth draws windows of text; allowed: language models")
        blocks = len(decoder_blocks(context.model)[1])
        generations = self.generations or max(1, int(count * (blocks - count) / 1.5))
        search = _Search(self, trials, blocks, count)
        context.reporter.start("prune: evolution, generations", generations)
        with context.clock("prune"):
            best, loss = search.first()
            done = 0
            while done < generations and self._has_tokens_after(search.spent):
                best, loss = search.next_generation(best)
                done += 1
                context.reporter.advance()
        said = f"{done} of {generations} generations, {search.spent:,} tokens of candidates, the last loss {loss:.4g}"
        return [index for index, gone in enumerate(best) if gone], [said]

    def _has_tokens_after(self, spent: int) -> bool:
        return self.trial_tokens is None or spent + self._of_generation <= self.trial_tokens


@dataclass(slots=True)
class _Search:
    """The evolution, draw by draw as published: attention and MLP move apart, and a block has its attention's fate."""

    method: EvoPressDepth
    trials: SampledTrials
    blocks: int
    count: int
    spent: int = 0
    random: Random = field(init=False)

    def __post_init__(self) -> None:
        self.random = Random(self.method.seed)

    def first(self) -> tuple[Flags, float]:
        """The best of random candidates."""
        made: list[Flags] = []
        most = self._different()
        while len(made) < min(self.method.initial, most):
            gone = self.random.sample(range(self.blocks), self.count)
            self.random.sample(range(self.blocks), self.count)  # of the MLPs, which follow the attention
            flags = tuple(index in gone for index in range(self.blocks))
            if flags not in made:
                made.append(flags)
        return self._best(made, 1, self.method.initial_tokens)[0]

    def next_generation(self, parent: Flags) -> tuple[Flags, float]:
        """The survivor of its offspring and itself."""
        made: list[Flags] = []
        while len(made) < min(self.method.offspring, self._different() - 1):
            child = self._child(self.random.choice([parent]))
            if child not in made and child != parent:
                made.append(child)
        kept = [flags for flags, _ in self._best(made, self.method.survivors, self.method.first_tokens)]
        return self._best([*kept, parent], 1, self.method.last_tokens)[0]

    def _different(self) -> int:
        return comb(self.blocks, self.count)

    def _child(self, parent: Flags) -> Flags:
        states = [list(parent), list(parent)]
        for _ in range(min(self.random.randint(1, MOST_FLIPS), self.random.randint(1, MOST_FLIPS))):
            state = states[self.random.randint(0, 1)]
            goes, comes = self._drawn(state, gone=False), self._drawn(state, gone=True)
            state[goes], state[comes] = True, False
        return tuple(states[0])

    def _drawn(self, state: Sequence[bool], *, gone: bool) -> int:
        while state[index := self.random.randint(0, self.blocks - 1)] != gone:
            pass
        return index

    def _best(self, candidates: Sequence[Flags], count: int, tokens: int) -> list[tuple[Flags, float]]:
        """The `count` candidates of the least loss on random windows of so many tokens, with it; first of equals."""
        from harness.blocks.trial import Skipped

        windows, length = self.trials.shape
        tokens = min(tokens, windows * length)
        drawn: list[int] = []
        while len(drawn) * length < tokens:
            if (number := self.random.randint(0, windows - 1)) not in drawn:
                drawn.append(number)
        loss = self.trials.on(drawn, tokens)
        self.spent += tokens * len(candidates)
        found = [(flags, loss({index: Skipped() for index, gone in enumerate(flags) if gone})) for flags in candidates]
        return sorted(found, key=lambda one: one[1])[:count]
