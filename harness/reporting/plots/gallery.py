"""All figures that a set of records allows, written to a folder."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from harness.errors import UserError
from harness.record import RunRecord
from harness.reporting.plots.agreement import agreement
from harness.reporting.plots.costs import cost_figures
from harness.reporting.plots.curves import curves
from harness.reporting.plots.heatmap import heat_maps
from harness.reporting.plots.layers import layer_figures, layer_labels
from harness.reporting.plots.pareto import pareto
from harness.reporting.plots.series import Data, measurements
from harness.reporting.plots.sheet import NotDrawn, Picture, method_styles
from harness.reporting.plots.style import RC, save
from harness.reporting.published import Published


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure and its two files."""

    name: str
    png: Path
    pdf: Path


def pictures(
    records: Sequence[RunRecord], published: Published, paper_names: Mapping[str, str]
) -> Iterator[Picture | NotDrawn]:
    """Every figure that these records allow, not yet drawn, and every kind that they do not.

    Raises:
        UserError: a record's job lacks a field of its identity.
    """
    data = Data.of(records, published, paper_names)
    measured = list(measurements(data))
    known = method_styles(measured, (*data.frame["method"].unique(), *layer_labels(data.records)))
    yield from chain(
        curves(measured, known),
        pareto(data, measured, known),
        heat_maps(measured, known),
        layer_figures(data.records, known),
        agreement(data, known),
        cost_figures(data.records),
    )


def draw_all(
    records: Sequence[RunRecord], published: Published, paper_names: Mapping[str, str], folder: Path
) -> Iterator[Drawn | NotDrawn]:
    """Draw every figure into `folder`, one after the other.

    Raises:
        UserError: the folder cannot be written, or a record's job lacks a field of its identity.
    """
    import matplotlib

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder} for figures: {error.strerror or error}") from error
    taken: set[str] = set()
    for picture in pictures(records, published, paper_names):
        if isinstance(picture, NotDrawn):
            yield picture
            continue
        name = picture.name
        while name.casefold() in taken:  # two keys may differ in a character that no file name has
            name += "-2"
        taken.add(name.casefold())
        with matplotlib.rc_context(RC):
            yield Drawn(name, *save(picture.draw(), folder, name))
