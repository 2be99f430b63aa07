"""Many records that no model stands behind, to time what reads records."""

from itertools import cycle, islice, product

from harness import record_v1
from harness.evaluation.kinds.perplexity import PerplexityProtocol
from harness.evaluation.kinds.zero_shot import ZeroShotProtocol
from harness.job import CalibrationSpec, Choice, JobSpec, ModelSpec, PruningSpec
from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.record import SCHEMA_VERSION, Defaults, EvalResult, LayerReport, Provenance, RunRecord

MODELS = ("opt-125m", "opt-1.3b", "opt-6.7b", "opt-13b", "llama-7b", "llama-13b", "llama-30b", "llama-2-7b")
METHODS = ("magnitude", "wanda", "sparsegpt", "ria", "dsnot", "adaprune", "obc", "random")
PATTERNS: tuple[Pattern, ...] = (
    *(Unstructured(step / 10) for step in range(1, 9)),
    SemiStructured(2, 4),
    SemiStructured(4, 8),
)
CORPORA = ("wikitext2", "ptb", "c4")
TASKS = ("boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")


def records(jobs: int, layers: int) -> list[RunRecord]:
    """Models × methods × patterns, then the same under the next seed, each with ten results and so many layers."""
    settings = islice(enumerate(cycle(product(MODELS, METHODS, PATTERNS))), jobs)
    return [_record(number, *setting, layers) for number, setting in settings]


def _record(number: int, model: str, method: str, pattern: Pattern, layers: int) -> RunRecord:
    spec = JobSpec(
        ModelSpec(model, f"hub:facebook/{model}@abc", "auto"),
        PruningSpec(
            Choice(method),
            pattern,
            Choice("uniform"),
            CalibrationSpec("c4", "c4-shard-0", 128, 2048, "documents", "pruned"),
            Choice("none"),
            number // (len(MODELS) * len(METHODS) * len(PATTERNS)),
        ),
        (),
    )
    value = 10 + (number * 7919 % 10_007) / 100
    return RunRecord(
        SCHEMA_VERSION,
        spec.job_id,
        spec.identity(),  # type: ignore[arg-type]
        Defaults(**record_v1.defaults(spec.identity())),
        "done",
        (
            *(
                _result(PerplexityProtocol(corpus, None, 2048).key, corpus, "perplexity", value + place)
                for place, corpus in enumerate(CORPORA)
            ),
            *(
                _result(ZeroShotProtocol(task, "1.0", None).key, task, "acc", 0.4 + place / 100 + value / 1000)
                for place, task in enumerate(TASKS)
            ),
        ),
        tuple(
            LayerReport(f"layers.{layer // 7}.{layer % 7}", (512, 512), 0.5, 0.5, (layer * number) % 997 / 1e3, 64)
            for layer in range(layers)
        ),
        spec.requested_sparsity,
        None,
        {"load": 1.0, "calibrate": 2.0, "prune": 3.0 + number % 50, "evaluate": 9.0, "total": 15.0 + number % 50},
        {"cpu": 2**30},
        Provenance(
            f"2026-01-{1 + number % 28:02d}T00:00:00+00:00", "0.1.0", "abc", False, {"torch": "2.13.0"}, "3.11",
            "Linux", {"cpu": "a processor"}, "cpu", "float32", ("method=wanda",),
        ),
        (),
        None,
    )  # fmt: skip


def _result(protocol: str, task: str, metric: str, value: float) -> EvalResult:
    kind = "perplexity" if metric == "perplexity" else "zero_shot"
    return EvalResult(protocol, kind, task, metric, value, 0.01, 166, metric != "perplexity", None, "folder/x", "aa")
