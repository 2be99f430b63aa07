"""A stand-in for W&B's server: just enough of its protocol for `wandb sync` to upload a run."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer(ThreadingHTTPServer):
    """Answers on a free port and keeps what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: list[dict[str, Any]] = []
        self.summaries: dict[str, dict[str, Any]] = {}

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
        answer = json.dumps(self._answer(json.loads(body or b"{}"))).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if not self.path.endswith("/graphql"):  # /files/ENTITY/PROJECT/RUN/file_stream
            for summary in request.get("files", {}).get("wandb-summary.json", {}).get("content", []):
                self.server.summaries[self.path.split("/")[-2]] = json.loads(summary)
            return {}
        query, variables = request["query"], request.get("variables") or {}
        if "upsertBucket" in query:
            return {"data": {"upsertBucket": self._run(variables)}}
        if "createArtifact(" in query:
            return {"data": {"createArtifact": {"artifact": _COMMITTED}}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.server.url}/{name}"} for name in variables["files"]]
            return {"data": {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}}
        return {"data": {"serverInfo": {"features": []}}}

    def _run(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.server.runs.append(variables)
        project = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": "someone"}}
        bucket = {"id": "r", "name": variables["name"], "displayName": variables["displayName"], "project": project}
        return {"bucket": bucket | {"config": "{}", "sweepName": None, "historyLineCount": 0}, "inserted": True}


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
