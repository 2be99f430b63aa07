"""The pages of the site that are made of the code: every choice of every axis, protocols, and the record's schema."""

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from shutil import rmtree
from typing import Any, get_args

from harness.cli.listing import EXPLAINED, facts_of, rows_of
from harness.config.choices import descriptions
from harness.evaluation.base import EVALUATIONS, Evaluation, fields_of
from harness.record import json_schema
from harness.tracking.store import RecordStore

ROOT = Path(__file__).parents[1]
SCHEMA = "record.schema.json"
REDIRECT = '<!doctype html><title>Prunebench</title><meta http-equiv="refresh" content="0; url=docs/index.html">\n'
ABOUT = {
    "methods": """\
Every pruning method: what it computes, where it is from, which patterns it takes, and its parameters.
`prunebench list methods NAME` prints the same, `prunebench report --table METHODS` their properties side by side.""",
    "allocations": """\
How the sparsity is spread over the layers of a model; `prunebench list allocations NAME` prints the same.""",
    "recoveries": """\
What is done to a pruned model before it is measured; zeros stay zeros. `prunebench list recoveries NAME` prints the
same.""",
    "evaluations": """\
What a model is measured with. A protocol's key says everything that makes two numbers comparable; numbers of two keys
are never compared, nor put into one column. Where the data are not the published ones, the key says which.

Named choices (`evaluation=NAME`):""",
    "record": f"""\
One JSON document a job, `results/<model>/<job_id>.json`; reports read nothing else. Its JSON Schema is
<a href="../../{SCHEMA}">{SCHEMA}</a>, which `prunebench list schema` prints. Numbers that are not finite are the
strings `Infinity`, `-Infinity` and `NaN`. Records of version 1 are read, too. In Python:

```python
from pathlib import Path
from harness.reporting.frame import to_frame
from harness.tracking.store import RecordStore

frame = to_frame(RecordStore(Path("results")).all())  # pandas: a row a job and metric
```""",
}
CHOICES = {
    "models": """\
`prunebench run model=NAME`. Any other: `model=hub model.name=ORG/NAME model.revision=SHA`, or a folder,
`model=local model.path=DIR`.""",
    "patterns": "`prunebench run pattern=NAME`.",
    "corpora": """\
Text to calibrate on (`calibration=NAME`), to train on (`training=NAME`) and to measure on
(`evaluation.corpora=[NAME]`).""",
    "tasks": "Questions (`evaluation.tasks=[NAME,...]`), with lm-eval's prompts.",
    "experiments": "Named sweeps: `prunebench run -m +experiment=NAME`.",
}


def write_pages(folder: Path) -> None:
    """Write every generated page, and what belongs at the root of the site, into an empty `folder`."""
    rmtree(folder, ignore_errors=True)
    (folder / "root").mkdir(parents=True)
    (folder / "root" / "index.html").write_text(REDIRECT)
    (folder / "root" / SCHEMA).write_text(json.dumps(json_schema(), indent=2) + "\n")
    pages = {kind: _entries(kind) for kind in EXPLAINED} | {"evaluations": _evaluations()}
    pages |= {"choices": _choices(), "record": _record()}
    for name, lines in pages.items():
        (folder / f"{name}.md").write_text("\n".join(lines) + "\n")


def _entries(kind: str) -> Iterator[str]:
    yield from (f"# {kind.capitalize()}", "", ABOUT[kind], "")
    rows = rows_of(kind)
    short = [row | {"name": f"[{row['name']}](#{row['name']})"} for row in rows]
    yield from _table(
        [{key: prose(text) if key == "description" else text for key, text in row.items()} for row in short]
    )
    for row in rows:
        facts = facts_of(kind, row["name"])
        text, told = _arguments(facts["description"])
        yield from (f"({row['name']})=", f"## {row['name']}", "", prose(text), "")
        known = {"patterns": "Patterns", "propagation": "`calibration.propagation=auto` stands for"}
        yield from (f"{said}: {facts[key]}\n" for key, said in known.items() if key in facts)
        parameters = [
            {
                "parameter": f"`{each['name']}`",
                "default": f"`{each['default']}`",
                "values": " or ".join(f"`{value}`" for value in str(each["values"]).split(" | ")),
                "what it is": prose(told[each["name"].rpartition(".")[2]]),
            }
            for each in facts["parameters"]
        ]
        yield from _table(parameters) if parameters else ("No parameters.", "")


def _evaluations() -> Iterator[str]:
    yield from ("# Evaluations and their protocols", "", ABOUT["evaluations"], "")
    yield from _table([_said({"name": name, "description": text}) for name, text in descriptions("evaluation").items()])
    records = [record for folder in (ROOT / "results").glob("*/") for record in RecordStore(folder).all()]
    keys = {result.protocol for record in records for result in record.results}
    for name, kind in EVALUATIONS.all().items():
        text, told = _class(kind)
        yield from (f"## {name}", "", prose(text), "")
        yield from _table(
            [
                {"field": f"`evaluation.{field}`", "default": f"`{default}`", "what it is": prose(told[field])}
                for field, (_, default) in fields_of(kind).items()
            ]
        )
        text, told = _class(_protocol(kind))
        yield from (f"**Its protocol.** {prose(text)}", "")
        yield from _table([{"part of the key": f"`{part}`", "what it is": prose(said)} for part, said in told.items()])
        kept = sorted(key for key in keys if key.startswith(f"{name}:"))
        if kept:
            yield from ("Keys of the kept records:", "", *(f"- `{key}`" for key in kept), "")
        yield from ("What it is measured on:", "")
        yield from _table([_said({"name": choice, "description": said}) for choice, said in kind.choices().items()])


def _protocol(kind: type[Evaluation[Any]]) -> type:
    """What the class says between its brackets, ``Evaluation[ZeroShotProtocol]``."""
    found = [argument for base in getattr(kind, "__orig_bases__", ()) for argument in get_args(base)]
    return next(argument for argument in found if isinstance(argument, type))


def _choices() -> Iterator[str]:
    yield from ("# Models, patterns, corpora, tasks, experiments", "")
    yield from ("`prunebench list KIND` prints each of these tables.", "")
    for kind, how in CHOICES.items():
        yield from (f"## {kind.capitalize()}", "", how, "")
        yield from _table([_said(row) for row in rows_of(kind)])


def _said(row: Mapping[str, str]) -> dict[str, str]:
    return {key: f"`{text}`" if key == "name" else prose(text) for key, text in row.items()}


def _record() -> Iterator[str]:
    schema = json_schema()
    yield from ("# The record of a job", "", ABOUT["record"], "")
    for name, part in {"RunRecord": schema, **schema["$defs"]}.items():
        if "properties" not in part:
            continue
        yield from (f"## {name}", "", prose(part["description"]), "")
        yield from _table(
            [
                {
                    "field": f"`{field}`" + ("" if field in part["required"] else " (optional)"),
                    "type": prose(_type(said)),
                }
                | ({"what it is": prose(said["description"])} if "description" in said else {})
                for field, said in part["properties"].items()
            ]
        )


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{each}`" for each in schema["enum"])
    inside = schema.get("items") or schema.get("additionalProperties")
    of = f" of {_type(inside)}" if isinstance(inside, dict) and inside else ""
    return f"{schema.get('type', 'any')}{of}"


def _class(entry: type) -> tuple[str, dict[str, str]]:
    """The text of a class's docstring, and what it and its bases say of each of its fields."""
    texts = [_arguments(inspect.cleandoc(base.__doc__ or "")) for base in reversed(entry.__mro__)]
    return texts[-1][0], {name: said for _, told in texts for name, said in told.items()}


def _arguments(docstring: str) -> tuple[str, dict[str, str]]:
    """The text of a docstring without its section of arguments, and what that says of each."""
    text, _, rest = docstring.partition("\nArgs:\n")
    section, _, after = rest.partition("\n\n")
    found = re.findall(r"^ {4}(\w[\w, ]*): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    told = {name.strip(): " ".join(said.split()) for names, said in found for name in names.split(",")}
    return f"{text}\n{after}".strip(), told


def prose(text: str) -> str:
    """Text of a docstring as Markdown: what is no markup stays as it is, indices and powers are set as such."""
    parts = re.split(r"(`+[^`]+`+|https?://[^\s),;]+)", text)
    return "".join(_shown(part) for part in parts)


def _shown(part: str) -> str:
    if part.startswith("`"):
        return f"`{part.strip('`')}`"
    if part.startswith("http"):
        address = part.rstrip(".:")
        return f"<{address}>{part[len(address) :]}"
    escaped = re.sub(r"(?m)(?<!^)[*](?! )|[<\[\]|]", r"\\\g<0>", part)
    powers = re.sub(r"\^(-?\w+)", r"<sup>\1</sup>", escaped)
    indices = re.sub(r"(?<=[A-Za-z|])_([A-Za-z0-9]{1,2}|:,?[a-z]|:)(?![\w(])", r"<sub>\1</sub>", powers)
    return indices.replace("_", r"\_")


def _table(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    if not rows:
        return
    yield _line(rows[0])
    yield _line("---" for _ in rows[0])
    yield from (_line(row.values()) for row in rows)
    yield ""


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(' '.join(cell.split()) or '–' for cell in cells)} |"
