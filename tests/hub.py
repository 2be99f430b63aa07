"""A stand-in for the Hugging Face hub, over HTTP on this machine: repositories, commits, and branches that move."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from harness.data.hub import forget
from harness.models.hub import hub_folder

API = {"models": "", "datasets": "datasets/"}
"""What goes before a repository's name in the address of a file, by the kind of repository."""


@dataclass
class Repository:
    """Files by path of every commit, and the commit that every branch or tag is at."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    refused: int | None = None
    """Status of the answer to whoever asks for a file without the hub's `token`: 401, 403; None = anybody may."""


class StandInHub:
    """Serves repositories; give a client `environment`, or this very process `within`.

    Args:
        endpoint: its address.
    """

    def __init__(self) -> None:
        self._repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        """Method and path of every request so far, e.g. ``GET /api/models/ORG/NAME``."""
        self.token = "hf_of-the-stand-in"
        """Of a user who accepted every licence."""
        self.cut: str | None = None
        """Ends the names of files whose connection breaks off in the middle."""

    def commit(
        self,
        repository: str,
        files: Mapping[str, bytes] | Path,
        *,
        branch: str = "main",
        kind: str = "models",
        as_commit: str | None = None,
    ) -> str:
        """Commit `files` (a folder, or bytes by path) and move `branch` there; the commit.

        Args:
            kind: ``models`` or ``datasets``.
            as_commit: its name, None = one of its content.
        """
        if isinstance(files, Path):
            paths = [path for path in sorted(files.rglob("*")) if path.is_file()]
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in paths}
        place = self._repositories.setdefault(f"{kind}/{repository}", Repository())
        content = as_commit or sha1(repr((len(place.commits), sorted(files.items()))).encode()).hexdigest()
        place.commits[content] = dict(files)
        place.branches[branch] = content
        return content

    def gate(self, repository: str, status: int) -> None:
        """Give files of a model only to those who have accepted its licence."""
        self._repositories[f"models/{repository}"].refused = status

    def move(self, repository: str, commit: str, *, branch: str = "main", kind: str = "models") -> None:
        """Move a branch to a commit of before."""
        self._repositories[f"{kind}/{repository}"].branches[branch] = commit

    def environment(self, cache: Path) -> dict[str, str]:
        """Variables for a process that shall ask this hub and keep what it downloads in `cache`."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(cache),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    @contextmanager
    def within(self, cache: Path) -> Iterator[None]:
        """This process asks this hub and keeps what it downloads in `cache`."""
        from huggingface_hub import constants

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(constants, "ENDPOINT", self.endpoint)
            template = self.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
            patched.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            patched.setattr(constants, "HF_HUB_CACHE", str(cache))
            patched.setattr(constants, "HF_HUB_OFFLINE", False)
            patched.setattr("transformers.utils.hub._hf_api", None)  # made anew, with this endpoint
            ask_anew()
            yield
            ask_anew()

    @contextmanager
    def serving(self) -> Iterator["StandInHub"]:
        """Listen on a free port for the time of the body."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer(with_body=False)

            def do_GET(self) -> None:
                self._answer(with_body=True)

            def _answer(self, *, with_body: bool) -> None:
                path = unquote(urlsplit(self.path).path)
                if path != "/api/agent-harnesses":  # the client asks once what it runs in; no matter of ours
                    hub.requests.append(f"{self.command} {path}")
                known = self.headers.get("Authorization") == f"Bearer {hub.token}"
                status, headers, body = hub._reply(urlsplit(self.path).path, known=known)
                self.send_response(status)
                for name, value in (headers | {"Content-Length": str(len(body))}).items():
                    self.send_header(name, value)
                self.end_headers()
                if with_body and hub.cut is not None and path.endswith(hub.cut):
                    self.wfile.write(body[: len(body) // 2])
                    self.close_connection = True
                elif with_body:
                    self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def _reply(self, quoted: str, *, known: bool) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a path, in which a slash inside a revision is quoted."""
        for key, place in self._repositories.items():
            kind, _, name = key.partition("/")
            about, files = f"/api/{key}", f"/{API[kind]}{name}/resolve/"
            if quoted == about or quoted.startswith(f"{about}/"):
                verb, _, rest = quoted.removeprefix(about).strip("/").partition("/")
                return _about(name, place, verb, rest)
            if quoted.startswith(files):
                if place.refused is not None and not known:
                    return place.refused, {"X-Error-Code": "GatedRepo"}, b"{}"
                revision, _, path = quoted.removeprefix(files).partition("/")
                return _file(place, unquote(revision), unquote(path))
        return _missing("RepoNotFound")


def ask_anew() -> None:
    """As another process would: nothing that the hub said before is known."""
    forget()
    hub_folder.cache_clear()


def _about(name: str, place: Repository, verb: str, rest: str) -> tuple[int, dict[str, str], bytes]:
    revision, _, folder = rest.partition("/")
    commit = _commit(place, unquote(revision) or "main")
    if commit is None:
        return _missing("RevisionNotFound")
    files = place.commits[commit]
    if verb == "tree":
        prefix = f"{unquote(folder)}/" if folder else ""
        listed = [
            {"type": "file", "path": path, "size": len(content), "oid": sha1(content).hexdigest()}
            for path, content in files.items()
            if path.startswith(prefix)
        ]
        return _json(listed) if listed else _missing("EntryNotFound")
    siblings = [{"rfilename": path} for path in files]
    return _json({"id": name, "sha": commit, "private": False, "gated": False, "tags": [], "siblings": siblings})


def _file(place: Repository, revision: str, path: str) -> tuple[int, dict[str, str], bytes]:
    commit = _commit(place, revision)
    if commit is None:
        return _missing("RevisionNotFound")
    if path not in place.commits[commit]:
        status, headers, body = _missing("EntryNotFound")
        return status, headers | {"X-Repo-Commit": commit}, body
    content = place.commits[commit][path]
    return 200, {"X-Repo-Commit": commit, "ETag": f'"{sha1(content).hexdigest()}"'}, content


def _commit(place: Repository, revision: str) -> str | None:
    return place.branches.get(revision, revision if revision in place.commits else None)


def _json(value: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _missing(code: str) -> tuple[int, dict[str, str], bytes]:
    return 404, {"X-Error-Code": code}, b"{}"
