"""Prunebench's node of the group hydra/sweeper: what an experiment sweeps over.

Hydra finds it here by itself.  Nothing instantiates it: `harness.config.hydra` expands sweeps, and only launchers are
taken from Hydra.
"""

from hydra.core.config_store import ConfigStore

ConfigStore.instance().store(
    group="hydra/sweeper", name="prunebench", node={"params": None, "products": None}, provider="prunebench"
)
