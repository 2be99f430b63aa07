"""Records that something has damaged: an error of ours when they are read, or nothing behind stumbles over them."""

import copy
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UserError
from harness.record import QuestionFile, RunRecord, from_json, to_json
from harness.reporting.figures.base import pictures
from harness.reporting.formats.base import FORMATS, write
from harness.reporting.frame import to_frame
from harness.reporting.knee import knees
from harness.reporting.page.build import embedded, payload
from harness.reporting.papers import paper_table
from harness.reporting.published import Published, load
from harness.reporting.show import render_record
from harness.reporting.tables import comparison
from harness.tracking.wandb import content
from tests.reporting.conftest import make_accuracy, make_perplexity, make_record, printed
from tests.tracking.conftest import LAYERS

EXAMPLES, EXAMPLES_DRAWN = 150, 8
PUBLISHED = load()
GOOD = (
    replace(
        make_record(
            "sparsegpt",
            results=(make_perplexity(27.5), make_accuracy(0.6)),
            params={"damping": 0.02},
            allocation="owl",
            layers=LAYERS,
        ),
        questions=QuestionFile("a.questions.parquet", "0" * 64, 3),
    ),
    make_record("dense", results=(make_perplexity(20.0),)),
    make_record(seed=1, error="Traceback\nBoom"),
)
DOCUMENTS = [json.loads(to_json(record)) for record in GOOD]
DOCUMENTS.append({name: value for name, value in DOCUMENTS[0].items() if name != "defaults"} | {"schema_version": 1})

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.just(10**40)
    | st.just("\x1b[2J"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to every part of a document."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield (*path, key)
        yield from places(part, (*path, key))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A good record with one to three of its parts gone, repeated, added or exchanged."""
    document = copy.deepcopy(draw(st.sampled_from(DOCUMENTS)))
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from(list(places(document))))
        parent = document
        for key in path:
            parent = parent[key]
        match draw(st.sampled_from(("drop", "exchange", "repeat", "add"))):
            case "drop":
                del parent[last]
            case "exchange":
                parent[last] = draw(values)
            case "repeat" if isinstance(parent, list):
                parent.append(parent[last])
            case "add" if isinstance(parent, dict):
                parent[draw(st.text(max_size=8))] = draw(values)
    return json.dumps(document).encode()


def use(records: list[RunRecord], published: Published) -> None:
    """Everything that is made of records: rows, tables in all formats, page, and what W&B is told."""
    for record in records:
        assert from_json(to_json(record), "again").job_id == record.job_id
        printed(render_record(record), 100)
        content.config_of(record), content.summary_of(record), content.layer_series(record)
        content.tags_of(record), content.group_of(record), content.notes_of(record)
    to_frame(records)
    for means in (False, True):
        table = comparison(records, published, mean_over_seed=means)
        for name in FORMATS.all():
            write(table, name)
        paper_table("SGPT-T1", records, published, mean_over_seed=means)
    embedded(payload(records, published)[0])
    with suppress(UserError):  # too few sparsities
        knees(records)


@settings(max_examples=EXAMPLES)
@given(data=mutated())
def test_a_mutated_record_is_refused_when_it_is_read_or_serves_everything(data: bytes) -> None:
    """No KeyError waits behind the reading."""
    try:
        record = from_json(data, "record")
    except UserError:
        return
    use([record, *GOOD], PUBLISHED)


@settings(max_examples=EXAMPLES_DRAWN)
@given(data=mutated())
def test_a_mutated_record_that_is_read_is_drawn(data: bytes) -> None:
    """Nor behind the figures."""
    try:
        record = from_json(data, "record")
    except UserError:
        return
    list(pictures([record, *GOOD], PUBLISHED))
