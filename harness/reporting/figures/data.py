"""All that figures are made from: the records, their rows, and what was measured by protocol."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING

from harness.record import EvalResult, RunRecord
from harness.reporting.axes import setting_labels
from harness.reporting.figures.look import DENSE_STYLE, Style, styles
from harness.reporting.figures.points import Found, Panel, Point, panel_of
from harness.reporting.frame import JobRow, Measured, measured, to_frame
from harness.reporting.published import DENSE, Published, natural_key
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
    def points(self) -> list[Point]:
        """All points of pruned models."""
        return [point for panel in self.panels.values() for point in panel.points]


@dataclass(frozen=True)
class Data:
    """Everything that figures are made from.

    Args:
        records: jobs that are done; entries: each with its results.
        published: see `harness.reporting.tables.comparison`.
        labels: of every job by its id: the method and what of its setting tells it apart from others on its model.
        notes: what methods differ in without their labels saying so.
    """

    records: Sequence[RunRecord]
    published: Published
    entries: Sequence[Measured]
    labels: Mapping[str, str]
    notes: Sequence[str]

    @classmethod
    def of(cls, records: Sequence[RunRecord], published: Published) -> "Data":
        done = [record for record in records if record.status == "done"]
        entries = measured(done)
        labels, notes = {entry.job.job_id: DENSE for entry in entries}, []
        for model in dict.fromkeys(entry.job.model for entry in entries):
            jobs = [entry.job for entry in entries if entry.job.model == model and not entry.job.is_dense]
            found, said = setting_labels(jobs)
            labels |= zip((job.job_id for job in jobs), found, strict=True)
            notes += [f"{model}: {note}" for note in said]
        return cls(done, published, entries, labels, notes)

    @cached_property
    def frame(self) -> "pd.DataFrame":
        """One row a job and metric, see `to_frame`."""
        return to_frame(self.records)

    @cached_property
    def jobs(self) -> Mapping[str, JobRow]:
        """Every job by its id."""
        return {entry.job.job_id: entry.job for entry in self.entries}

    @cached_property
    def measurements(self) -> tuple[Measurement, ...]:
        """What was measured: every protocol once for each set of data that it was measured on."""
        groups: dict[tuple[str, str], list[Found]] = defaultdict(list)
        for entry in self.entries:
            for result in entry.results:
                groups[result.protocol, result.data_fingerprint].append((entry.job, result))
        several = Counter(protocol for protocol, _ in groups)
        made = []
        for (key, fingerprint), found in sorted(groups.items(), key=lambda group: group[0]):
            shown = f"{key}:{fingerprint.removeprefix('sha256:')[:8]}" if several[key] > 1 else key
            panels: dict[tuple[str, str], list[Found]] = defaultdict(list)
            for job, result in found:
                panels[result.metric, job.model].append((job, result))
            drawn = {where: panel_of(some, self.labels) for where, some in panels.items()}
            made.append(Measurement(key.split(":")[0], shown, _title(key, [result for _, result in found]), drawn))
        return tuple(made)

    @cached_property
    def styles(self) -> Mapping[str, Style]:
        """One style a label, the same in all figures; by quality, so that the best have colours of their own."""
        ranks: dict[str, list[float]] = defaultdict(list)
        for each in self.measurements:
            for panel in each.panels.values():
                for label, rank in panel.ranks():
                    ranks[label].append(rank)
        ordered = sorted(ranks, key=lambda label: (fmean(ranks[label]), natural_key(label)))
        methods = {job.method for job in self.jobs.values()}
        rest = sorted({*self.labels.values(), *methods} - {*ranks, DENSE}, key=natural_key)
        return styles([*ordered, *rest]) | {DENSE: DENSE_STYLE}


def _title(protocol: str, results: Sequence[EvalResult]) -> str:
    kind, task = protocol.split(":")[:2]
    length, options = protocol_parts(protocol)
    counts = sorted({result.num_samples for result in results})
    unit = {"perplexity": "windows", "accuracy": "images"}.get(kind, "questions")
    whole = f"all of n = {' to '.join(map(str, dict.fromkeys([counts[0], counts[-1]])))} {unit}"
    what = {"perplexity": f"perplexity on {task}", "accuracy": f"{task}, accuracy"}
    said = [what.get(kind, f"{task}, zero-shot accuracy")]
    said += [f"{length}-token windows"] if length else []
    said += ["BOS in every window"] if "bos" in options else []
    return ", ".join([*said, *(dict.fromkeys(result.subset for result in results if result.subset) or [whole])])
