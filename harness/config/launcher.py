"""Hydra's launchers: jobs one after the other, or with joblib, Slurm, Ray, whichever of its plug-ins is installed.

A launcher composes a configuration of its own for every job; ours holds one field, the job's JSON, and nothing else of
it is read.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig

from harness.config.hydra import compose_whole

Launcher = Callable[[Sequence[str]], list[Exception | None]]
"""Runs jobs, each from its JSON; what each raised, in order."""


def hydra_launcher(arguments: Sequence[str], folder: Path, task: Callable[[str], object]) -> Launcher:
    """The launcher that the overrides choose; make and call it inside `hydra_session`.

    Args:
        folder: where a launcher keeps files of its own.
        task: runs one job, whose JSON it is handed: all that a worker needs.
    """
    whole = compose_whole([f"hydra.sweep.dir={_quoted(str(folder))}", *arguments])
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=HydraContext(GlobalHydra.instance().config_loader(), Callbacks(whole)),
        task_function=partial(_run, task),
        config=whole,
    )

    def launch(jobs: Sequence[str]) -> list[Exception | None]:
        outcomes = launcher.launch([[f"+job={_quoted(job)}"] for job in jobs], initial_job_idx=0)
        # The public property `return_value` would raise what a failed job raised.
        return [None if outcome.status == JobStatus.COMPLETED else outcome._return_value for outcome in outcomes]

    return launch


def _run(task: Callable[[str], object], cfg: DictConfig) -> None:
    task(cfg.job)


def _quoted(text: str) -> str:
    """A value of Hydra's override grammar that is read as `text`: backslashes count before a quote and `${` only."""
    escaped = re.sub(r"(\\*)('|\$\{|$)", lambda found: found[1] * 2 + ("\\" + found[2] if found[2] else ""), text)
    return f"'{escaped}'"
