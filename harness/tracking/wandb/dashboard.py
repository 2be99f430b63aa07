"""The dashboard of a W&B project: a saved view whose panels are made for pruning, written by `wandb-workspaces`."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import wandb
from wandb_workspaces.reports.v2 import interface as wr
from wandb_workspaces.workspaces import RunsetSettings, Section, Workspace

from harness.errors import UserError, first_line
from harness.record import EvalResult, RunRecord
from harness.tracking.wandb import content
from harness.tracking.wandb.client import require_login

NAME = "Prunebench"
LARGE = 12
"""Metrics and linears beyond this many get no panel of their own; W&B's search finds them."""


def specification(records: Sequence[RunRecord], project: str, entity: str | None) -> dict[str, Any]:
    """The dashboard as the JSON document that W&B stores; needs no network and no login.

    Args:
        records: what is in the project: every metric and linear that they hold gets its panels.
        project, entity: of the dashboard; an entity of None is left open.

    Raises:
        UserError: there are no records, so there is nothing to show.
    """
    view = _workspace(records, project, entity or "")._to_model()
    spec: dict[str, Any] = json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True))
    return {"entity": view.entity, "project": view.project, "name": view.display_name, "spec": spec}


def save(records: Sequence[RunRecord], project: str, entity: str | None, view: str | None = None) -> str:
    """Save the dashboard to W&B and return its address.

    Args:
        view: address of an earlier dashboard that this one replaces; None makes a new one.

    Raises:
        UserError: there are no records, nobody is logged in, or W&B did not take it.
    """
    require_login()
    try:
        made = _workspace(records, project, entity or str(wandb.Api().default_entity))
        if view is not None:
            known = Workspace.from_url(view)
            known.sections, known.runset_settings = made.sections, made.runset_settings
            made = known
        made.save()  # type: ignore[no-untyped-call]
        return str(made.url)
    except UserError:
        raise
    except Exception as error:  # the client raises errors of many kinds; the user needs the line
        raise UserError(f"W&B did not take the dashboard: {first_line(error)}") from error


def _workspace(records: Sequence[RunRecord], project: str, entity: str) -> Workspace:
    results = _metrics(records)
    if not results:
        raise UserError("a dashboard needs records with results; run some jobs first (prunebench run)")
    columns = [f"summary:{name}" for name in (*dict(results), "achieved_sparsity")]
    return Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[
            _quality(results),
            _curves(results),
            _layers(records),
            Section(name="Tables", panels=[wr.WeavePanelSummaryTable(table_name="layers"), wr.RunComparer()]),
        ],
        runset_settings=RunsetSettings(pinned_columns=columns),
    )


def _metrics(records: Sequence[RunRecord]) -> list[tuple[str, EvalResult]]:
    """The name of each metric and one result of it, perplexities first, then those that most records have."""
    named = [(content.metric_name(result), result) for record in records for result in record.results]
    examples, counts = dict(named), Counter(name for name, _ in named)
    order = sorted(examples, key=lambda name: (examples[name].kind != "perplexity", -counts[name], name))
    return [(name, examples[name]) for name in order[:LARGE]]


def _quality(results: Sequence[tuple[str, EvalResult]]) -> Section:
    """Each metric against the zeros that were counted, with the best so far as a line: the Pareto front."""
    panels: list[Any] = [
        wr.ScatterPlot(
            title=f"{name} against zeros",
            x=wr.SummaryMetric("achieved_sparsity"),
            y=wr.SummaryMetric(name),
            log_y=result.kind == "perplexity",
            running_ymin=not result.higher_is_better,
            running_ymax=result.higher_is_better,
        )
        for name, result in results
    ]
    return Section(name="Quality against zeros", panels=panels, is_open=True, pinned=True)


def _curves(results: Sequence[tuple[str, EvalResult]]) -> Section:
    """Each metric against the sparsity asked for and against the time that pruning took, and by method."""
    panels: list[Any] = []
    for name, result in results:
        metric, log = wr.SummaryMetric(name), result.kind == "perplexity"
        panels += [
            wr.ScatterPlot(title=f"{name} by sparsity", x=wr.Config("sparsity"), y=metric, log_y=log),
            wr.ScatterPlot(
                title=f"{name} by time", x=wr.SummaryMetric("seconds/prune"), y=metric, log_x=True, log_y=log
            ),
            wr.BarPlot(title=f"{name} by method", metrics=[metric], groupby=wr.Config("method.name")),
        ]
    return Section(name="By sparsity, time and method", panels=panels, is_open=True)


def _layers(records: Sequence[RunRecord]) -> Section:
    """Lines over the blocks: output error and zeros of every linear."""
    rows = [row for record in records for row in content.layer_series(record)[:1]]
    names = list(dict.fromkeys(name for row in rows for name in row if name != content.BLOCK))
    panels: list[Any] = [
        wr.LinePlot(title=f"{name} by block", x=content.BLOCK, y=[name], title_x="block")
        for series in (content.LAYER_ERROR, content.LAYER_SPARSITY)
        for name in [name for name in names if name.startswith(f"{series}/")][:LARGE]
    ]
    return Section(name="Layers", panels=panels, is_open=True)
