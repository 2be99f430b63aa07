"""All figures that a set of records allows, written to a folder."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from os import cpu_count
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

WORTH_A_WORKER = 8
"""Figures that take longer to draw than another process takes to start."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure and its two files."""

    name: str
    png: Path
    pdf: Path


def pictures(records: Sequence[RunRecord], published: Published) -> Iterator[Picture | NotDrawn]:
    """Every figure that these records allow, not yet drawn, and every kind that they do not.

    Raises:
        UserError: a record's job lacks a field of its identity.
    """
    data = Data.of(records, published)
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


def draw_all(records: Sequence[RunRecord], published: Published, folder: Path) -> Iterator[Drawn | NotDrawn]:
    """Draw every figure into `folder`, in several processes where there are many.

    Raises:
        UserError: the folder cannot be written, or a record's job lacks a field of its identity.
    """
    from joblib import Parallel, delayed

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder} for figures: {error.strerror or error}") from error
    found = list(pictures(records, published))
    wanted = [picture for picture in found if isinstance(picture, Picture)]
    workers = max(1, min(cpu_count() or 1, len(wanted) // WORTH_A_WORKER))
    tasks = (delayed(_draw)(picture, name, folder) for picture, name in zip(wanted, _names(wanted), strict=True))
    drawn = iter(Parallel(n_jobs=workers, return_as="generator")(tasks))
    for picture in found:
        yield picture if isinstance(picture, NotDrawn) else next(drawn)


def _names(wanted: Iterable[Picture]) -> Iterator[str]:
    """A file name for each; two keys may differ in a character that no file name has."""
    taken: set[str] = set()
    for picture in wanted:
        name = picture.name
        while name.casefold() in taken:
            name += "-2"
        taken.add(name.casefold())
        yield name


def _draw(picture: Picture, name: str, folder: Path) -> Drawn:
    import matplotlib

    with matplotlib.rc_context(RC):
        return Drawn(name, *save(picture.draw(), folder, name))
