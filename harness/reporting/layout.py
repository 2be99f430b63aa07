"""A table before it is rendered: cells keep the numbers and where the published ones come from."""

import math
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from harness.reporting.published import PublishedRow

DASH = "–"
"""What a table shows where there is no value."""

Order = Literal["measured first", "published first"]

METRIC_NAMES = {
    "perplexity": "ppl",
    "word_perplexity": "word ppl",
    "acc_mixed": "acc/acc_norm mixed",
    "retained_performance": "retained",
    "prefill_speedup": "prefill",
    "decode_speedup": "decode",
    "prefill_speedup_2_4": "prefill as 2:4",
    "decode_speedup_2_4": "decode as 2:4",
}
"""Short names of metrics where the field's own is long; a mean over mixed metrics says so."""

SPEEDUPS = frozenset({"prefill_speedup", "decode_speedup", "prefill_speedup_2_4", "decode_speedup_2_4"})
UNITS = {
    "perplexity": "ppl",
    "word_perplexity": "word_ppl",
    "acc": "%",
    "acc_norm": "%",
    "exact_match": "%",
    "exact_match_flexible": "%",
    "kl": "nats",
    "agreement": "%",
    "bits_per_byte": "bits",
}
UNITS |= dict.fromkeys(SPEEDUPS, "× dense")
VERDICTS = {True: "≈", False: "≠", None: ""}
"""Signs after a difference: inside the tolerance known for the protocol, outside of it, none known."""

LOWER_IS_BETTER = frozenset({"perplexity", "word_perplexity", "latency", "prune_time"})


@dataclass(frozen=True, slots=True)
class Cell:
    """A label (`text`), or a number that was measured, published, or both.

    Args:
        measured, stderr: in the column's unit; None when nothing was measured.
        published: the published number with its source.
        marks: footnote signs of the label or of the measured number.
        interval: half width of the 95 % interval of a mean, in the column's unit.
        samples: how many values a mean is over; None when `measured` is no mean.
        inside: whether the difference lies inside the tolerance known for the protocol; None when none is known.
        distance: to the dense model's number; kept: of the dense model, 0 to 1: its share of the accuracy, or of the
            probability of a token (its geometric mean, 1 / perplexity or exp of -KL); None without a dense model.
        rank, published_rank: 1 for the best number of its group in the column, 2 for the second best, else 0.
    """

    text: str = ""
    measured: float | None = None
    stderr: float | None = None
    published: PublishedRow | None = None
    marks: str = ""
    interval: float | None = None
    samples: int | None = None
    inside: bool | None = None
    distance: float | None = None
    kept: float | None = None
    rank: int = 0
    published_rank: int = 0

    @property
    def difference(self) -> float | None:
        """Measured minus published, in the column's unit."""
        if self.measured is None or self.published is None:
            return None
        return self.measured - self.published.value

    @property
    def beside(self) -> tuple[str, str]:
        """The published number, ``?`` where nobody has checked it, and the difference to it with its verdict."""
        if self.published is None:
            return "", ""
        unsure = "?" if self.published.status == "unverified" else ""
        difference = DASH if self.difference is None else signed(self.difference)
        return self.published.text + unsure, difference + VERDICTS[self.inside]

    def written(self, order: Order) -> str:
        """The cell as people read it: `36.91`, `36.91 (36.85, +0.06)`, `36.85 / 36.91 / +0.06`, or a dash."""
        return "".join(text for text, _ in self.parts(order))

    def parts(self, order: Order) -> tuple[tuple[str, int], ...]:
        """What `written` joins, each part with its rank: 1 is to stand out most, 2 less, 0 not."""
        if self.text or (self.measured is None and self.published is None):
            return (((self.text or DASH) + self.marks, 0),)
        measured = (DASH if self.measured is None else number(self.measured), self.rank)
        interval = "" if self.interval is None else f" ±{number(self.interval)}"  # ` ±0.12 (n=5)`
        after = interval + ("" if self.samples is None else f" (n={self.samples})") + self.marks
        if self.published is None:
            return (measured, (after, 0)) if after else (measured,)
        printed, difference = self.beside
        published = (printed, self.published_rank)
        if order == "measured first":
            return (measured, (f"{after} (", 0), published, (f", {difference})", 0))
        return (published, (" / ", 0), measured, (f"{after} / {difference}", 0))


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Args:
        header: corpus or task, metric, window length, subset: everything that tells two protocols apart.
        key: protocol key and metric for machines; empty for a label column.
        unit: of the numbers, empty for a label column.
        higher_is_better: direction, None for a label column.
        tells: whether a label tells rows apart; False for one that only describes them.
        setting: whether a label is of a job's setting: a terminal tells these in one column.
    """

    header: str
    key: str = ""
    unit: str = ""
    higher_is_better: bool | None = None
    tells: bool = True
    setting: bool = False

    @property
    def is_label(self) -> bool:
        return not self.unit

    @property
    def title(self) -> str:
        """The header with its direction."""
        arrows = {True: " ↑", False: " ↓", None: ""}
        return self.header + arrows[self.higher_is_better]


@dataclass(frozen=True, slots=True)
class Table:
    """Title, columns, rows of as many cells, footnotes; `order` says which number of a pair is written first."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    footnotes: tuple[str, ...] = ()
    order: Order = "measured first"

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.columns), f"a row of {len(row)} cells under {len(self.columns)} columns"

    def marked(self, escape: Callable[[str], str], ranks: Mapping[int, str]) -> Iterator[list[str]]:
        """The cells of every row as escaped text, each part within the template of its rank."""
        for row in self.rows:
            yield ["".join(ranks[rank].format(escape(text)) for text, rank in cell.parts(self.order)) for cell in row]


def number(value: float) -> str:
    """A number as the papers print it: two decimals, from 1e4 on scientific as in `1.23e4`."""
    if not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < 1e4:
        return f"{value:.2f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def signed(value: float) -> str:
    """A difference with its sign; exactly nothing is +0.00."""
    text = number(value)
    return text if text.startswith("-") else f"+{text}"


def percent(fraction: float) -> str:
    """0.5 -> 50%, 0.176542 -> 17.65%."""
    return f"{round(100 * fraction, 2):g}%"


def metric_header(task: str, metric: str, unit: str, seq_len: int | None) -> str:
    """For example ``wikitext2 ppl @2048`` or ``boolq acc %``."""
    parts = [task, METRIC_NAMES.get(metric, metric)]
    parts += [f"@{seq_len}"] if seq_len else []
    parts += [unit] if unit not in ("ppl", "word_ppl") else []
    return " ".join(parts)


def clean(text: str) -> str:
    """One line without control, format (bidirectional), surrogate or unassigned characters; each becomes a blank."""
    if text.isascii() and text.isprintable():  # nearly always: a table of thousands of jobs is cleaned cell by cell
        return text
    return "".join(" " if unicodedata.category(character)[0] in "CZ" else character for character in text)


def json_number(value: float | None) -> float | str | None:
    """JSON has no infinity: it is the string that records use."""
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def rounded(value: float | None, digits: int) -> float | str | None:
    """As `json_number`, to so many significant digits."""
    return json_number(value if value is None else float(f"{value:.{digits}g}"))
