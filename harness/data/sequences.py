"""Sequences drawn from text as SparseGPT and Wanda draw them to calibrate, and held-out ones that share none of it."""

import random
from collections.abc import Sequence
from functools import cache, cached_property

import numpy as np

from harness.data.arrays import Ids, Tokenizer, tokenise
from harness.data.places import Role
from harness.errors import UserError
from harness.job import Sampling

Place = tuple[int, int]
"""Where a sequence begins: its document's index (0 of a stream) and its first token in there."""


class RandomWindows:
    """Random windows of a corpus, one after the other from one seed.

    ``documents``: draw documents until one has more than `seq_len` tokens, then a window of it; repeat.
    ``stream``: join all documents with a blank, tokenise once, draw windows.

    Args:
        role: what they are for, as errors say it.

    Raises:
        UserError: no tokenizer, or no document (or stream) is long enough.
    """

    def __init__(
        self,
        documents: Sequence[str],
        tokenizer: Tokenizer | None,
        *,
        seq_len: int,
        seed: int,
        sampling: Sampling,
        role: Role = "calibration",
    ) -> None:
        assert sampling in ("documents", "stream"), f"{sampling} sequences are not drawn from text"
        self._is_stream = sampling == "stream"
        self._documents = [" ".join(documents)] if self._is_stream else documents
        self._tokenizer, self._role = tokenizer, role
        self._seq_len = seq_len
        self._random = random.Random(seed)  # the published codes seed Python's global generator: the same numbers
        self._tokens = cache(self._tokenise) if self._is_stream else self._tokenise
        self._length = cache(lambda number: len(self._tokens(number)))

    def draw(self, count: int) -> tuple[Ids, list[Place]]:
        """The next `count` sequences, [sequences, seq_len], and where each begins; one may come twice."""
        places = [self._place() for _ in range(count)]
        return self._windows(places), places

    def draw_apart(self, count: int, taken: Sequence[Place]) -> tuple[Ids, list[Place]]:
        """The next `count` sequences of what no sequence at `taken` touches: other documents, or stretches between.

        The draw goes on as `draw` would and passes over what is touched.  Nothing is returned where nothing is left.
        """
        starts = np.array(sorted({start for _, start in taken}))
        texts = {self._documents[number] for number, _ in taken}  # a corpus may hold a document twice

        def is_apart(place: Place) -> bool:
            if self._is_stream:
                return bool((abs(starts - place[1]) >= self._seq_len).all())
            return self._documents[place[0]] not in texts

        if not count or not self._leaves(starts, texts):
            return np.empty((0, self._seq_len), dtype=np.int64), []
        places: list[Place] = []
        while len(places) < count:
            if is_apart(place := self._place()):
                places.append(place)
        return self._windows(places), places

    def _leaves(self, starts: Ids, texts: set[str]) -> bool:
        """Whether some window touches nothing of what is taken."""
        if self._is_stream:
            last = self._length(0) - self._seq_len  # starts are drawn below it, as published
            edges = np.concatenate([[-self._seq_len], starts, [last - 1 + self._seq_len]])
            return bool((np.diff(edges) >= 2 * self._seq_len).any())
        fresh = (number for number, text in enumerate(self._documents) if text not in texts)
        return any(self._length(number) > self._seq_len for number in fresh)

    def _place(self) -> Place:
        """The next place in the published order of random numbers."""
        while True:
            number = 0 if self._is_stream else self._random.randint(0, len(self._documents) - 1)
            if self._length(number) > self._seq_len:
                return number, self._random.randint(0, self._length(number) - self._seq_len - 1)
            if not self._any_is_long:  # the published loop would never end
                raise self._too_short()

    @cached_property
    def _any_is_long(self) -> bool:
        return any(self._length(number) > self._seq_len for number in range(len(self._documents)))

    def _too_short(self) -> UserError:
        longest = max(map(self._length, range(len(self._documents))))
        if self._is_stream:
            return UserError(f"the {self._role} text has {longest} tokens; allowed: {self._role}.seq_len < {longest}")
        return UserError(
            f"no {self._role} document has more than seq_len={self._seq_len} tokens (the longest has {longest}); "
            f"choose {self._role}.seq_len < {longest}, or {self._role}.sampling=stream"
        )

    def _windows(self, places: Sequence[Place]) -> Ids:
        return np.stack([self._tokens(number)[start : start + self._seq_len] for number, start in places])

    def _tokenise(self, number: int) -> Ids:
        return tokenise(self._documents[number], self._tokenizer, f"text {self._role}")
