"""How figures look: colours for the colour-blind, and marker and line that tell methods apart in grey as well."""

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.reporting.layout import clean
from harness.reporting.published import natural_key

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Ten colours for the colour-blind: Petroff 2021, https://arxiv.org/abs/2107.02270 (Okabe and Ito's are eight, one of
# which is the dense model's black and one a yellow that is faint on white).
COLORS = (
    *("#3f90da", "#bd1f01", "#ffa90e", "#832db6", "#94a4a2", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))
SHORT_LEGEND = 8
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "+++", "ooo")
DENSE_COLOR = "#000000"
DPI = 200
LEGEND_WIDTH = 2.0
LETTER_WIDTH = 0.074
"""Inches: the least of the legend beside the axes, and of a letter of the title."""
HANDLE_WIDTH = 0.75
"""Inches: of a mark of the legend with the space around it."""
POINTS_AN_INCH = 72

RC: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
    "hatch.linewidth": 0.6,
}


@dataclass(frozen=True, slots=True)
class Style:
    """Colour, marker and line of one method."""

    color: str
    marker: str
    line: Any

    @property
    def size(self) -> float:
        """Points across: what is thin is larger, so that all markers look alike."""
        return 7.5 if self.marker == "*" else 6.0 if self.marker in "PX" else 5.0


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """One style a label, by their order; no two are equal before the 71st."""
    ordered = sorted(set(labels), key=natural_key)
    return {
        label: Style(COLORS[n % len(COLORS)], MARKERS[n % len(MARKERS)], LINES[n % len(LINES)])
        for n, label in enumerate(ordered)
    }


def text(value: str) -> str:
    """Text that matplotlib shows as it is: no control characters, no mathematics."""
    return clean(value).replace("$", r"\$")


def file_name(value: str) -> str:
    """A file name out of a protocol key or a model's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", value).strip("-.") or "figure"


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of this many inches; its parts find their places when it is drawn."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def legend_width(handles: Sequence[Any]) -> float:
    """Inches that a legend with these entries takes beside the axes; 0 without any."""
    from matplotlib.textpath import TextPath

    if not handles:
        return 0.0
    paths = [TextPath((0.0, 0.0), handle.get_label(), size=RC["legend.fontsize"]) for handle in handles]
    return max(LEGEND_WIDTH, HANDLE_WIDTH + max(path.get_extents().width for path in paths) / POINTS_AN_INCH)


def finish(figure: "Figure", title: str, protocol: str, notes: Sequence[str], handles: Sequence[Any] = ()) -> None:
    """Title, the protocol below it, what a reader must know at the foot, and one legend beside the axes."""
    # A short legend stands in the middle of the height and leaves the whole width to the title.
    room = figure.get_figwidth() - (legend_width(handles) if len(handles) > SHORT_LEGEND else 0.0)
    parts = [title, *protocol.split("\n")]
    lines = [line for part in parts for line in wrap(text(part), int(room / LETTER_WIDTH), break_on_hyphens=False)]
    figure.suptitle("\n".join(lines), fontsize=9, x=0.01, ha="left")
    if notes:
        figure.supxlabel("\n".join(text(note) for note in notes), fontsize=7, x=0.01, ha="left", color="#444444")
    if handles:
        figure.legend(handles=list(handles), loc="outside right center", frameon=False, handlelength=3.2)


def log_axis(axis: "Axes", values: Sequence[float], which: str = "y") -> None:
    """A logarithmic axis with plain numbers where positive values span more than a factor of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if not values or min(values) <= 0 or max(values) / min(values) <= 10:
        return
    getattr(axis, f"set_{which}scale")("log")
    side = getattr(axis, f"{which}axis")
    side.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0) if max(values) / min(values) < 200 else (1.0,)))
    side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if 1 <= value < 1e5 else f"{value:g}"))
    side.set_minor_formatter(NullFormatter())


def save(figure: "Figure", folder: Path, name: str) -> tuple[Path, Path]:
    """Write NAME.png and NAME.pdf; equal figures give equal files.

    Raises:
        UserError: the folder cannot be written.
    """
    png, pdf = folder / f"{name}.png", folder / f"{name}.pdf"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in letters that the font lacks
            layout = figure.get_layout_engine()
            if layout is not None:
                layout.execute(figure)
                figure.set_layout_engine(None)  # every part has its place now: each file is drawn once, not twice
            figure.savefig(png, dpi=DPI, metadata={"Software": None})
            figure.savefig(pdf, metadata={"CreationDate": None, "Creator": None, "Producer": None})
    except OSError as error:
        raise UserError(f"cannot write the figure {png}: {error.strerror or error}") from error
    return png, pdf
