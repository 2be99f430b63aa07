"""Size and speed of a model, the speed beside the dense model's: what pruning is for."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.data.places import DataRef
from harness.evaluation.base import EVALUATIONS, Estimate, Evaluation, Measured, MemoryNeed, check_length
from harness.job import Count, EvaluationProtocol, Identity, RunOptions, Runtime, protocol_key
from harness.record import EvalResult, JsonValue

if TYPE_CHECKING:
    from harness.evaluation.base import EvaluationContext, Ready
    from harness.evaluation.speed import Contender, Pass, Timings
    from harness.models.loading import LoadedModel

Part = Literal["size", "speed"]
NO_FASTER = "no faster: zeros are computed"
PARTS = {
    "size": "parameters, non-zeros, bytes dense, as bitmap, CSR, 2:4 and on disk, multiplications a token",
    "speed": "time to first token, tokens a second of a prompt and of cached decoding, x dense; peak memory",
}


@dataclass(frozen=True, slots=True)
class EfficiencyProtocol(EvaluationProtocol):
    """Size or speed of a model; speed is of random tokens, in float32 or as the job says, on the job's device.

    Args:
        part: which.
        batch: sequences at once; prompt_tokens: of each; new_tokens: written after it.
        rounds: that the median is over, which the key does not name: they decide its error alone.
        threads: of the processor, None = as many as the process has.
        version: raised when the computation changes.
    """

    kind: ClassVar[str] = "efficiency"

    part: Part
    batch: int = 1
    prompt_tokens: int = 512
    new_tokens: int = 32
    rounds: int = 7
    threads: int | None = None
    version: int = 1

    @property
    def name(self) -> str:
        return self.part

    @property
    def key(self) -> str:
        parts = [self.kind, self.part]
        if self.part == "speed":
            parts += [f"batch{self.batch}", f"prompt{self.prompt_tokens}", f"new{self.new_tokens}"]
            parts += [f"threads{self.threads}"] if self.threads else []
        return protocol_key([*parts, f"v{self.version}"], None)


@EVALUATIONS.register(EfficiencyProtocol.kind)
@dataclass(frozen=True, slots=True)
class Efficiency(Evaluation[EfficiencyProtocol]):
    """What a model takes: memory, storage, time.  Times are measured once: a rerun of the job does not repeat them.

    Args:
        efficiency: `size` and `speed`.
        speed_batch: sequences at once.
        prompt_tokens: of each.
        new_tokens: written after the prompt, one at a time.
        speed_rounds: rounds of the pruned model and the dense one that the median is over.
        speed_threads: of the processor, None = as many as the process has.
    """

    called: ClassVar[str] = "measures of efficiency"
    asks: ClassVar[str] = "efficiency"
    needs_whole_model: ClassVar[bool] = True
    needs_dense: ClassVar[bool] = True

    efficiency: Identity[tuple[Part, ...]] = ()
    speed_batch: Identity[Count] = 1
    prompt_tokens: Identity[Count] = 512
    new_tokens: Identity[Count] = 32
    speed_rounds: Runtime[Count] = 7
    speed_threads: Identity[Count | None] = None

    @classmethod
    def choices(cls) -> dict[str, str]:
        return {name: f"efficiency: {about}" for name, about in PARTS.items()}

    def ask(self, find: Callable[[str], DataRef]) -> list[tuple[EfficiencyProtocol, DataRef | None]]:
        sizes = (self.speed_batch, self.prompt_tokens, self.new_tokens, self.speed_rounds, self.speed_threads)
        return [(EfficiencyProtocol(part, *(sizes if part == "speed" else ())), None) for part in self.efficiency]

    @classmethod
    def needs_tokenizer(cls, protocol: EfficiencyProtocol) -> bool:
        return False

    @classmethod
    def prepare(cls, protocol: EfficiencyProtocol, data: DataRef | None, loaded: "LoadedModel") -> None:
        if protocol.part == "speed":
            total = protocol.prompt_tokens + protocol.new_tokens
            check_length("evaluation.prompt_tokens + evaluation.new_tokens", total, loaded)

    @classmethod
    def measure(cls, asked: "Sequence[Ready[EfficiencyProtocol]]", context: "EvaluationContext") -> Measured:
        by_part = {"size": _size, "speed": _speed}
        return Measured(tuple(result for each in asked for result in by_part[each.protocol.part](each, context)))

    @classmethod
    def needs(cls, protocol: EfficiencyProtocol, data: DataRef | None, options: RunOptions) -> MemoryNeed:
        if protocol.part == "size":
            return MemoryNeed()
        return MemoryNeed(tokens_at_once=protocol.batch * protocol.prompt_tokens, dense_models=1)


def _size(asked: "Ready[EfficiencyProtocol]", context: "EvaluationContext") -> Iterator[EvalResult]:
    from harness.evaluation.sizes import sizes_of

    context.reporter.start("evaluate: size", 1)
    for metric, value in sizes_of(context.loaded.model, context.device).items():
        yield _result(asked, metric, Estimate(value, None, 1), "the model's weights", {})
    context.reporter.advance()


def _speed(asked: "Ready[EfficiencyProtocol]", context: "EvaluationContext") -> Iterator[EvalResult]:
    import torch

    from harness.evaluation.speed import Pass, semi_structured, threads, timings, two_of_four, whole

    protocol, model, device, dense = asked.protocol, context.loaded.model, context.device, context.dense
    assert dense is not None, "a kind that needs the dense model is given it"
    shape = (protocol.batch, protocol.prompt_tokens)
    prompt_BL = torch.randint(context.loaded.vocab_size, shape, generator=torch.Generator().manual_seed(0)).to(device)
    one_pass = Pass(prompt_BL, protocol.new_tokens)
    context.reporter.start("evaluate: speed, rounds", protocol.rounds + 1)
    with threads(protocol.threads) as count, whole(dense, device) as teacher:
        contenders: dict[str, Contender] = {"dense": partial(one_pass, teacher), "pruned": partial(one_pass, model)}
        if two_of_four(model):

            def sparse() -> tuple[float, float]:
                with semi_structured(model):
                    return one_pass(model)

            contenders["pruned as 2:4"] = sparse
        times = timings(contenders, protocol.rounds, context.reporter.advance)
        same_work = _computes_zeros(model, teacher)
    dtype = str(model.dtype).removeprefix("torch.")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    where = f"{name}, {count} {'thread' if count == 1 else 'threads'}, {dtype}"
    details: dict[str, JsonValue] = {
        "seconds_to_first_token": {name: [*seconds] for name, seconds in times.first.items()},
        "seconds_of_new_tokens": {name: [*seconds] for name, seconds in times.further.items()},
    }
    if same_work:
        details["said"] = NO_FASTER
        context.reporter.note(NO_FASTER)
    for metric, estimate in _numbers(one_pass, times):
        yield _result(asked, metric, estimate, where, details)
    peak = Estimate(one_pass.peak_memory(model), None, 1)
    yield _result(asked, "peak_memory_bytes", peak, where, {})


def _computes_zeros(model: Any, dense: Any) -> bool:
    """Whether the pruned model has more zeros than the dense one, and multiplies with them as with other weights."""
    from harness.blocks.layers import prunable_layers

    now, before = ([each.weight for each in prunable_layers(which).values()] for which in (model, dense))
    same = [each.shape for each in now] == [each.shape for each in before]
    return same and sum(int((each == 0).sum()) for each in now) > sum(int((each == 0).sum()) for each in before)


def _numbers(one_pass: "Pass", times: "Timings") -> Iterator[tuple[str, Estimate]]:
    """The medians by metric; nothing of decoding where a model keeps no cache."""
    from harness.evaluation.speed import median

    yield "seconds_to_first_token", median(times.first["pruned"])
    phases = {"prefill": (times.first, one_pass.prompt_BL.numel())}
    if all(map(math.isfinite, times.further["pruned"])):
        phases["decode"] = (times.further, len(one_pass.prompt_BL) * one_pass.new_tokens)
    for phase, (seconds, tokens) in phases.items():
        for name, metric in (("pruned", f"{phase}_speedup"), ("pruned as 2:4", f"{phase}_speedup_2_4")):
            if name in seconds:
                pairs = zip(seconds["dense"], seconds[name], strict=True)
                yield metric, median([dense / pruned for dense, pruned in pairs])
        yield f"{phase}_tokens_per_second", median([tokens / each for each in seconds["pruned"]])


def _result(
    asked: "Ready[EfficiencyProtocol]", metric: str, estimate: Estimate, where: str, details: dict[str, JsonValue]
) -> EvalResult:
    protocol = asked.protocol
    return EvalResult(
        protocol=protocol.key,
        kind=protocol.kind,
        task=protocol.name,
        metric=metric,
        value=estimate.value,
        stderr=estimate.stderr,
        num_samples=estimate.count,
        higher_is_better="speedup" in metric or "per_second" in metric,
        subset=None,
        data_source=where,
        data_fingerprint=where,
        details=details,
    )
