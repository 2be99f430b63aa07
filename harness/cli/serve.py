"""`prunebench serve`: the page of a results folder, live while jobs run.

Bound to this machine unless asked otherwise; it reads, and answers four addresses.
"""

import gzip
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from hashlib import sha256
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from harness.errors import UserError
from harness.reporting.page.build import page, payload
from harness.reporting.page.questions import load_answers
from harness.reporting.published import load
from harness.tracking.live import RunningJob, Sweep, goes_on, running_jobs, sweeps
from harness.tracking.store import RecordStore, Stored

LOOPBACK = ("127.0.0.1", "::1", "localhost")
CLOCK_SLACK_S = 2.0
"""A record this much older than a sweep may still be of it: file systems round times."""

Payload = tuple[dict[str, object], dict[str, str]]


class Watched:
    """The records of a folder, read once each and again when their files change."""

    def __init__(self, root: Path) -> None:
        self._store = RecordStore(root)
        self._root = root
        self._published = load()
        self._lock = threading.Lock()
        self._payload: tuple[str, Payload] | None = None

    def news(self, now: float) -> dict[str, object]:
        """Version of the records, sweeps and running jobs, as plain data."""
        with self._lock:
            kept = self._store.stored()
        running, all_sweeps = running_jobs(self._root), sweeps(self._root)
        going_on = [sweep for sweep in all_sweeps if goes_on(self._root, sweep)]
        return {
            "version": _version(kept),
            "sweeps": [
                _progress(sweep, kept, running, now) | {"alive": sweep in going_on}
                for sweep in going_on or all_sweeps[:1]
            ],
            "running": [
                asdict(job) | {"seconds": max(0.0, now - job.started), "host": job.process.host} for job in running
            ],
        }

    def content(self) -> Payload:
        """What the page shows, see `harness.reporting.page.build.payload`."""
        with self._lock:
            kept = self._store.stored()
            version = _version(kept)
            if self._payload is None or self._payload[0] != version:
                records = [entry.record for entry in kept]
                answers = load_answers(self._store, records)
                content, blocks = payload(records, self._published, answers)
                self._payload = version, ({**content, "version": version}, blocks)
            return self._payload[1]


def serve(root: Path, host: str, port: int, said: Callable[[str], None]) -> None:
    """Answer until interrupted.

    Args:
        root: results folder.
        host, port: where to listen; port 0 = any free one.
        said: told the address once it is open.

    Raises:
        UserError: the port is taken, or the address is not this machine's.
    """
    watched = Watched(root)
    try:
        server = _Server((host, port), watched)
    except OSError as error:
        raise UserError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    with server:
        said(f"http://{host}:{server.server_address[1]}/")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            said("")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], watched: Watched) -> None:
        super().__init__(address, _Handler)
        self.watched = watched


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        """The page, its content, its news; nothing else is there."""
        if not self._addressed_to_us():
            self.send_error(HTTPStatus.FORBIDDEN, "unknown host")
            return
        watched = self.server.watched
        answers: dict[str, Callable[[], tuple[str, str]]] = {
            "/": lambda: ("text/html; charset=utf-8", page(*watched.content(), live=True)),
            "/live.json": lambda: ("application/json", json.dumps(watched.news(time.time()))),
            "/content.json": lambda: ("application/json", _as_json(watched.content())),
        }
        answer = answers.get(self.path.split("?")[0])
        if answer is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        try:
            kind, text = answer()
        except UserError as error:
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, explain=str(error))
            return
        self._send(kind, text)

    def _addressed_to_us(self) -> bool:
        """A page of another site must not read ours through a name that it points at this machine."""
        host = str(self.server.server_address[0])
        try:
            named = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        except ValueError:  # brackets that do not close
            return False
        return host not in LOOPBACK or named in LOOPBACK

    def _send(self, kind: str, text: str) -> None:
        data = text.encode()
        packed = "gzip" in self.headers.get("Accept-Encoding", "")
        data = gzip.compress(data, 1) if packed else data
        self.send_response(HTTPStatus.OK)
        headers = {"Content-Type": kind, "Content-Length": str(len(data)), "Cache-Control": "no-store"}
        headers |= {"X-Content-Type-Options": "nosniff"} | ({"Content-Encoding": "gzip"} if packed else {})
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a line every two seconds tells nobody anything."""


def _as_json(given: Payload) -> str:
    return json.dumps({"content": given[0], "blocks": given[1]}, allow_nan=False)


def _version(kept: Sequence[Stored]) -> str:
    stamps = sorted((str(entry.path), *entry.stamp) for entry in kept)
    return sha256(json.dumps(stamps).encode()).hexdigest()[:16]


def _progress(sweep: Sweep, kept: Sequence[Stored], running: list[RunningJob], now: float) -> dict[str, object]:
    """Counts of the sweep's jobs, and the seconds until it is done; None when nothing like its jobs was timed."""
    since = 1e9 * (sweep.started - CLOCK_SLACK_S)
    records = {entry.record.job_id: entry.record for entry in kept if entry.stamp[0] >= since}
    status = {job_id: records[job_id].status for job_id in sweep.jobs if job_id in records}
    started = {job.job_id: job.started for job in running if job.job_id in set(sweep.jobs) - set(status)}
    left = [job_id for job_id in sweep.jobs if job_id not in status and job_id not in started]
    took = sorted(records[job_id].timings_s.get("total", 0.0) for job_id, how in status.items() if how == "done")
    usual = took[len(took) // 2] if took else None
    expected = {
        job_id: usual if seconds is None else seconds
        for job_id, seconds in zip(sweep.jobs, sweep.expected_s, strict=True)
    }
    rest = [expected[job_id] for job_id in left]
    rest += [None if (all_ := expected[job]) is None else max(0.0, all_ - (now - at)) for job, at in started.items()]
    known = [seconds for seconds in rest if seconds is not None]
    return {
        "name": sweep.name,
        "done": list(status.values()).count("done"),
        "failed": list(status.values()).count("failed"),
        "running": len(started),
        "left": len(left),
        "total": len(sweep.jobs),
        "seconds_left": sum(known) / max(1, len(started)) if len(known) == len(rest) else None,
    }
