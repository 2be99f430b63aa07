"""From overrides to job requests: the only room, with `jobs.launch`, that knows Hydra."""
