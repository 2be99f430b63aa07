"""Tables as LaTeX (booktabs): as large as they can be read, over several pages where they are long."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

from harness.reporting.formats.base import FORMATS, in_parts
from harness.reporting.layout import DASH, Table, clean

PACKAGES = ("array", "booktabs", "longtable", "pdflscape")
"""What the written tables use; besides, UTF-8 input and T1 fonts (``\\usepackage[T1]{fontenc}``)."""

PAGE_PT = {"portrait": 455.0, "landscape": 700.0}
"""Width of the text on A4 with margins of 25 mm, in points."""

SIZES = (("small", 4.8), ("footnotesize", 4.4), ("scriptsize", 4.0))
"""Sizes to try, with the width of a character in points: Computer Modern's figures are 0.5 em, letters less."""

COLUMN_PT = 9.0
COLUMN_SPACE = rf"\setlength{{\tabcolsep}}{{{COLUMN_PT / 2}pt}}"
"""Space beside a column, on both sides."""

LONGEST_LABEL = 40
"""Characters of a label's line; longer ones become paragraphs."""

FLOATING_ROWS = 40
"""A table of more rows than that does not fit a page and becomes a longtable."""

_COMMANDS = {
    **{"\\": "textbackslash", "~": "textasciitilde", "^": "textasciicircum", "`": "textasciigrave", "†": "dag"},
    **{"<": "textless", ">": "textgreater", "|": "textbar", '"': "textquotedbl", "'": "textquotesingle", "‡": "ddag"},
    **{"…": "dots", "²": "texttwosuperior", "³": "textthreesuperior", "§": "S", "¶": "P"},
}
_MATHEMATICS = {
    **{"×": "times", "·": "cdot", "±": "pm", "≈": "approx", "≠": "neq", "≤": "leq", "≥": "geq", "∞": "infty"},
    **{"α": "alpha", "β": "beta", "λ": "lambda", "μ": "mu", "σ": "sigma"},
    **{"↑": "uparrow", "↓": "downarrow", "→": "rightarrow"},
}
TEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "{}&%$#_"},
        **{sign: f"\\{name}{{}}" for sign, name in _COMMANDS.items()},
        **{sign: f"$\\{name}$" for sign, name in _MATHEMATICS.items()},
        **{sign: f"{{{sign}}}" for sign in "[]*"},  # bare, they would be read as arguments of a row's end
        **{"\u200b": "{}", DASH: "--", "—": "---", "‘": "`", "’": "'", "“": "``", "”": "''"},
    }
)
"""What LaTeX would not print as it is.  (Half of what pylatexenc makes of Unicode needs packages that are not here.)"""

ARROWS = ("↑", "↓")
RANK_COMMANDS = {0: "{}", 1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}


@FORMATS.register("latex")
def latex(table: Table, _: int = 0) -> str:
    """The table as a fragment: a floating ``table``, or a ``longtable`` where it is long or needs a turned page.

    A table too wide for a turned page becomes several, each with the label columns.
    """
    page, size, parts = _fit(table)
    floats = page == "portrait" and len(parts) == 1 and len(table.rows) <= FLOATING_ROWS
    needs = "array, booktabs" if floats else f"{', '.join(PACKAGES)}, and LaTeX is to run twice"
    lines = [f"% needs [T1]{{fontenc}}, {needs}"]
    if floats:
        lines += _floating(table, parts[0], size)
    else:
        lines += [r"\begin{landscape}"] if page == "landscape" else []
        for number, part in enumerate(parts):
            lines += _long(table, part, size, f" ({number + 1} of {len(parts)})" if len(parts) > 1 else "")
        lines += _notes(table, "")
        lines += [r"\end{landscape}"] if page == "landscape" else []
    return "\n".join(lines) + "\n"


def tex(text: str) -> str:
    """Text that LaTeX prints as it is; a character that its fonts lack is named by its code."""
    unjoined = re.sub(r"-(?=-)", "-\u200b", clean(text))  # two hyphens would become a dash
    escaped = re.sub(r"[^\x00-\x7f]", _printable, unjoined.translate(TEX))
    return re.sub(r"(?<![\w.])([+-])(?=\d)", r"$\1$", escaped)


def _printable(found: re.Match[str]) -> str:
    is_accented = "\u00c0" <= found[0] <= "\u017e" and unicodedata.decomposition(found[0])  # a letter, which T1 has
    return found[0] if is_accented else f"U+{ord(found[0]):04X}"


def _fit(table: Table) -> tuple[str, str, list[list[int]]]:
    """Page, size and parts: the largest size at which it is one part, else turned, the smallest, and several."""
    columns = range(len(table.columns))
    widths = [_width(table, index) for index in columns]
    needed: list[float] = []
    for page, room in PAGE_PT.items():
        for size, character in SIZES:
            needed = [characters * character + COLUMN_PT for characters in widths]
            if sum(needed) <= room:
                return page, size, [[*columns]]
    labels = [index for index in columns if table.columns[index].is_label and table.columns[index].tells]
    values = [(index, needed[index]) for index in columns if index not in labels]
    parts = in_parts(values, sum(needed[index] for index in labels), PAGE_PT["landscape"])
    return "landscape", SIZES[-1][0], [[*labels, *part] for part in parts]


def _width(table: Table, index: int) -> int:
    longest = max(_longest_cell(table, index), *map(len, _header(table, index)))
    return min(longest, LONGEST_LABEL) if table.columns[index].is_label else longest


def _longest_cell(table: Table, index: int) -> int:
    return max((len(row[index].written(table.order)) for row in table.rows), default=0)


def _header(table: Table, index: int) -> list[str]:
    """The header, in two lines where one would be wider than the cells: cut at the blank next to its middle."""
    title = clean(table.columns[index].title)
    blanks = [place for place, character in enumerate(title) if character == " " and title[place + 1 :] not in ARROWS]
    if not blanks or len(title) <= _longest_cell(table, index):
        return [title]
    middle = min(blanks, key=lambda place: abs(place - len(title) / 2))
    return [title[:middle], title[middle + 1 :]]


def _floating(table: Table, part: Sequence[int], size: str) -> list[str]:
    return [
        r"\begin{table}",
        r"  \centering",
        rf"  \{size}{COLUMN_SPACE}\setlength{{\belowcaptionskip}}{{6pt}}",
        rf"  \caption{{{tex(table.title)}}}",
        rf"  \begin{{tabular}}{{{_alignment(table, part, size)}}}",
        *_heads(table, part),
        *_rows(table, part),
        r"    \bottomrule",
        r"  \end{tabular}\par\medskip",
        *_notes(table, "  "),
        r"\end{table}",
    ]


def _long(table: Table, part: Sequence[int], size: str, which: str) -> list[str]:
    return [
        rf"\begingroup\{size}{COLUMN_SPACE}\setlength{{\LTcapwidth}}{{\linewidth}}",
        rf"\begin{{longtable}}{{{_alignment(table, part, size)}}}",
        rf"    \caption{{{tex(table.title + which)}}} \\",
        *_heads(table, part),
        r"    \endfirsthead",
        *_heads(table, part),
        r"    \endhead",
        r"    \bottomrule",
        r"    \endfoot",
        *_rows(table, part),
        r"\end{longtable}",
        r"\endgroup",
    ]


def _alignment(table: Table, part: Sequence[int], size: str) -> str:
    folded = rf">{{\raggedright\arraybackslash}}p{{{LONGEST_LABEL * dict(SIZES)[size]:.0f}pt}}"
    long = {index: _longest_cell(table, index) > LONGEST_LABEL for index in part}
    return "".join(("r" if not table.columns[index].is_label else folded if long[index] else "l") for index in part)


def _heads(table: Table, part: Sequence[int]) -> Iterator[str]:
    headers = [_header(table, index) for index in part]
    height = max(map(len, headers), default=1)
    yield r"    \toprule"
    for number in range(height):
        yield _line([tex(([""] * (height - len(header)) + header)[number]) for header in headers])
    yield r"    \midrule"


def _rows(table: Table, part: Sequence[int]) -> Iterator[str]:
    for row in table.marked(tex, RANK_COMMANDS):
        yield _line([row[index] for index in part])


def _notes(table: Table, indent: str) -> list[str]:
    return [rf"{indent}\par{{\footnotesize\raggedright {tex(note)}\par}}" for note in table.footnotes]


def _line(cells: Sequence[str]) -> str:
    return "    " + " & ".join(cells) + r" \\"
