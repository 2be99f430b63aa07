"""The page put together: template, style, scripts, Vega and data in one text."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

from harness import __version__
from harness.record import RunRecord
from harness.reporting.frame import measured
from harness.reporting.page.details import JOBS_PER_BLOCK, details, packed
from harness.reporting.page.figures import packed_figures
from harness.reporting.page.questions import Answers, packed_comparisons
from harness.reporting.page.table import in_order, ranking, table
from harness.reporting.published import Published
from harness.reporting.standings import standings
from harness.reporting.statistics import with_task_means

MODULES = (
    *("dom", "format", "state", "data", "selection"),
    *("facets", "charts", "figures", "jobs", "overview", "job", "compare", "live", "main"),
)
"""The scripts in the order they are joined; each may use what those before it export."""


def page(content: Mapping[str, object], blocks: Mapping[str, str], *, live: bool = False) -> str:
    """One HTML document that needs nothing else.

    Its policy (CSP) lets run exactly the two scripts that are ours, by their hashes, and reach no network; the live
    page reaches its own server.

    Args:
        content, blocks: see `payload`.
        live: the page asks its server for news.
    """
    from jinja2 import Environment  # here, because `list` and `plan` must not wait for it

    script, vega = _script(), _vega()
    environment = Environment(autoescape=True, keep_trailing_newline=True)
    template = environment.from_string(asset("page.html"))
    return template.render(
        policy=policy(script, vega, live=live),
        style=asset("style.css"),
        script=script,
        vega=packed(vega.encode()),
        content=embedded(content),
        blocks=blocks,
        live=live,
        version=__version__,
    )


def payload(
    records: Sequence[RunRecord],
    published: Published,
    answers: Answers | None = None,
) -> tuple[dict[str, object], dict[str, str]]:
    """What the page shows: the table as plain data, and packed blocks by name.

    Args:
        records: done and failed jobs in any order.
        published: see `harness.reporting.tables.comparison`.
        answers: answers to single questions, by job id; None = there are none.
    """
    ordered = in_order(records)
    entries = measured(with_task_means(ordered))
    answers = answers or Answers({})
    jobs, without_layers = details(ordered, measured(ordered), published)
    compared = packed_comparisons(ordered, answers)
    figures, charts = packed_figures(ordered, published)
    content: dict[str, object] = {
        "table": table(ordered, entries, published),
        "standings": ranking(standings(ordered, published), {record.job_id: row for row, record in enumerate(ordered)}),
        "jobs_per_block": JOBS_PER_BLOCK,
        "without_layers": without_layers,
        "problems": list(answers.problems),
        **figures,
    }
    return content, {f"details-{index}": block for index, block in enumerate(jobs)} | compared | charts


def policy(*scripts: str, live: bool) -> str:
    """The content security policy under which only these scripts run."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    network = "'self'" if live else "'none'"
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        f"connect-src {network}; base-uri 'none'; form-action 'none'"
    )


def embedded(value: object) -> str:
    """JSON that may stand inside a script element: no text in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@cache
def asset(name: str) -> str:
    """Text of one of the page's files."""
    return (files("harness.reporting.page") / name).read_text(encoding="utf-8")


@cache
def _script() -> str:
    """The modules as one: each is an ES module for editors and linters; joined, they share one scope."""
    joined = []
    for name in MODULES:
        text = re.sub(r"^import [^;]*;\n", "", asset(f"{name}.js"), flags=re.MULTILINE)
        joined.append(re.sub(r"^export ", "", text, flags=re.MULTILINE))
    script = "\n".join(joined)
    assert "</script" not in script.lower(), "a script's text must not end its element"
    assert "<!--" not in script, "a script's text must not open a comment"
    return script


@cache
def _vega() -> str:
    """Vega, Vega-Lite and vega-embed, as vl-convert draws PNG and PDF with them; licence BSD-3-Clause."""
    from vl_convert import javascript_bundle

    return str(javascript_bundle("window.vegaEmbed = vegaEmbed;")).replace("\r\n", "\n")
