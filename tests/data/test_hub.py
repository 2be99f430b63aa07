"""Revisions of the hub, resolved once a process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.data.hub import commit_of, forget
from harness.errors import UserError
from tests.hub import StandInHub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[StandInHub]:
    """A hub without repositories, asked by this process."""
    with StandInHub().serving() as hub, hub.within(tmp_path / "cache"):
        yield hub


def test_a_branch_is_resolved_once_a_process(hub: StandInHub) -> None:
    """The hub is asked once for a repository and a revision; where the branch goes later is for another process."""
    first = hub.commit("org/name", {"a": b"1"})
    assert commit_of("org/name", "model") == first
    second = hub.commit("org/name", {"a": b"2"})
    assert commit_of("org/name", "model") == first
    assert len(hub.requests) == 1
    forget()
    assert commit_of("org/name", "model") == second


def test_revisions_and_kinds_are_told_apart(hub: StandInHub) -> None:
    """Branches, tags, pull requests and commits; a data set may have the name of a model."""
    main, tag = hub.commit("org/name", {"a": b"1"}), hub.commit("org/name", {"a": b"2"}, branch="v2")
    request = hub.commit("org/name", {"a": b"3"}, branch="refs/pr/1")
    data = hub.commit("org/name", {"a": b"4"}, kind="datasets")
    assert len({main, tag, request, data}) == 4
    assert commit_of("org/name", "model") == commit_of("org/name", "model", "main") == main
    assert commit_of("org/name", "model", "v2") == tag
    assert commit_of("org/name", "model", "refs/pr/1") == request
    assert commit_of("org/name", "dataset") == data
    asked = len(hub.requests)
    assert commit_of("org/name", "model", tag) == tag  # a full commit needs no hub
    assert len(hub.requests) == asked


def test_without_a_hub_the_last_answer_holds(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was resolved before is known without a network; what never was is refused with one line."""
    commit = hub.commit("org/name", {"a": b"1"})
    assert commit_of("org/name", "model") == commit
    forget()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert commit_of("org/name", "model") == commit
    with pytest.raises(UserError, match=r"org/other at its default branch.*HF_HUB_OFFLINE is set") as caught:
        commit_of("org/other", "model")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("repository", "revision"), [("org/none", None), ("org/name", "no-such-branch")])
def test_what_the_hub_does_not_have_is_one_line(hub: StandInHub, repository: str, revision: str | None) -> None:
    """The line names the repository and the revision that were asked for."""
    hub.commit("org/name", {"a": b"1"})
    with pytest.raises(
        UserError, match=f"{repository} at {revision or 'its default branch'}.*the hub has no such"
    ) as caught:
        commit_of(repository, "model", revision)
    assert "\n" not in str(caught.value)
