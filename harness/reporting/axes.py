"""The axes of the benchmark: in what jobs differ, and what of it a table or a figure has to say."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from harness.patterns import parse_n_of_m
from harness.reporting.frame import PARAMS_SEPARATOR, JobRow
from harness.reporting.layout import percent
from harness.reporting.published import DENSE, NO_RECOVERY, UNIFORM, natural_key

LONGEST_SETTING = 40
"""Characters of a setting in a label: of a longer one the end is shown, where that tells it apart."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A field of the job.  Empty text says that it does not apply to the job.

    Args:
        key: for machines; header: for people.
        within: key of an axis; where jobs differ in that, a difference in this one goes without saying.
        order: sort key of a value.
    """

    key: str
    header: str
    value: Callable[[JobRow], str]
    within: str = ""
    order: Callable[[str], object] = natural_key


def pattern_order(pattern: str, sparsity: float) -> tuple[int, float, int, str]:
    """Unstructured by sparsity, then N:M from the widest group to the narrowest, then the rest by name."""
    n_of_m = parse_n_of_m(pattern)
    rank = 0 if pattern == DENSE else 1 if pattern == "unstructured" else 2 if n_of_m else 3
    return (rank, sparsity, -n_of_m.group if n_of_m else 0, pattern)


def pattern_name(pattern: str, sparsity: float) -> str:
    """`2:4`, the sparsity of an unstructured pattern, `channel 50%`."""
    share = f"{100 * sparsity:g}%"
    return pattern if ":" in pattern else share if pattern == "unstructured" else f"{pattern} {share}"


CALIBRATED = {"pruned": "sequential calibration", "dense": "dense calibration"}
"""What papers call the two origins of a block's inputs: the blocks before it as they are pruned, or the dense model."""

SETTINGS = (
    Axis("checkpoint", "checkpoint", lambda job: job.checkpoint, "model"),
    Axis("dtype", "dtype", lambda job: job.dtype),
    Axis("params", "params", lambda job: job.params, "method"),
    Axis("allocation", "allocation", lambda job: "" if job.is_dense else job.allocation),
    Axis("recovery", "recovery", lambda job: "" if job.is_dense else job.recovery),
    Axis("training_data", "training data", lambda job: job.training_data, "recovery"),
    Axis("calibration", "calibration", lambda job: job.calibration),
    Axis("calibration_data", "calibration data", lambda job: job.calibration_data, "calibration"),
    Axis("sampling", "sampling", lambda job: job.sampling, "calibration"),
    Axis("propagation", "propagation", lambda job: CALIBRATED.get(job.propagation, job.propagation)),
    Axis("seed", "seed", lambda job: "" if job.seed is None else str(job.seed)),
)
"""What is said only where jobs differ in it."""

AXES = (
    Axis("model", "model", lambda job: job.model),
    Axis("method", "method", lambda job: job.method),
    Axis("pattern", "pattern", lambda job: job.shown_pattern, order=lambda text: pattern_order(text, 0)),
    Axis("sparsity", "sparsity", lambda job: percent(job.sparsity), order=lambda text: float(text.rstrip("%"))),
    *SETTINGS,
    Axis("device", "device", lambda job: job.device),
    Axis("status", "status", lambda job: job.status),
    Axis("checkout", "checkout", lambda job: "uncommitted changes" if job.dirty else "clean"),
)
_BY_KEY = {axis.key: axis for axis in AXES}


def job_order(job: JobRow) -> tuple[object, ...]:
    """Sort key: by model, dense first, then method, pattern, sparsity and the other axes."""
    rest = natural_key(" ".join(axis.value(job) for axis in SETTINGS))
    where = (natural_key(job.model), not job.is_dense, natural_key(job.method))
    return (*where, pattern_order(job.pattern, job.sparsity), rest, job.job_id)


def differing(jobs: Sequence[JobRow]) -> list[Axis]:
    """The `SETTINGS` in which jobs differ; of parameters those that differ within a method or are changed."""
    methods: dict[str, set[tuple[str, str]]] = {}
    for job in jobs:
        methods.setdefault(job.method, set()).add((job.params, job.changed))
    told = {method: distinguishing_params(params) for method, params in methods.items()}
    params = Axis("params", "params", lambda job: told[job.method][job.params])
    settings = [params if axis.key == "params" else axis for axis in SETTINGS]
    return [axis for axis in settings if _differs(axis, jobs) or (axis is params and any(map(params.value, jobs)))]


def distinguishing_axes(jobs: Sequence[JobRow]) -> list[Axis]:
    """The axes in which jobs differ, and the job itself where that leaves two jobs with the same labels.

    (The types `auto` and `float32` may both have been float32.)
    """
    axes = differing(jobs)
    labels: dict[tuple[object, ...], str] = {}
    for job in jobs:
        label = (job.model, job.method, job.pattern, job.sparsity, *(axis.value(job) for axis in axes))
        if labels.setdefault(label, job.job_id) != job.job_id:
            return [*axes, Axis("job", "job", lambda job: job.job_id.rsplit("__", 1)[-1])]
    return axes


def setting_labels(jobs: Sequence[JobRow]) -> tuple[list[str], list[str]]:
    """The method of every job and the settings in which jobs of a method differ, but for the seed: for a legend.

    Returns:
        The labels, and a note for every setting in which only methods differ.
    """
    columns, notes = [[job.method for job in jobs]], []
    for axis in (axis for axis in differing(jobs) if axis.key != "seed"):
        values = [axis.value(job) for job in jobs]
        of_method = {(job.method, value) for job, value in zip(jobs, values, strict=True)}
        if axis.key not in ("params", "allocation", "recovery") and len(of_method) == len(dict(of_method)):
            notes.append(_by_value(of_method))
            continue
        if axis.key in ("allocation", "recovery"):
            short = short_labels(values)
            values = [short[value] for value in values]
        cut = [value[-LONGEST_SETTING:] for value in values]
        columns.append(cut if len(set(cut)) == len(set(values)) else values)
    return [", ".join(filter(None, parts)) for parts in zip(*columns, strict=True)], notes


def _by_value(methods: Iterable[tuple[str, str]]) -> str:
    """`dense calibration: obc, venum; sequential calibration: the others`."""
    by_value: dict[str, list[str]] = {}
    for method, value in sorted(methods, key=lambda one: natural_key(one[0])):
        by_value.setdefault(value or "none", []).append(method)
    *rare, usual = sorted(by_value, key=lambda value: len(by_value[value]))
    return "; ".join([*(f"{value}: {', '.join(by_value[value])}" for value in rare), f"{usual}: the others"])


def distinguishing_params(rows: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The parameters of jobs of one method without what all of them have, unless it was changed from its default.

    Args:
        rows: `params` and `changed` of every job.
    """
    rows = set(rows)
    parts = {params: params.split(PARAMS_SEPARATOR) for params, _ in rows}
    common = set.intersection(*map(set, parts.values())) if parts else set()
    common -= {part for _, changed in rows for part in changed.split(PARAMS_SEPARATOR)}
    return {text: PARAMS_SEPARATOR.join(part for part in found if part not in common) for text, found in parts.items()}


def short_labels(choices: Iterable[str]) -> dict[str, str]:
    """Each of these allocations or recoveries as people say it: without its parameters where no other has its name, and
    not at all where it is the usual one.
    """
    named = {text: text.split(" (")[0] for text in choices}
    count = Counter(named.values())
    usual = ("", UNIFORM, NO_RECOVERY)
    return {text: "" if name in usual else name if count[name] == 1 else text for text, name in named.items()}


def _differs(axis: Axis, jobs: Iterable[JobRow]) -> bool:
    within = _BY_KEY.get(axis.within)
    seen: dict[str, set[str]] = {}
    for job in jobs:
        if value := axis.value(job):
            seen.setdefault(within.value(job) if within else "", set()).add(value)
    return any(len(values) > 1 for values in seen.values())
