"""What decides a job's weights: its method, and all that the method is given."""

from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial

from harness.blocks.layers import prunable_shapes
from harness.jobs.calibrate import calibration_draw, held_out_trials, kept_tokens
from harness.jobs.context import JobContext
from harness.models.loading import LoadedModel
from harness.patterns import Structured
from harness.pruning.allocations.base import ALLOCATIONS, UNIFORM
from harness.pruning.context import FoundT, PruningContext, PruningOutcome
from harness.pruning.layerwise import check_patterns
from harness.pruning.methods.base import METHODS
from harness.pruning.shares import num_parameters


def prune(job: JobContext, loaded: LoadedModel) -> PruningOutcome:
    """Prune the model of a job, in place.

    Raises:
        UserError: a layer cannot take its pattern, or the calibration cannot be had.
    """
    request, device, clock = job.request, job.device, job.clock
    pruning, options = request.pruning, request.options
    shapes = prunable_shapes(loaded.model)
    check_patterns(dict.fromkeys(shapes, pruning.pattern), shapes)
    with clock("calibrate"):
        tokens_BL = kept_tokens(calibration_draw(request), loaded, job)

    def cache(key: Hashable, find: Callable[[], FoundT]) -> FoundT:
        return loaded.cache.of(key, find, scope=calibration_draw(request))

    context = PruningContext(
        loaded.model,
        loaded.offloading,
        tokens_BL,
        pruning.pattern,
        pruning.calibration.propagation,
        device,
        options.batch_tokens,
        pruning.seed,
        job.reporter,
        clock,
        allocation=None if pruning.allocation.name == UNIFORM else ALLOCATIONS.build(pruning.allocation),
        held_out=partial(held_out_trials, job, loaded),
        cache=cache,
        caches_statistics=options.offload == "none",  # else there is no room for those of other jobs
        saves=options.save_model is not None,
    )
    before = num_parameters(loaded.model)
    outcome = METHODS.build(pruning.method).run(context)
    if not isinstance(pruning.pattern, Structured):
        return outcome
    after = num_parameters(loaded.model)
    said = f"of {before:,} parameters {after:,} are left"
    return replace(outcome, share_gone=1 - after / before, notes=(*outcome.notes, said))
