"""The peak memory of a job, estimated before it starts from the sizes of its model; nothing is loaded or computed.

The terms are what sequential pruning holds at its fullest moment: the libraries, the weights (while they are loaded
also the checkpoint's own, where it stores another type), the calibration activations, one batch on its way through a
block, the statistics and what a solve needs beside them, and the head's logits.  For gradients it is the whole model in
float32, their moments, and what the backward pass of a sequence keeps.  `python -m benchmarks memory` prints estimates
next to measured peaks.
"""

from dataclasses import dataclass, replace
from functools import cached_property

from harness.config.request import JobRequest
from harness.data.corpora.self_generated import ROWS
from harness.evaluation.base import EVALUATIONS, HEAD_ROWS, MemoryNeed
from harness.job import Offload
from harness.models.devices import multiplies_bfloat16
from harness.models.dimensions import Dimensions, dimensions_of
from harness.pruning.methods.base import METHODS
from harness.record import ERROR_TOKENS

MIB = 2**20
LIBRARIES = 450 * MIB
"""Resident with torch (CPU build), transformers, a tokenizer, a text and this package."""
TYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
STORED_TYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True, slots=True)
class PeakMemory:
    """Estimated peaks in bytes.

    Args:
        on_cpu: resident memory of a job that computes on the CPU.
        beside_accelerator: resident memory of a job that computes on an accelerator, without that one's own libraries,
            where that one has no room for hidden states.
        on_accelerator: allocated memory of that accelerator, where it has.
        movable: of it the hidden states, which may also be in main memory.
        reserved: what that accelerator needs beside hidden states while there are any; None = not known.
        from_size: only the model's number of parameters is known: these are libraries and weights, and no more.
    """

    on_cpu: int
    beside_accelerator: int
    on_accelerator: int
    movable: int = 0
    reserved: int | None = None
    from_size: bool = False


def estimated_peak(request: JobRequest, offload: Offload) -> PeakMemory | None:
    """The peaks of a job with its blocks in one place; ``auto`` counts as ``none``, which it tries first.

    None where nothing is known of the model's size, where its checkpoint stores another type than plain floating point,
    and for methods that see the whole model at once, whose own gradients and factors are not counted.
    """
    if request.spec.pruning is not None:
        method = METHODS.build(request.spec.pruning.method)
        if method.needs_whole_model and not method.gradient_moments:
            return None
    dimensions = dimensions_of(request.checkpoint)
    if dimensions is None:
        return _of_size(request, offload)
    if dimensions.stored_type not in STORED_TYPES:
        return None
    return peak_of(dimensions, request, offload)


def peak_of(dimensions: Dimensions, request: JobRequest, offload: Offload) -> PeakMemory:
    """The peaks of a job on a model of these sizes."""
    asked, stored = request.spec.model.dtype, STORED_TYPES[dimensions.stored_type]
    cpu_type = _cpu_type(asked)
    accelerator_type = stored if asked == "auto" else asked
    request = replace(request, options=replace(request.options, offload="none" if offload == "auto" else offload))
    on_cpu = _Terms(request, dimensions, cpu_type, converts=cpu_type != stored)
    with_accelerator = _Terms(request, dimensions, accelerator_type, converts=accelerator_type != stored)
    beside_states, on_accelerator = with_accelerator.on_accelerator
    return PeakMemory(
        on_cpu=on_cpu.host + max(on_cpu.load, on_cpu.kept + on_cpu.buffer + on_cpu.working, on_cpu.gradients),
        beside_accelerator=with_accelerator.host
        + max(with_accelerator.load, with_accelerator.kept + with_accelerator.buffer),
        on_accelerator=on_accelerator,
        movable=on_accelerator - beside_states,
        reserved=with_accelerator.one_block,
    )


def _cpu_type(asked: str) -> str:
    return ("bfloat16" if multiplies_bfloat16() else "float32") if asked == "auto" else asked


def _of_size(request: JobRequest, offload: Offload) -> PeakMemory | None:
    """Libraries and weights; an accelerator's in half precision where no type is asked for, as checkpoints store it."""
    if request.size_b is None or offload not in ("auto", "none"):
        return None
    asked, weights = request.spec.model.dtype, round(request.size_b * 1e9)
    on_accelerator = weights * TYPE_BYTES["float16" if asked == "auto" else asked]
    host = LIBRARIES + on_accelerator
    return PeakMemory(LIBRARIES + weights * TYPE_BYTES[_cpu_type(asked)], host, on_accelerator, from_size=True)


SQUARE = {"InputHessian", "FeatureCovariance"}
"""Statistics of every two features of an input."""


def calibration_tokens(request: JobRequest) -> int:
    """How many go through the model while it is pruned: where nothing is read of them, enough to measure errors on."""
    if request.spec.pruning is None:
        return 0
    calibration, method = request.pruning.calibration, METHODS.get(request.spec.method)
    tokens = calibration.num_sequences * calibration.seq_len
    return tokens if method.needs else min(tokens, max(ERROR_TOKENS, calibration.seq_len))


class _Terms:
    """The parts of the estimate, in bytes, for weights of one type."""

    def __init__(self, request: JobRequest, dimensions: Dimensions, dtype: str, *, converts: bool) -> None:
        self._request, self._dimensions, self._bytes, self._converts = request, dimensions, TYPE_BYTES[dtype], converts
        self._offload = request.options.offload

    @property
    def host(self) -> int:
        return LIBRARIES + max((need.libraries for need in self._evaluations), default=0)

    @property
    def load(self) -> int:
        """While weights are read: the new ones, and the mapped file's where they are copies of another type."""
        if self._offload == "disk":
            return self.kept
        return self.kept + (self._dimensions.stored_bytes if self._converts else 0)

    @property
    def kept(self) -> int:
        """In main memory from the first block to the last: weights, and what evaluations keep of the dense model."""
        if self._offload == "disk":
            return self._outside + 2 * self._block + self._of_dense
        return self._dimensions.num_weights * self._bytes + self._of_dense

    @property
    def _outside(self) -> int:
        return self._dimensions.outside_weights * self._bytes

    @property
    def _of_dense(self) -> int:
        """Its weights outside of its blocks and its hidden states; and those of the pruned one, to be held to them."""
        tokens = [need.tokens_of_dense for need in self._evaluations]
        states = (sum(tokens) + max(tokens, default=0)) * self._dimensions.hidden_size * self._bytes
        return self._outside + 2 * self._block + states if any(tokens) else 0

    @property
    def one_block(self) -> int:
        """On an accelerator while a block is computed, its inputs apart; or while what is outside of the blocks is."""
        return max(2 * self._block + self.working, self._outside)

    @property
    def on_accelerator(self) -> tuple[int, int]:
        """Its fullest moment without the hidden states of all sequences, and with them."""
        if self._offload != "none":
            return self.one_block, self.one_block + self.buffer
        busy = max(self._measuring, self._sampling)
        whole = self._dimensions.num_weights * self._bytes + busy  # there are no hidden states then
        pruning = 0 if self._request.spec.pruning is None else self.one_block
        return max(whole, pruning, self.gradients), max(whole, pruning + self.buffer, self.gradients)

    @property
    def _block(self) -> int:
        return self._dimensions.block_weights * self._bytes

    @property
    def buffer(self) -> int:
        """Hidden states of all sequences between two blocks."""
        tokens = self._calibration_tokens
        if self._offload != "none":
            tokens = max([tokens, *(need.tokens_together for need in self._evaluations)])
        return tokens * self._dimensions.hidden_size * self._bytes

    @property
    def working(self) -> int:
        """One batch in a block or in the head, with statistics and solve where the job prunes."""
        pruning = self._forward(self._batch(self._calibration_tokens)) + self._statistics
        return max(pruning, self._solve + self._statistics, self._measuring, self._sampling)

    @property
    def _sampling(self) -> int:
        """Keys and values of the sequences that are sampled together, and their logits."""
        pruning, sizes = self._request.spec.pruning, self._dimensions
        if pruning is None or pruning.calibration.sampling != "sampled":
            return 0
        rows = min(ROWS, pruning.calibration.num_sequences)
        return rows * (pruning.calibration.seq_len * self._cache_of_a_token + 4 * 8 * sizes.vocab_size)

    @property
    def _cache_of_a_token(self) -> int:
        """Keys and values in every block, where there are as many as heads."""
        return 2 * self._dimensions.num_blocks * self._dimensions.hidden_size * self._bytes

    @property
    def gradients(self) -> int:
        """All weights in float32, the moments of their gradients, and what a sequence's backward pass needs.

        How many tensors it keeps of every block and of the logits was fitted to SmolLM2's peaks.
        """
        pruning, sizes = self._request.spec.pruning, self._dimensions
        moments = METHODS.build(pruning.method).gradient_moments if pruning is not None else 0
        if pruning is None or not moments:
            return 0
        weights = sizes.num_weights + moments * sizes.num_blocks * sizes.block_weights
        of_a_token = sizes.num_blocks * (10 * sizes.hidden_size + 4 * sizes.widest) + 3 * sizes.vocab_size
        return TYPE_BYTES["float32"] * (weights + pruning.calibration.seq_len * of_a_token)

    @property
    def _measuring(self) -> int:
        logits = HEAD_ROWS * self._dimensions.vocab_size * (self._bytes + 8)
        tokens = [need.tokens_at_once for need in self._evaluations]
        states = self._dimensions.hidden_size * self._bytes
        dense = max((need.dense_models for need in self._evaluations), default=0) * self._dimensions.num_weights
        most = max((max(self._forward(count), logits + count * states) for count in tokens), default=0)
        cached = max((need.tokens_cached for need in self._evaluations), default=0)
        return dense * self._bytes + most + cached * self._cache_of_a_token

    @cached_property
    def _evaluations(self) -> list[MemoryNeed]:
        data, options = self._request.evaluation, self._request.options
        return [
            EVALUATIONS.get(protocol.kind).needs(protocol, data.get(protocol.key), options)
            for protocol in self._request.spec.evaluation
        ]

    def _forward(self, tokens: int) -> int:
        """A block's activations: tensors as wide as the residual stream and as the widest layer.

        How many of each the allocator holds at once was fitted to SmolLM2's peaks, see `benchmarks/memory.py`.
        """
        return tokens * (10 * self._dimensions.hidden_size + 7 * self._dimensions.widest) * self._bytes

    @property
    def _needs(self) -> set[str]:
        method = METHODS.get(self._request.spec.method)
        return {statistic.__name__ for statistic in getattr(method, "needs", ())}

    @property
    def _statistics(self) -> int:
        if not self._needs & SQUARE:
            return 0
        widths = [columns for _, columns in self._dimensions.matrices]
        return 4 * (3 * min(widths) ** 2 + max(widths) ** 2)

    @property
    def _solve(self) -> int:
        """The largest layer as float32 with scores, mask and error; a factorisation of its Hessian in steps."""
        if self._request.spec.pruning is None:
            return 0
        largest = max(rows * columns for rows, columns in self._dimensions.matrices)
        widest = max(columns for _, columns in self._dimensions.matrices)
        return 4 * (6 * largest + (5 * widest**2 if self._needs & SQUARE else 0))

    @property
    def _calibration_tokens(self) -> int:
        return calibration_tokens(self._request)

    def _batch(self, tokens: int) -> int:
        if self._request.spec.pruning is None:
            return 0
        calibration = self._request.pruning.calibration
        return min(tokens, max(self._request.options.batch_tokens, calibration.seq_len))
