"""Text becomes the windows and sequences of the published codes."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from harness.data.arrays import EvaluationTokens, Ids, fingerprint_array, windows
from harness.data.corpora.base import CORPORA, ArrayCorpus, TextCorpus
from harness.data.corpora.wikipedia_sample import articles
from harness.data.sequences import RandomWindows
from harness.data.sources import resolve
from harness.errors import UserError
from harness.evaluation.kinds.perplexity import WindowPerplexity


class Letters:
    """A tokenizer of one token a character, which starts every text with token 1."""

    unk_token_id = None

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [1, *map(ord, text)]}


@pytest.fixture(scope="module")
def bytes_tokenizer() -> PreTrainedTokenizerFast:
    """A real transformers tokenizer: one token a byte, <s> in front, <unk> is special."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<s>", special=True), AddedToken("<unk>", special=True)])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", unk_token="<unk>", model_max_length=8)


def evaluation_ids(text: str, corpus: str, tokenizer: Any, seq_len: int) -> EvaluationTokens:
    """A text tokenised as an evaluation of the corpus does it."""
    entry = CORPORA.get(corpus)
    assert isinstance(entry, TextCorpus)
    return entry.tokens_of(text, tokenizer, seq_len)


def load_tokens(path: Path, vocab_size: int) -> Ids:
    """Token ids of a file for a model."""
    entry = CORPORA.get("tokens")
    assert isinstance(entry, ArrayCorpus)
    return entry.token_rows(resolve("tokens", "calibration", path=path), vocab_size)


def calibration_sequences(documents: list[str], tokenizer: Any, *, num_sequences: int, **options: Any) -> Ids:
    """The first sequences of a corpus."""
    return RandomWindows(documents, tokenizer, **options).draw(num_sequences)[0]


def published_documents(documents: list[str], tokenizer: Any, count: int, seq_len: int, seed: int) -> list[list[int]]:
    """The published loader word by word, with Python's global generator."""
    random.seed(seed)
    drawn = []
    for _ in range(count):
        while True:
            i = random.randint(0, len(documents) - 1)
            ids = tokenizer(documents[i])["input_ids"]
            if len(ids) > seq_len:
                break
        i = random.randint(0, len(ids) - seq_len - 1)
        drawn.append(ids[i : i + seq_len])
    return drawn


def published_stream(documents: list[str], tokenizer: Any, count: int, seq_len: int, seed: int) -> list[list[int]]:
    """The published draw from WikiText-2 and PTB."""
    random.seed(seed)
    ids = tokenizer(" ".join(documents))["input_ids"]
    starts = [random.randint(0, len(ids) - seq_len - 1) for _ in range(count)]
    return [ids[start : start + seq_len] for start in starts]


@given(
    documents=st.lists(st.text(alphabet="abcdef ", max_size=30), min_size=1, max_size=12),
    seq_len=st.integers(2, 12),
    seed=st.integers(0, 50),
)
def test_documents_are_drawn_as_published(documents: list[str], seq_len: int, seed: int) -> None:
    """Same documents, tokenizer and seed give the published sequences, or an error where that loop never ends."""
    state = random.getstate()
    options: dict[str, Any] = {"num_sequences": 5, "seq_len": seq_len, "seed": seed, "sampling": "documents"}
    if all(len(document) + 1 <= seq_len for document in documents):
        with pytest.raises(UserError, match="no calibration document has more than seq_len"):
            calibration_sequences(documents, Letters(), **options)
        return
    ours = calibration_sequences(documents, Letters(), **options)
    assert random.getstate() == state
    assert ours.dtype == np.int64
    assert ours.tolist() == published_documents(documents, Letters(), 5, seq_len, seed)


@given(seq_len=st.integers(2, 12), seed=st.integers(0, 50))
def test_streams_are_drawn_as_published(seq_len: int, seed: int) -> None:
    """WikiText-2 and PTB: windows of the joined text."""
    documents = ["no it was", "", "black monday"]
    ours = calibration_sequences(documents, Letters(), num_sequences=4, seq_len=seq_len, seed=seed, sampling="stream")
    assert ours.tolist() == published_stream(documents, Letters(), 4, seq_len, seed)


def test_a_stream_of_one_window_is_too_short() -> None:
    """The stream must be strictly longer than a sequence, as the published randint demands."""
    options: dict[str, Any] = {"num_sequences": 1, "seed": 0, "sampling": "stream"}
    assert calibration_sequences(["abc"], Letters(), seq_len=3, **options).tolist() == [[1, *map(ord, "ab")]]
    with pytest.raises(UserError, match=r"has 4 tokens; allowed: calibration\.seq_len < 4"):
        calibration_sequences(["abc"], Letters(), seq_len=4, **options)


@pytest.mark.parametrize("sampling", ["documents", "stream"])
def test_a_model_without_tokenizer_cannot_use_text(sampling: Any) -> None:
    """The error names the way out: token arrays."""
    with pytest.raises(UserError, match="no tokenizer"):
        calibration_sequences(["abc"], None, num_sequences=1, seq_len=2, seed=0, sampling=sampling)
    with pytest.raises(UserError, match="no tokenizer"):
        evaluation_ids("abc", "wikitext2", None, 2)


def test_ptb_reads_unk_as_text_and_ptb_unk_as_a_token(bytes_tokenizer: PreTrainedTokenizerFast) -> None:
    """One text, two protocols; the tokenizer is left as it was, and BOS comes once in both."""
    text = "no <unk> monday <unk>"
    for _ in range(2):
        as_text = evaluation_ids(text, "ptb", bytes_tokenizer, 4)
        as_token = evaluation_ids(text, "ptb_unk", bytes_tokenizer, 4)
        assert (as_text.num_unk, as_token.num_unk) == (0, 2)
        assert (len(as_text.ids), len(as_token.ids)) == (1 + len(text), 1 + len(text) - 8)
        assert as_text.ids[0] == as_token.ids[0] == 256
        assert (as_text.ids == 256).sum() == 1


def test_a_long_text_gives_no_warning(
    bytes_tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    """The corpus is longer than the model's window by intent; transformers' warning about it is kept back."""
    evaluation_ids("x" * 100, "wikitext2", bytes_tokenizer, 4)
    assert caplog.text == ""


def test_c4_keeps_256_windows() -> None:
    """The published code cuts C4 to 256 windows before it counts them."""
    ids = evaluation_ids("x" * 2000, "c4", Letters(), 4).ids
    assert windows(ids, 4).shape == (256, 4)
    assert len(evaluation_ids("x" * 2000, "wikitext2", Letters(), 4).ids) == 2001


@given(count=st.integers(0, 40), seq_len=st.integers(2, 10), most=st.none() | st.integers(1, 5))
def test_windows_follow_each_other(count: int, seq_len: int, most: int | None) -> None:
    """Windows do not overlap, leave nothing out but the tail, and stop at max_windows."""
    ids = np.arange(count, dtype=np.int64)
    if count < seq_len:
        with pytest.raises(UserError, match=f"{count} tokens, less than one window of seq_len={seq_len}"):
            windows(ids, seq_len, most)
        return
    cut = windows(ids, seq_len, most)
    whole = count // seq_len
    assert cut.shape == (whole if most is None else min(whole, most), seq_len)
    assert cut.flatten().tolist() == list(range(cut.size))


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array([[0, 1], [2, 50]]), "token id 50; allowed: 0 to 49"),
        (np.array([[0, -1]]), "token id -1; allowed: 0 to 49"),
        (np.zeros((1, 1, 1), dtype=int), "3 dimensions; allowed: an integer array"),
        (np.array([[0.0, 1.0]]), "float64"),
        (np.zeros((0, 4), dtype=int), "empty array"),
    ],
)
def test_wrong_token_arrays_are_refused(tmp_path: Path, array: Any, said: str) -> None:
    """The line holds the value and what is allowed."""
    np.save(tmp_path / "ids.npy", array)
    with pytest.raises(UserError, match=said):
        load_tokens(tmp_path / "ids.npy", vocab_size=50)


def test_files_that_are_no_arrays_are_refused(tmp_path: Path) -> None:
    """Missing files, other formats, and pickles, which could run code."""
    with pytest.raises(UserError, match="does not exist"):
        load_tokens(tmp_path / "none.npy", 50)
    (tmp_path / "text.npy").write_text("hello")
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "many.npz", a=np.arange(3))
    for name in ("text.npy", "pickle.npy", "many.npz"):
        with pytest.raises(UserError, match=name):
            load_tokens(tmp_path / name, 50)


def test_fingerprints_tell_content_and_shape_only(tmp_path: Path) -> None:
    """The integer type does not matter, the ids and the shape do."""
    array = np.array([[1, 2, 3], [4, 5, 6]])
    np.save(tmp_path / "ids.npy", array.astype(">u2"))
    same = load_tokens(tmp_path / "ids.npy", 50)
    assert same.dtype == np.int64
    assert fingerprint_array(same) == fingerprint_array(array)
    assert fingerprint_array(array.reshape(3, 2)) != fingerprint_array(array)
    assert fingerprint_array(array + 1) != fingerprint_array(array)


def test_wikipedia_articles_lose_tags_and_titles() -> None:
    """An article is its body; one that has none is left out."""
    dump = '<doc id="1" title="A">\nA\n\nBody of a.\nMore.\n\n</doc>\n<doc id="2" title="B">\nB\n\n</doc>\n'
    assert articles(dump) == ["Body of a.\nMore."]


def test_any_text_is_measured_on_as_it_is(tmp_path: Path) -> None:
    """Line feeds stay; what tells it from other texts is its content and no place; without a file it says so."""
    text = "A line.\n\n  Another one; é.\n"
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text(text)
    (tmp_path / "rows.jsonl").write_text('{"text": "A line."}\n{"text": "Another."}\n')
    names = ("one.txt", "two.txt", "rows.jsonl")
    one, two, rows = (resolve("text", "evaluation", path=tmp_path / name) for name in names)
    corpus = CORPORA.get("text")
    assert isinstance(corpus, TextCorpus)
    assert corpus.evaluation_text(one) == text.removesuffix("\n")
    assert corpus.evaluation_text(rows) == "A line.\nAnother."
    assert one.identity == two.identity != rows.identity
    assert one.unpublished == one.identity
    keys = [WindowPerplexity(corpora=("text",)).ask(lambda _, ref=ref: ref)[0][0].key for ref in (one, two, rows)]
    assert keys[0] == keys[1] != keys[2]
    with pytest.raises(UserError, match=r"evaluation on text needs the path of a file; allowed: data.text=FILE"):
        resolve("text", "evaluation")
