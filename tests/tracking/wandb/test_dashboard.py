"""The dashboard of a project: its panels, without a network, and how it is saved."""

import json
from collections.abc import Callable

import pytest

from harness.errors import UserError
from harness.record import RunRecord
from harness.tracking.wandb import dashboard as wandb_dashboard
from harness.tracking.wandb.dashboard import specification
from tests.tracking.wandb_server import WandbServer

pytestmark = pytest.mark.usefixtures("nobody")
RecordMaker = Callable[..., RunRecord]


def test_specification_has_a_panel_for_every_metric_and_linear(make_record: RecordMaker) -> None:
    """Pareto scatter, curves, lines over the blocks and the table of layers, under the names that runs have."""
    found = specification([make_record()], "bench", "someone")
    assert (found["entity"], found["project"], found["name"]) == ("someone", "bench", "Prunebench")
    sections = found["spec"]["section"]["panelBankConfig"]["sections"]
    panels = {section["name"]: section["panels"] for section in sections}
    pareto = panels["Quality against zeros"][0]
    assert pareto["viewType"] == "Scatter Plot"
    assert pareto["config"]["xAxis"] == "summary:achieved_sparsity"
    assert pareto["config"]["yAxis"] == "summary:perplexity/wikitext2:seq2048:v1"
    assert pareto["config"]["showMinYAxisLine"]
    lines = {name for panel in panels["Layers"] for name in panel["config"]["metrics"]}
    assert lines == {"layer_error/q_proj", "layer_sparsity/q_proj", "layer_sparsity/k_proj"}
    assert {panel["config"]["xAxis"] for panel in panels["Layers"]} == {"block"}
    assert "layers" in json.dumps(panels["Tables"])


def test_nothing_measured_makes_no_dashboard(make_record: RecordMaker) -> None:
    """An empty dashboard would only puzzle."""
    with pytest.raises(UserError, match="a dashboard needs records with results"):
        specification([make_record(results=())], "bench", None)


def test_saved_dashboard_is_the_specification(make_record: RecordMaker, server: WandbServer) -> None:
    """W&B gets the same panels, under the account's own entity where none is named."""
    wandb_dashboard.save([make_record()], "bench", None)
    (view,) = server.views
    assert (view["entityName"], view["projectName"], view["displayName"]) == ("someone", "bench", "Prunebench")
    saved = json.loads(view["spec"])["section"]["panelBankConfig"]["sections"]
    offline = specification([make_record()], "bench", "someone")["spec"]["section"]["panelBankConfig"]["sections"]
    assert [(section["name"], len(section["panels"])) for section in saved] == [
        (section["name"], len(section["panels"])) for section in offline
    ]


def test_dashboard_needs_a_login(make_record: RecordMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line names the command."""
    from harness.tracking.wandb import client as wandb_client

    monkeypatch.setattr(wandb_client, "logged_in", lambda: False)
    with pytest.raises(UserError, match="`wandb login`"):
        wandb_dashboard.save([make_record()], "bench", None)
