"""A stand-in for W&B's server: just enough of its protocol to upload runs, to limit their rate, and to list them."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer(ThreadingHTTPServer):
    """Answers on a free port and keeps what it was sent.

    Attributes:
        runs: what each upload said of its run, in order.
        summaries: the last summary of each run.
        artifacts: names of the artifacts that were made.
        requests: path or GraphQL operation of every request.
        too_many: this many requests to come are answered 429, too many requests.
        refuses: where not empty, every request is answered 401 with these words.
        loses: keys of summaries that never arrive.
        views: specifications of the dashboards that were saved.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: list[dict[str, Any]] = []
        self.summaries: dict[str, dict[str, Any]] = {}
        self.artifacts: list[str] = []
        self.requests: list[str] = []
        self.views: list[dict[str, Any]] = []
        self.too_many = 0
        self.refuses = ""
        self.loses: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def log_message(self, *_: object) -> None:
        """Say nothing on the terminal."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path.startswith("/sdk/otel/"):  # telemetry of W&B's client
            self._send(200, {})
            return
        request = json.loads(body or b"{}")
        self.server.requests.append(_operation(request) if self.path.endswith("/graphql") else self.path)
        if self.server.refuses:
            self._send(401, {"errors": [{"message": self.server.refuses}]})
        elif self.server.too_many > 0:
            self.server.too_many -= 1
            self._send(429, {"error": "rate limit exceeded"})
        else:
            self._send(200, self._answer(request))

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, status: int, document: dict[str, Any]) -> None:
        answer = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if not self.path.endswith("/graphql"):  # /files/ENTITY/PROJECT/RUN/file_stream
            for text in request.get("files", {}).get("wandb-summary.json", {}).get("content", []):
                summary = {key: value for key, value in json.loads(text).items() if key not in self.server.loses}
                self.server.summaries[self.path.split("/")[-2]] = summary
            return {}
        query, variables = request["query"], request.get("variables") or {}
        return {"data": self._data(query, variables)}

    def _data(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "upsertBucket" in query:
            return {"upsertBucket": self._run(variables)}
        if "createArtifact(" in query:
            self.server.artifacts += [value for key, value in _flat(variables) if key.endswith("CollectionName")]
            self.server.artifacts += [value for key, value in _flat(variables) if key.endswith("collectionNames")]
            return {"createArtifact": {"artifact": _COMMITTED}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.server.url}/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if "runs(filters" in query:
            return {"project": self._list(json.loads(variables["filters"]))}
        if "upsertView" in query:
            self.server.views.append(variables)
            return {"upsertView": {"view": {"id": "v", "name": variables["name"]}, "inserted": True}}
        if "viewer" in query:
            return {"viewer": {"id": "u", "entity": "someone", "username": "someone", "flags": "{}", "teams": None}}
        return {"serverInfo": {"features": []}}

    def _run(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.server.runs.append(variables)
        project = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": "someone"}}
        bucket = {"id": "r", "name": variables["name"], "displayName": variables["displayName"], "project": project}
        return {"bucket": bucket | {"config": "{}", "sweepName": None, "historyLineCount": 0}, "inserted": True}

    def _list(self, filters: dict[str, Any]) -> dict[str, Any]:
        """All runs on one page: the last upload of each, and its summary."""
        uploads = {run["name"]: run for run in self.server.runs if run.get("config")}
        named = filters.get("name", {}).get("$in", list(uploads))
        nodes = [_node(uploads[name], self.server.summaries.get(name, {})) for name in named if name in uploads]
        edges = [{"node": node, "cursor": node["name"]} for node in nodes]
        page = {"endCursor": None, "hasNextPage": False}
        return {
            "internalId": "1",
            "runCount": len(nodes),
            "readOnly": False,
            "runs": {"edges": edges, "pageInfo": page},
        }


def _operation(request: dict[str, Any]) -> str:
    lines = [line for line in str(request.get("query")).splitlines() if line.strip() and not line.startswith("#")]
    return lines[0].split("(")[0].strip() if lines else ""


def _flat(values: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _flat(value, f"{name}.{key}")
    else:
        yield name, values


def _node(run: dict[str, Any], summary: dict[str, Any]) -> dict[str, Any]:
    empty = dict.fromkeys(("sweepName", "jobType", "commit", "description", "notes", "systemMetrics", "historyKeys"))
    return empty | {
        "id": run["name"],
        "name": run["name"],
        "displayName": run["displayName"],
        "projectId": "1",
        "tags": run.get("tags") or [],
        "state": "finished",
        "config": run["config"],
        "summaryMetrics": json.dumps(summary),
        "group": run.get("groupName"),
        "readOnly": False,
        "createdAt": "2026-01-01T00:00:00Z",
        "heartbeatAt": "2026-01-01T00:00:00Z",
        "historyLineCount": 1,
        "user": {"name": "someone", "username": "someone"},
    }


_COMMITTED = {"id": "a", "state": "COMMITTED", "artifactSequence": {"id": "s", "latestArtifact": {"id": "a"}}}


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """A server that is up within the block."""
    with WandbServer() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
