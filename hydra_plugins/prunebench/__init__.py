"""Prunebench's Hydra sweeper.  Hydra accepts plugins from the namespace `hydra_plugins` only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.plugins.launcher import Launcher
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


class JobSweeper(Sweeper):
    """Composes and checks every job first, drops what need not run, and launches the rest with any launcher.

    Unlike Hydra's own sweeper it launches a job once however often the product names it, and it returns the jobs'
    outcomes instead of raising the first failure.
    """

    def __init__(
        self, params: Mapping[str, Any] | None = None, products: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        from harness.config.hydra import Sweep

        self._sweep = Sweep(params, products)
        self._launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Hydra's entry: the overrides of the command line."""
        from harness.jobs.launch import run_sweep

        run_sweep(arguments, self._sweep, self._launch)

    def _launch(self, jobs: Sequence[Sequence[str]]) -> Sequence[JobReturn]:
        assert self._launcher is not None, "Hydra calls setup() before sweep()"
        return self._launcher.launch(jobs, initial_job_idx=0)


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="prunebench",
    node={"_target_": "hydra_plugins.prunebench.JobSweeper", "params": None, "products": None},
    provider="prunebench",
)
