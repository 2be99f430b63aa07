"""Hydra's launchers: jobs one after the other, or with joblib, Slurm, Ray, whichever of its plug-ins is installed."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, cast

from hydra._internal.callbacks import Callbacks
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

Launcher = Callable[[Sequence[str]], Sequence[object]]
"""Runs jobs, each from its JSON; what each returned, or the exception that it raised, in order."""


class _JobConfigs:
    """Stands where a launcher asks for the configuration of every job: there is nothing to compose, a job is data."""

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        """Hydra's own part, and the job's JSON as bytes, in which nothing is interpolated."""
        config = deepcopy(master_config)
        with open_dict(config):
            config.job = "".join(sweep_overrides).encode()
        return config


def hydra_launcher(hydra: DictConfig, results_dir: Path, task: Callable[[str], object]) -> Launcher:
    """The launcher that was chosen.

    Args:
        hydra: the configuration with Hydra's own part.
        results_dir: a launcher keeps files of its own below it.
        task: runs one job, whose JSON it is handed: all that a worker needs.
    """
    config = OmegaConf.masked_copy(hydra, ["hydra"])
    OmegaConf.set_readonly(config, False)
    with open_dict(config):
        config.results_dir = str(results_dir)
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=HydraContext(cast("Any", _JobConfigs()), Callbacks(config)),
        task_function=partial(_run, task),
        config=config,
    )

    def launch(jobs: Sequence[str]) -> list[object]:
        outcomes = launcher.launch([[job] for job in jobs], initial_job_idx=0)
        # The public property `return_value` would raise what a failed job raised.
        return [outcome._return_value for outcome in outcomes]

    return launch


def _run(task: Callable[[str], object], cfg: DictConfig) -> object:
    return task(cfg.job.decode())
