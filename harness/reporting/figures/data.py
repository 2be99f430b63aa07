"""All that figures are made from: the records, their rows, and what was measured by protocol."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING

from harness.record import EvalResult, RunRecord
from harness.reporting.axes import setting_labels
from harness.reporting.figures.look import Looks, file_name, looks_of
from harness.reporting.figures.points import Found, Panel, panel_of
from harness.reporting.frame import JobRow, Measured, measured, to_frame
from harness.reporting.published import DENSE, Published, natural_key
from harness.reporting.tables import protocol_parts

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Data:
    """Everything that figures are made from.

    Args:
        records: jobs that are done; entries: each with its results.
        published: see `harness.reporting.tables.comparison`.
        labels: of every job by its id: the method and what of its setting tells it apart from others on its model.
        notes: by model what methods differ in without their labels saying so.
        columns: of the paper, as wide as which the figures are: 1 or 2.
    """

    records: Sequence[RunRecord]
    published: Published
    entries: Sequence[Measured]
    labels: Mapping[str, str]
    notes: Mapping[str, Sequence[str]]
    columns: int

    @classmethod
    def of(cls, records: Sequence[RunRecord], published: Published, columns: int = 2) -> "Data":
        done = [record for record in records if record.status == "done"]
        entries = measured(done)
        labels, notes = {entry.job.job_id: DENSE for entry in entries}, {}
        for model in dict.fromkeys(entry.job.model for entry in entries):
            jobs = [entry.job for entry in entries if entry.job.model == model and not entry.job.is_dense]
            found, notes[model] = setting_labels(jobs)
            labels |= zip((job.job_id for job in jobs), found, strict=True)
        return cls(done, published, entries, labels, notes, columns)

    @cached_property
    def frame(self) -> "pd.DataFrame":
        """One row a job and metric, see `to_frame`."""
        return to_frame(self.records)

    @cached_property
    def jobs(self) -> Mapping[str, JobRow]:
        """Every job by its id."""
        return {entry.job.job_id: entry.job for entry in self.entries}

    @cached_property
    def panels(self) -> tuple[Panel, ...]:
        """Quality as it was measured: every metric of every model under every protocol, once for each set of data."""
        groups: dict[tuple[str, str], list[Found]] = defaultdict(list)
        for entry in self.entries:
            for result in (each for each in entry.results if each.kind != "efficiency"):
                groups[result.protocol, result.data_fingerprint].append((entry.job, result))
        several = Counter(protocol for protocol, _ in groups)
        made: list[Panel] = []
        for (key, fingerprint), found in sorted(groups.items(), key=lambda group: group[0]):
            shown = f"{key}:{fingerprint.removeprefix('sha256:')[:8]}" if several[key] > 1 else key
            title = _title(key, [result for _, result in found])
            parts: dict[tuple[str, str], list[Found]] = defaultdict(list)
            for job, result in found:
                parts[job.model, result.metric].append((job, result))
            order = sorted(parts, key=lambda where: (natural_key(where[0]), where[1]))
            made += [panel_of(parts[where], self.labels, shown, title) for where in order]
        return tuple(made)

    @cached_property
    def order(self) -> Sequence[str]:
        """All labels, the better before the worse: by their mean rank among those of their pattern and sparsity."""
        ranks: dict[str, list[float]] = defaultdict(list)
        for panel in self.panels:
            for label, rank in panel.ranks():
                ranks[label].append(rank)
        ordered = sorted(ranks, key=lambda label: (fmean(ranks[label]), natural_key(label)))
        return [*ordered, *sorted({*self.labels.values()} - {*ranks}, key=natural_key)]

    @cached_property
    def usual(self) -> frozenset[str]:
        """One label a method: that of most jobs, then the shortest."""
        count = Counter(self.labels.values())
        methods = {self.labels[job_id]: job.method for job_id, job in self.jobs.items()}
        best = sorted(count, key=lambda label: (count[label], -len(label), natural_key(label)))
        return frozenset({methods[label]: label for label in best}.values())

    def looks(self, chosen: Sequence[str]) -> Looks:
        """Their styles, see `looks_of`."""
        return looks_of(chosen, self.order)

    def named(self, figure: str, panel: Panel) -> str:
        """The file name of a figure of this panel; what all figures have in common goes without saying."""
        several = len({job.model for job in self.jobs.values()}) > 1
        metrics = {other.metric for other in self.panels if other.key == panel.key}
        parts = [figure, panel.key.split(":", 1)[1], *([panel.metric] if len(metrics) > 1 else [])]
        return file_name("-".join([*parts, *([panel.model] if several else [])]))


def _title(protocol: str, results: Sequence[EvalResult]) -> str:
    kind, task = protocol.split(":")[:2]
    length, options = protocol_parts(protocol)
    counts = sorted({result.num_samples for result in results})
    unit = {"perplexity": "windows", "kl": "windows", "accuracy": "images", "bits_per_byte": "answers"}.get(
        kind, "questions"
    )
    whole = f"all of n = {' to '.join(map(str, dict.fromkeys([counts[0], counts[-1]])))} {unit}"
    what = {
        "perplexity": f"perplexity on {task}",
        "kl": f"KL divergence from the dense model on {task}",
        "accuracy": f"{task}, accuracy",
        "bits_per_byte": f"{task}, bits per byte of gold answers",
    }
    said = [what.get(kind, f"{task}, zero-shot accuracy")]
    said += [f"{length}-token windows"] if length else []
    said += ["BOS in every window"] if "bos" in options else []
    return ", ".join([*said, *(dict.fromkeys(result.subset for result in results if result.subset) or [whole])])
