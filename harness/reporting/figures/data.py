"""All that figures are made from: the records, their rows, and what was measured by protocol."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING

from harness.record import RunRecord
from harness.reporting.axes import setting_labels
from harness.reporting.figures.look import DENSE_STYLE, Style, styles
from harness.reporting.figures.points import Panel, Point, panel_of
from harness.reporting.frame import DENSE, JobRow, describe, to_frame
from harness.reporting.layout import unique
from harness.reporting.published import Published, natural_key
from harness.reporting.tables import protocol_parts

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Measurement:
    """One protocol on one set of data: what may share an axis.

    Args:
        title: task, metric, windows, subset and count, for people; key: the protocol.
        panels: by (metric, model).
    """

    kind: str
    key: str
    title: str
    panels: Mapping[tuple[str, str], Panel]

    @property
    def metrics(self) -> list[str]:
        return sorted({metric for metric, _ in self.panels})

    @property
    def models(self) -> list[str]:
        return sorted({model for _, model in self.panels}, key=natural_key)

    @property
    def points(self) -> list[Point]:
        """All points of pruned models."""
        return [point for panel in self.panels.values() for point in panel.points]


@dataclass(frozen=True)
class Data:
    """Everything that figures are made from.

    Args:
        frame: of `harness.reporting.frame.to_frame`, jobs that are done.
        records: the same jobs.
        published: see `harness.reporting.tables.comparison`.
    """

    frame: "pd.DataFrame"
    records: tuple[RunRecord, ...]
    published: Published

    @classmethod
    def of(cls, records: Sequence[RunRecord], published: Published) -> "Data":
        done = tuple(record for record in records if record.status == "done")
        return cls(to_frame(done), done, published)

    @cached_property
    def jobs(self) -> Mapping[str, JobRow]:
        """Every job by its id."""
        return {record.job_id: describe(record) for record in self.records}

    @cached_property
    def _labelled(self) -> tuple[Mapping[str, str], Sequence[str]]:
        labels: dict[str, str] = {}
        said: list[str] = []
        for model in unique([job.model for job in self.jobs.values()]):
            jobs = [job for job in self.jobs.values() if job.model == model and not job.is_dense]
            found, notes = setting_labels(jobs)
            labels |= dict(zip((job.job_id for job in jobs), found, strict=True))
            said += [f"{model}: {note}" for note in notes]
        return labels, said

    @property
    def labels(self) -> Mapping[str, str]:
        """Of every job by its id: the method and what of its setting tells it apart from others on its model."""
        return {job_id: self._labelled[0].get(job_id, DENSE) for job_id in self.jobs}

    @property
    def notes(self) -> Sequence[str]:
        """What methods differ in without their labels saying so."""
        return self._labelled[1]

    @cached_property
    def measurements(self) -> tuple[Measurement, ...]:
        """What was measured, a protocol each."""
        return tuple(_measurements(self))

    @cached_property
    def styles(self) -> Mapping[str, Style]:
        """One style a label, the same in all figures; by quality, so that the best have colours of their own."""
        ranks: dict[str, list[float]] = defaultdict(list)
        for each in self.measurements:
            for panel in each.panels.values():
                for label, rank in panel.ranks():
                    ranks[label].append(rank)
        ordered = sorted(ranks, key=lambda label: (fmean(ranks[label]), natural_key(label)))
        rest = sorted({*self.labels.values(), *self.frame["method"]} - {*ranks, DENSE}, key=natural_key)
        return styles([*ordered, *rest]) | {DENSE: DENSE_STYLE}


def _measurements(data: Data) -> Iterator[Measurement]:
    """Every protocol that was measured, once for each set of data that it was measured on."""
    frame = data.frame[data.frame["protocol"].notna()]
    frame = frame.assign(label=frame["job_id"].map(data.labels))
    for (key, fingerprint), rows in sorted(frame.groupby(["protocol", "data_fingerprint"], sort=False)):
        several = frame.loc[frame["protocol"] == key, "data_fingerprint"].nunique() > 1
        shown = f"{key}:{str(fingerprint).removeprefix('sha256:')[:8]}" if several else str(key)
        grouped = rows.groupby(["metric", "model"], sort=False)
        panels = {(str(metric), str(model)): panel_of(group) for (metric, model), group in grouped}
        yield Measurement(str(key).split(":")[0], shown, _title(rows), panels)


def _title(rows: "pd.DataFrame") -> str:
    first = rows.iloc[0]
    kind, task = first["protocol"].split(":")[:2]
    length, options = protocol_parts(first["protocol"])
    counts = unique([str(count) for count in sorted({int(count) for count in rows["num_samples"]})])
    unit = {"perplexity": "windows", "accuracy": "images"}.get(kind, "questions")
    whole = f"all of n = {' to '.join(unique([counts[0], counts[-1]]))} {unit}"
    what = {"perplexity": f"perplexity on {task}", "accuracy": f"{task}, accuracy"}
    said = [what.get(kind, f"{task}, zero-shot accuracy")]
    said += [f"{length}-token windows"] if length else []
    said += ["BOS in every window"] if "bos" in options else []
    return ", ".join([*said, *(unique([subset for subset in rows["subset"] if isinstance(subset, str)]) or [whole])])
