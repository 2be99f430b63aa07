"""Held-out sequences share nothing with the calibration sequences, wherever these lie."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data.sequences import RandomWindows


class Letters:
    """A tokenizer of one token a character."""

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [*map(ord, text)]}


def distinct(count: int, first: int = 1000) -> str:
    """A text whose characters all differ."""
    return "".join(map(chr, range(first, first + count)))


@given(length=st.integers(30, 400), seq_len=st.integers(2, 12), taken=st.integers(1, 12), seed=st.integers(0, 99))
def test_a_stream_is_measured_between_its_calibration_windows(length: int, seq_len: int, taken: int, seed: int) -> None:
    """No token of the joined text is in both; where no stretch is left there are none, and only there."""
    text = RandomWindows([distinct(length)], Letters(), seq_len=seq_len, seed=seed, sampling="stream")
    rows, places = text.draw(taken)
    apart, apart_places = text.draw_apart(5, places)
    assert not set(rows.flat) & set(apart.flat)
    assert all(abs(one - other) >= seq_len for _, one in places for _, other in apart_places)
    used = set(rows.flat)
    free = [s for s in range(length - seq_len) if not used & set(range(1000 + s, 1000 + s + seq_len))]
    assert len(apart) == (5 if free else 0)
    assert apart.shape[1] == seq_len


@given(lengths=st.lists(st.integers(1, 30), min_size=2, max_size=9), taken=st.integers(1, 5), seed=st.integers(0, 99))
def test_documents_of_calibration_are_not_measured_on(lengths: list[int], taken: int, seed: int) -> None:
    """A document that a calibration window was taken from is out, also where the corpus holds it a second time."""
    documents = [distinct(length, 1000 * (place + 1)) for place, length in enumerate([*lengths, 9])]
    documents = [*documents, documents[0]]
    text = RandomWindows(documents, Letters(), seq_len=6, seed=seed, sampling="documents")
    _, places = text.draw(taken)
    apart, apart_places = text.draw_apart(4, places)
    used = {documents[number] for number, _ in places}
    assert not used & {documents[number] for number, _ in apart_places}
    assert len(apart) == (4 if any(len(each) > 6 for each in documents if each not in used) else 0)


@pytest.mark.parametrize("sampling", ["documents", "stream"])
def test_held_out_sequences_go_on_with_the_draw(sampling: Any) -> None:
    """Where the next windows touch nothing, they are the ones: what was measured on before stays."""
    documents = [distinct(900, 1000 * (place + 1)) for place in range(40)]

    def text() -> RandomWindows:
        return RandomWindows(documents, Letters(), seq_len=5, seed=3, sampling=sampling)

    here, all_at_once = text(), text().draw(5)[0]
    rows, places = here.draw(3)
    assert np.array_equal(np.concatenate([rows, here.draw_apart(2, places)[0]]), all_at_once)
