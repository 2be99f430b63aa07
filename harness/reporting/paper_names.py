"""How papers name what a job computed: by our names, or by those of the facts in `experiments/paper_names.csv`."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from harness.record import ChoiceFields, JsonValue, RunRecord
from harness.reporting.published import NO_RECOVERY, UNIFORM, experiments_folder, read_facts


@dataclass(frozen=True, slots=True)
class PaperName:
    """How papers name what our jobs of one setting compute, where it is not by our own names.

    Args:
        changed: the method's hyperparameters that are not its defaults, as `JobRow.changed` spells them.
        allocation: its name; its hyperparameters are the defaults.
        paper_method, differs: see `JobRow`.
    """

    method: str
    changed: str
    allocation: str
    paper_method: str
    differs: str


def paper_name(record: RunRecord, changed: str) -> tuple[str, str]:
    """How papers name the method in its setting, and what we compute otherwise; empty where none prints that setting.

    The rule is that hyperparameters are the defaults and an allocation is written before the method, ``owl w. wanda``;
    the exceptions are facts that come with the package.  A hyperparameter that has no default any more tells nothing.
    """
    job, defaults = record.job, record.defaults
    method, allocation, calibration = job["method"]["name"], job["allocation"], job["calibration"]
    propagation = calibration["propagation"] if calibration else None
    if (
        not defaults.has_published_numbers
        or job["recovery"]["name"] != NO_RECOVERY
        or (None not in (propagation, defaults.propagation) and propagation != defaults.propagation)
        or not_defaults(allocation, defaults.allocation)
    ):
        return "", ""
    if exception := _exceptions().get((method, changed, allocation["name"])):
        return exception.paper_method, exception.differs
    named = method if allocation["name"] in ("", UNIFORM) else f"{allocation['name']} w. {method}"
    return "" if changed else named, ""


@cache
def _exceptions() -> Mapping[tuple[str, str, str], PaperName]:
    found = read_facts(experiments_folder() / "paper_names.csv", PaperName)
    return {(one.method, one.changed, one.allocation): one for one in found}


def not_defaults(choice: ChoiceFields, defaults: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The hyperparameters of a choice that are not its defaults."""
    return {name: value for name, value in choice["params"].items() if defaults.get(name, value) != value}
