"""Records are read whatever version wrote them, and judged by what they say."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import jsonschema
import pytest

from harness.errors import UserError
from harness.pruning.methods.base import METHODS
from harness.pruning.methods.sparsegpt import SparseGPT
from harness.record import SCHEMA_VERSION, RunRecord, from_json, json_schema, to_json
from harness.record_v1 import defaults
from harness.reporting.frame import measured
from tests.reporting.conftest import make_perplexity, make_record

KEPT = Path(__file__).parents[1] / "results" / "methods_smollm2"


def judged(record: RunRecord) -> bool:
    """Whether the record's perplexity may be compared with a published one."""
    (entry,) = measured([record])
    return entry.setting(record.results[0]) is not None


@pytest.mark.parametrize("version", [1, 2])
def test_another_default_does_not_change_how_a_record_is_judged(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The damping that was the default when the job ran was the published one, and stays it."""

    @dataclass(frozen=True, slots=True)
    class Changed(SparseGPT):
        damping: float = 0.5

    plain = make_record("sparsegpt", results=(make_perplexity(1.0),), params={"damping": 0.01})
    other = make_record("sparsegpt", results=(make_perplexity(1.0),), params={"damping": 0.5})
    METHODS.all()
    monkeypatch.setitem(METHODS._entries, "sparsegpt", Changed)
    read = [from_json(as_written(record, version), "record") for record in (plain, other)]
    assert [judged(record) for record in read] == [True, False]
    assert [entry.job.changed for entry in measured(read)] == ["", "damping=0.5"]


def as_written(record: RunRecord, version: int) -> bytes:
    """The record as that version wrote it."""
    document = json.loads(to_json(record))
    if version == 1:
        del document["defaults"]
    return json.dumps(document | {"schema_version": version}).encode()


def test_a_record_says_its_own_defaults() -> None:
    """A default that is none of version 1 decides, so a method of a plug-in is judged like any other."""
    record = make_record("sparsegpt", results=(make_perplexity(1.0),), params={"damping": 0.5})
    mine = replace(record.defaults, method={"damping": 0.5})
    assert judged(replace(record, defaults=mine))
    assert not judged(replace(record, defaults=replace(mine, has_published_numbers=False)))
    assert not judged(replace(record, defaults=replace(mine, paper_name=None)))
    assert not judged(replace(record, defaults=replace(mine, propagation="dense")))


def test_kept_records_of_version_1_are_read() -> None:
    """Each becomes one of this version, and is read again as the same."""
    paths = sorted(KEPT.rglob("*__*.json"))
    assert paths
    for path in paths:
        assert json.loads(path.read_bytes())["schema_version"] == 1
        record = from_json(path.read_bytes(), str(path))
        assert record.schema_version == SCHEMA_VERSION
        assert record.job_id == path.stem
        assert from_json(to_json(record), str(path)) == record


def test_what_version_1_did_not_know_has_no_defaults() -> None:
    """A method that is gone, or was a plug-in, tells nothing."""
    job = {"model": {"name": "mine"}, "method": {"name": "mine"}, "allocation": {"name": "mine"}}
    found = defaults(job)
    assert (found["paper_name"], found["method"], found["propagation"]) == (None, {}, None)
    assert found["has_published_numbers"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "is not a record: document"),
        (b"[]", "is not a record"),
        (b"{}", "is not a record: schema_version: Field required"),
        (as_written(make_record(), 3), "has schema_version 3; allowed: 1 to 2"),
    ],
)
def test_what_is_no_record_is_one_line(data: bytes, message: str) -> None:
    """The file and the field are named."""
    with pytest.raises(UserError, match=f"f.json {message}"):
        from_json(data, "f.json")


def test_a_job_without_its_identity_is_named() -> None:
    """A field of the job that is missing, or leads out of a folder, is found when the record is read."""
    record = make_record()
    for job, where in (
        ({"model": record.job["model"]}, "job.method: Field required"),
        (record.job | {"model": record.job["model"] | {"name": "../up"}}, "job.model.name: String should match"),
    ):
        with pytest.raises(UserError, match=f"a file is not a record: {where}"):
            from_json(to_json(replace(record, job=job)), "a file")  # type: ignore[arg-type]


def test_a_version_of_the_future_is_named_whatever_it_looks_like() -> None:
    """Not a field of it that we do not understand."""
    with pytest.raises(UserError, match="a file has schema_version 99; allowed: 1 to 2"):
        from_json(b'{"schema_version": 99, "job": []}', "a file")


def test_the_published_schema_is_what_records_are() -> None:
    """Kept records, as they are written today, and one with an infinite number; no other word for a number is."""
    schema = jsonschema.Draft202012Validator(json_schema())
    schema.check_schema(schema.schema)
    kept = [from_json(path.read_bytes(), path.name) for path in sorted(KEPT.glob("*/*.json"))[:5]]
    infinite = make_record("wanda", results=(make_perplexity(float("inf")),))
    *_, overflown = written = [json.loads(to_json(record)) for record in (*kept, infinite)]
    assert len(written) == 6
    assert not [error for record in written for error in schema.iter_errors(record)]
    overflown["results"][0]["value"] = "much"
    (error,) = schema.iter_errors(overflown)
    assert error.json_path == "$.results[0].value"


def test_the_schema_says_what_every_field_is() -> None:
    """In the words of the dataclasses; numbers of a job's own specification are told of there."""
    schema = json_schema()
    for part in (schema, *(schema["$defs"][name] for name in ("EvalResult", "LayerReport", "Provenance", "Defaults"))):
        assert all(field["description"] for field in part["properties"].values())
