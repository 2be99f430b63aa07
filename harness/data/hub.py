"""Commits and files on the Hugging Face hub: a branch is resolved once a process, and loaded by its commit."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from harness.data.assets import cache_dir
from harness.errors import UserError

RepositoryKind = Literal["model", "dataset"]


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a data set repository, or what `datasets` reads out of it.

    Args:
        file: its path; of a task ``CONFIGURATION/SPLIT``.
        revision: a full commit or a branch, None = the default branch.
    """

    repo: str
    file: str
    revision: str | None = None

    @property
    def location(self) -> str:
        return f"hub:{self.repo}/{self.file}"

    @property
    def commit(self) -> str:
        """What the revision is at, the same for the whole process; nothing is asked of the hub for a pinned commit.

        Raises:
            UserError: it cannot be resolved.
        """
        return commit_of(self.repo, "dataset", self.revision)

    @property
    def pinned(self) -> str:
        """`location` with the commit."""
        return f"hub:{self.repo}@{self.commit}/{self.file}"


@cache
def first_available(files: tuple[HubFile, ...]) -> tuple[HubFile, Path]:
    """The first of these files that can be had, downloaded; the same for the whole process.

    Raises:
        UserError: none can; the files, each with the reason.
    """
    from huggingface_hub import hf_hub_download

    tried = []
    for hub in files:
        try:
            return hub, Path(hf_hub_download(hub.repo, hub.file, repo_type="dataset", revision=hub.commit))
        except Exception as error:  # whatever a network can do
            tried.append(f"{hub.location} ({type(error).__name__})")
    raise UserError(", ".join(tried))


def commit_of(repository: str, kind: RepositoryKind, revision: str | None = None) -> str:
    """The commit that a revision is at, the same for the whole process.

    Where the hub cannot be reached, what it said last: the hub's client keeps that in its cache.

    Args:
        repository: ``ORGANISATION/NAME``.
        revision: branch, tag, commit or ``refs/pr/N``; None = the default branch.

    Raises:
        UserError: the hub knows no such repository or revision, or it cannot be reached and nothing is cached.
    """
    answer = _answer(repository, kind, revision)
    if isinstance(answer, UserError):
        raise answer
    return answer


@cache
def _answer(repository: str, kind: RepositoryKind, revision: str | None) -> str | UserError:
    """The commit, or why there is none: that, too, is asked once, for all jobs of a sweep."""
    from huggingface_hub import HfApi  # here: it takes a third of a second, and most jobs have nothing from the hub
    from huggingface_hub.errors import RevisionResolutionError

    try:
        found = HfApi().resolve_revision(
            repository, repo_type=kind, revision=revision, local_files_only=bool(_unreachable)
        )
        return str(found.resolved)
    except Exception as error:  # whatever a hub can answer
        if isinstance(error, RevisionResolutionError):
            _unreachable.add(repository)
        named = f"{repository} at {revision or 'its default branch'}"
        return UserError(f"the commit of {named} cannot be resolved: {explained(error, repository)}")


@cache
def config_of(repository: str, commit: str) -> tuple[dict[str, Any], str]:
    """The ``config.json`` of a model at a commit, from the cache or fetched; or nothing, and why it cannot be had.

    Fetched to a place of its own: a snapshot in the hub's cache that holds nothing else would pass for the whole.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    try:
        found = try_to_load_from_cache(repository, "config.json", revision=commit)
        if not isinstance(found, str):
            place = cache_dir() / "configurations" / commit
            found = hf_hub_download(repository, "config.json", revision=commit, local_dir=place)
        config = json.loads(Path(found).read_text())
    except Exception as error:  # whatever a hub can answer
        return {}, explained(error, repository)
    return (config, "") if isinstance(config, dict) else ({}, "it is no JSON object")


def explained(error: BaseException, repository: str) -> str:
    """Why the hub or the way to it did not give what was asked of a repository, in one line with what to do."""
    from huggingface_hub import constants, errors

    words = f"{type(error).__name__}: {' '.join(str(error).split())}"
    match error:
        case errors.GatedRepoError():
            return (
                f"it is gated; accept its licence at https://huggingface.co/{repository} and log in there "
                "(`hf auth login`, or the variable HF_TOKEN)"
            )
        case errors.RevisionNotFoundError():
            return "the hub has no such revision; look at its branches and commits"
        case errors.RepositoryNotFoundError():
            return "the hub has no such repository, or it is private; check the name, or log in (`hf auth login`)"
        case errors.OfflineModeIsEnabled() | errors.LocalEntryNotFoundError() | errors.RevisionResolutionError():
            if constants.HF_HUB_OFFLINE:
                return "HF_HUB_OFFLINE is set, and the cache lacks it; unset it, or download it first"
            return "the hub cannot be reached, and the cache lacks it; check the network and run the same command again"
        case errors.HfHubHTTPError():
            return words
        case OSError() | errors.FileMetadataError() | errors.HTTPError():  # type: ignore[attr-defined]  # it imports it
            return f"the download broke off; run the same command again, which keeps the files that are whole ({words})"
    return words


_unreachable: set[str] = set()
"""Repositories that the hub could not be asked for: further ones of this process wait for no time-out."""


def forget() -> None:
    """Ask the hub again, as another process would."""
    _answer.cache_clear()
    config_of.cache_clear()
    first_available.cache_clear()
    _unreachable.clear()
