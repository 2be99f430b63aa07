"""The walk: calibrate a block, prune it, hand its outputs to the next.

Only one block and the calibration activations need the accelerator; the rest of the model stays where it is.
Layers inside a block see the dense block's activations, but the block's input comes from the pruned prefix
(`propagation=pruned`, as Wanda and SparseGPT do) or from the dense model (`dense`, as OBC does).
"""

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from harness.calibration.activations import overwrite, record_into_buffer
from harness.calibration.capture import BlockCall, InputGroup, InputObserver
from harness.errors import UserError
from harness.job import Propagation
from harness.models.layers import PrunableLinear, decoder_blocks, prunable_linears, unreached_weights, weight_view
from harness.models.residency import InMemory, Residency
from harness.patterns import Pattern, SemiStructured
from harness.progress import Reporter
from harness.pruning.methods.base import LayerwiseMethod
from harness.record import LayerReport

ERROR_TOKENS = 1024
"""Calibration tokens, from the first on, that every layer's output error is measured on."""


@dataclass(slots=True)
class PruningOutcome:
    """What the walk did: reports in model order, wall time of its two halves in seconds."""

    layers: list[LayerReport] = field(default_factory=list)
    calibrate_s: float = 0.0
    prune_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Walk:
    """How the blocks are walked.

    Args:
        patterns: pattern of every prunable linear, by its path in the model.
        propagation: where the inputs of the next block come from.
        device: where a block is computed.
        batch_tokens: most tokens in one forward pass, >= 1; at least one sequence is run at a time.
    """

    patterns: Mapping[str, Pattern]
    propagation: Propagation
    device: torch.device
    batch_tokens: int


def check_patterns(patterns: Mapping[str, Pattern], shapes: Mapping[str, tuple[int, int]]) -> None:
    """Raise `UserError` when a layer cannot take its pattern."""
    for name, pattern in patterns.items():
        if isinstance(pattern, SemiStructured):
            pattern.check_width(shapes[name][1], name)


def unreached_note(model: nn.Module) -> str | None:
    """What layerwise methods do not reach in this model, to be said before the job starts."""
    prefix, blocks = decoder_blocks(model)
    missed = [
        (f"{prefix}.{index}.{name}", math.prod(shape))
        for index, block in enumerate(blocks)
        for name, shape in unreached_weights(block)
    ]
    if not missed:
        return None
    weights = sum(size for _, size in missed)
    return f"not pruned, being no linear layers: {len(missed)} tensors of {weights:,} weights, first {missed[0][0]}"


@torch.no_grad()
def prune_model(
    model: nn.Module,
    method: LayerwiseMethod,
    tokens_BL: Tensor,
    walk: Walk,
    reporter: Reporter,
    residency: Residency | None = None,
) -> PruningOutcome:
    """Prune every linear of every decoder block of `model`, in place.

    Args:
        tokens_BL: calibration token ids, all of one length.
        residency: gives out the blocks of `model`; None = they are in memory.

    Raises:
        UserError: a layer that no calibration token reaches.
    """
    residency = residency or InMemory(model)
    outcome = PruningOutcome()
    prefix, blocks = decoder_blocks(model)
    batches = _batches(tokens_BL if method.needs else _error_sample(tokens_BL), walk.batch_tokens)
    reporter.start("prune: record the model's calls", 1)
    with _timed(outcome, "calibrate_s"):
        recorded = record_into_buffer(model, batches, residency)
    reporter.start("prune: blocks", len(blocks))
    for index in range(len(blocks)):
        with residency.block(index, walk.device, writes=True) as block:
            is_last = index == len(blocks) - 1
            with _timed(outcome, "calibrate_s"):
                groups = _observe(block, recorded.calls[index], recorded.hidden, method, walk, is_last=is_last)
            linears = prunable_linears(block)
            with _timed(outcome, "prune_s"):
                reports: dict[str, LayerReport] = {}
                for group in groups:
                    reports |= _prune_group(group, linears, method, f"{prefix}.{index}", walk.patterns)
            _check_all_reached(linears, reports, f"{prefix}.{index}")
            outcome.layers += [reports[name] for name in linears]
            if walk.propagation == "pruned" and not is_last:
                with _timed(outcome, "calibrate_s"):
                    for call, hidden_BLH in zip(recorded.calls[index], recorded.hidden, strict=True):
                        overwrite(hidden_BLH, call.replay(block, hidden_BLH.to(walk.device)))
        recorded.calls[index].clear()
        reporter.advance()
    return outcome


def _observe(
    block: nn.Module,
    calls: Sequence[BlockCall],
    hidden: list[Tensor],
    method: LayerwiseMethod,
    walk: Walk,
    *,
    is_last: bool,
) -> list[InputGroup]:
    """Statistics of the block's inputs; with dense propagation `hidden` becomes the block's outputs on the way."""
    passes_on = walk.propagation == "dense" and not is_last
    observer = InputObserver(
        prunable_linears(block), method.needs, sample_tokens=ERROR_TOKENS, stop_early=not passes_on
    )
    for call, hidden_BLH in zip(calls, hidden, strict=True):
        output = observer.forward(block, call, hidden_BLH.to(walk.device))
        if passes_on:
            assert output is not None, "a pass that was not told to stop early has an output"
            overwrite(hidden_BLH, output)
    return observer.groups


def _prune_group(
    group: InputGroup,
    linears: Mapping[str, PrunableLinear],
    method: LayerwiseMethod,
    prefix: str,
    patterns: Mapping[str, Pattern],
) -> dict[str, LayerReport]:
    """Prune the linears of one input together; reports by path in the block."""
    weights = [weight_view(linears[name]) for name in group.names]
    wanted = [patterns[f"{prefix}.{name}"] for name in group.names]
    pruned = method.prune_group(weights, group.statistics, wanted)
    sample_TI = group.sample_TI.float()
    reports = {}
    for name, weight_OI, outcome, pattern in zip(group.names, weights, pruned, wanted, strict=True):
        new_OI = outcome.weight_OI.to(weight_OI.dtype)
        dense_TO = sample_TI @ weight_OI.float().T
        error_TO = dense_TO - sample_TI @ new_OI.float().T
        scale = float(dense_TO.norm())
        weight_OI.copy_(new_OI)
        reports[name] = LayerReport(
            name=f"{prefix}.{name}",
            shape=(weight_OI.shape[0], weight_OI.shape[1]),
            requested_sparsity=pattern.sparsity,
            achieved_sparsity=float((weight_OI == 0).sum()) / weight_OI.numel(),
            relative_output_error=float(error_TO.norm()) / scale if scale else None,
            error_tokens=len(sample_TI),
            details=outcome.details,
        )
    return reports


def _check_all_reached(linears: Mapping[str, PrunableLinear], reports: Mapping[str, LayerReport], prefix: str) -> None:
    missed = [f"{prefix}.{name}" for name in linears if name not in reports]
    if missed:
        raise UserError(f"no calibration token reached {missed[0]}; allowed: more or longer calibration sequences")


def _batches(tokens_BL: Tensor, batch_tokens: int) -> list[Tensor]:
    return list(tokens_BL.split(max(1, batch_tokens // tokens_BL.shape[1])))


def _error_sample(tokens_BL: Tensor) -> Tensor:
    """The sequences that errors are measured on: all that a method without statistics needs to run."""
    return tokens_BL[: math.ceil(ERROR_TOKENS / tokens_BL.shape[1])]


class _timed:
    """Adds the wall time of its body to a field of the outcome."""

    def __init__(self, outcome: PruningOutcome, name: str) -> None:
        self._outcome, self._name = outcome, name

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        elapsed = time.perf_counter() - self._start
        setattr(self._outcome, self._name, getattr(self._outcome, self._name) + elapsed)


def achieved_sparsity(layers: Sequence[LayerReport]) -> float:
    """Zeros over all prunable weights, counted."""
    zeros = sum(report.achieved_sparsity * math.prod(report.shape) for report in layers)
    return zeros / sum(math.prod(report.shape) for report in layers)


def weights_fingerprint(model: nn.Module, residency: Residency | None = None) -> str:
    """sha256 over the weights of the prunable linears, to recognise them when a job is made again."""
    residency = residency or InMemory(model)
    digest = hashlib.sha256()
    for index in range(len(decoder_blocks(model)[1])):
        with residency.block(index, torch.device("cpu")) as block:
            for linear in prunable_linears(block).values():
                digest.update(linear.weight.data.contiguous().view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"
