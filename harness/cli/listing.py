"""The command that says what there is to choose from, and what a method or an allocation is."""

import argparse
import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from harness.cli.console import AddCommand, add_json, add_plugins, load_plugins, print_rich, print_table
from harness.errors import UserError, unknown

if TYPE_CHECKING:
    from harness.data.places import Role
    from harness.patterns import Pattern
    from harness.pruning.allocations.base import Allocation
    from harness.pruning.methods.base import PruningMethod
    from harness.recovery.base import Recovery
    from harness.registry import Registry

    Entry = type[PruningMethod] | type[Allocation] | type[Recovery]

FOLDERS = {"models": "model", "patterns": "pattern", "evaluations": "evaluation", "experiments": "experiment"}
"""Kinds whose entries are files of a folder of the configuration."""

EXPLAINED = {"methods": "method", "allocations": "allocation", "recoveries": "recovery"}
"""Kinds whose entries are registered, and can be explained one by one; with the axis of each."""
KINDS = (*EXPLAINED, "corpora", "tasks", *FOLDERS)
SCHEMA = "schema"
"""Of the records: no kind, it has no entries."""


def add_commands(command: AddCommand) -> None:
    """Add the command; `command` adds one by name, function and help text."""
    text = "say what there is to choose from, what one method, allocation or recovery is, or the schema of records"
    sub = command("list", listing, text)
    sub.add_argument("kind", choices=(*KINDS, SCHEMA))
    sub.add_argument("name", nargs="?", help="one of the methods, allocations or recoveries")
    add_plugins(sub)
    add_json(sub)


def listing(options: argparse.Namespace, _: Sequence[str]) -> int:
    """List a kind, or explain one of it.

    Raises:
        UserError: there is no such entry, or entries of this kind are not explained.
    """
    load_plugins(options)
    if options.name is not None:
        return _explain(options)
    if options.kind == SCHEMA:
        from harness.record import json_schema

        print(json.dumps(json_schema(), indent=2))
        return 0
    rows = rows_of(options.kind)
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        print_table(list(rows[0]), [list(row.values()) for row in rows])
    return 0


def rows_of(kind: str) -> list[dict[str, str]]:
    """What there is of a kind: a row an entry."""
    from harness.config.choices import COMMON_N_OF_M, descriptions

    if kind in EXPLAINED:
        return [
            {"name": name, **_patterns(entry), "description": _told(entry).splitlines()[0]}
            for name, entry in _entries(kind).items()
        ]
    if kind == "corpora":
        from harness.data.corpora.base import CORPORA

        roles: tuple[Role, ...] = ("calibration", "evaluation")
        return [
            {"name": name, "role": role, "description": places.about}
            for name, corpus in CORPORA.all().items()
            for role in roles
            if (places := corpus.places(role)) is not None
        ]
    if kind == "tasks":
        from harness.data.tasks.base import TASKS

        return [
            {"name": name, "metrics": ", ".join(task.metrics), "description": task.about}
            for name, task in TASKS.all().items()
        ]
    found = dict(descriptions(FOLDERS[kind]))  # which are kept for others
    if kind == "patterns":
        found |= {
            name: "{} of every {} consecutive weights are kept".format(*name.split(":")) for name in COMMON_N_OF_M
        }
        found |= {"N:M": "any other N kept of every M"}
    elif kind == "evaluations":
        from harness.evaluation.base import EVALUATIONS

        for entry in EVALUATIONS.all().values():
            found |= entry.choices()
    return [{"name": name, "description": text} for name, text in found.items()]


def _explain(options: argparse.Namespace) -> int:
    if options.kind not in EXPLAINED:
        raise UserError(f"list {options.kind} {options.name}: only one of {' or '.join(EXPLAINED)} is explained")
    facts = facts_of(options.kind, options.name)
    if options.json:
        print(json.dumps(facts, indent=2))
        return 0
    patterns = [f"patterns: {facts['patterns']}"] if "patterns" in facts else []
    print_rich("\n\n".join([facts["description"], *patterns]))
    if "propagation" in facts:
        print_rich(f"calibration.propagation=auto stands for {facts['propagation']}")
    if facts["parameters"]:
        print_table(("parameter", "default", "values"), [list(row.values()) for row in facts["parameters"]])
    else:
        print_rich("no parameters")
    return 0


def facts_of(kind: str, name: str) -> dict[str, Any]:
    """All that is said of one entry: its description, patterns, parameters and which calibration it takes.

    Raises:
        UserError: there is no such entry.
    """
    entries, axis = _entries(kind), EXPLAINED[kind]
    if name not in entries:
        raise unknown(axis, name, entries)
    entry = entries[name]
    inputs = getattr(entry, "propagation", None) if getattr(entry, "patterns", ()) else None
    about = f"{_told(entry)}\n\n{inspect.getdoc(entry)}"
    facts = {"name": name, **_patterns(entry), "parameters": _parameters(entry, axis), "description": about}
    return facts | ({"propagation": inputs} if inputs else {})


def _entries(kind: str) -> "Mapping[str, Entry]":
    from harness.pruning.allocations.base import ALLOCATIONS
    from harness.pruning.methods.base import METHODS
    from harness.recovery.base import RECOVERIES

    tables: dict[str, Registry[Any]] = {"methods": METHODS, "allocations": ALLOCATIONS, "recoveries": RECOVERIES}
    return tables[kind].all()


def _told(entry: "Entry") -> str:
    """What its file says of it."""
    return (sys.modules[entry.__module__].__doc__ or "").strip()


def _patterns(entry: "Entry") -> dict[str, str]:
    """The patterns that it takes; a recovery takes whatever the method left."""
    kinds: Sequence[type[Pattern]] | None = getattr(entry, "patterns", None)
    return {} if kinds is None else {"patterns": ", ".join(kind.choice for kind in kinds) or "-"}


def _parameters(entry: "Entry", axis: str) -> list[dict[str, Any]]:
    """Name on the command line, default and allowed values or type of every hyperparameter."""
    hints = get_type_hints(entry)
    return [
        {
            "name": f"{axis}.{field.name}",
            "default": field.default,
            "values": " | ".join(map(str, get_args(hints[field.name]))) or hints[field.name].__name__,
        }
        for field in fields(entry)
    ]
