"""`prunebench serve`: what the server answers, and to whom."""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.cli.serve import Watched, _Server, serve
from harness.errors import UserError
from harness.progress import Silent
from harness.tracking.live import running, sweeping
from harness.tracking.store import RecordStore
from tests.reporting.conftest import make_perplexity, make_record


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    """A folder with one record."""
    store = RecordStore(tmp_path)
    store.save(make_record("dense", results=(make_perplexity(27.65),)))
    return store


@pytest.fixture
def address(store: RecordStore) -> Iterator[str]:
    """A server of that folder on a free port."""
    with _Server(("127.0.0.1", 0), Watched(store.root)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def get(address: str, **headers: str) -> tuple[int, bytes]:
    """Status and body of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_the_page_its_content_and_its_news_are_served_and_nothing_else(address: str) -> None:
    """Four addresses; no file can be asked for."""
    status, text = get(f"{address}/")
    assert status == 200
    assert b"data-live" in text
    assert json.loads(get(f"{address}/content.json")[1])["content"]["table"]["id"] == [make_record("dense").job_id]
    assert set(json.loads(get(f"{address}/live.json")[1])) == {"version", "sweeps", "running"}
    for other in ("/../../etc/passwd", "/scratch", "/opt-125m", "/favicon.ico"):
        assert get(address + other)[0] == 404


def test_another_site_s_name_for_this_machine_is_refused(address: str) -> None:
    """A page elsewhere that points its own name here reads nothing."""
    assert get(f"{address}/live.json", Host="evil.example:80")[0] == 403
    assert get(f"{address}/live.json", Host="localhost:80")[0] == 200


def test_a_name_without_a_port_is_ours(address: str) -> None:
    """On port 80 browsers leave it out."""
    for host, status in (("127.0.0.1", 200), ("localhost", 200), ("[::1]", 200), ("evil.example", 403), ("[", 403)):
        assert get(f"{address}/", Host=host)[0] == status


def test_a_new_record_changes_the_version_and_the_content(store: RecordStore) -> None:
    """The same folder has the same version; a job that ends gives another one."""
    watched = Watched(store.root)
    before = watched.news(time.time())["version"]
    assert watched.news(time.time())["version"] == before
    store.save(make_record(results=(make_perplexity(30.0),)))
    assert watched.news(time.time())["version"] != before
    assert len(watched.content()[0]["table"]["id"]) == 2


def test_a_sweep_is_counted_and_its_time_to_go_is_estimated(store: RecordStore) -> None:
    """Done, failed, running and left add up; what the running job has taken counts as done."""
    jobs = [make_record(seed=seed) for seed in range(5)]
    with sweeping(store.root, "demo", [job.job_id for job in jobs], [10.0, None, 10.0, 20.0, 30.0]):
        store.save(jobs[0])
        store.save(replace(jobs[1], status="failed", error="boom"))
        with running(store.root, jobs[2].job_id, Silent()):
            now = time.time() + 4
            news = Watched(store.root).news(now)
    (sweep,) = news["sweeps"]
    assert [sweep[name] for name in ("done", "failed", "running", "left", "total", "alive")] == [1, 1, 1, 2, 5, True]
    assert sweep["seconds_left"] == pytest.approx(20 + 30 + 10 - 4, abs=0.5)
    assert [job["job_id"] for job in news["running"]] == [jobs[2].job_id]
    assert news["running"][0]["seconds"] == pytest.approx(4, abs=0.5)


def test_time_to_go_is_unknown_until_a_job_has_been_timed(store: RecordStore) -> None:
    """Nothing like the jobs was timed: no number; then what the sweep's own jobs took is taken."""
    jobs = [make_record(seed=seed) for seed in range(3)]
    with sweeping(store.root, "demo", [job.job_id for job in jobs], [None, None, None]):
        watched = Watched(store.root)
        assert watched.news(time.time())["sweeps"][0]["seconds_left"] is None
        store.save(jobs[0])
        assert watched.news(time.time())["sweeps"][0]["seconds_left"] == 2 * 3.0


def test_records_from_before_the_sweep_are_not_its_done_jobs(store: RecordStore) -> None:
    """A forced sweep starts at nothing although all of its jobs have records."""
    import os

    job = make_record("dense")
    path = store.path_of(job)
    os.utime(path, (time.time() - 60, time.time() - 60))
    with sweeping(store.root, "again", [job.job_id], [None]):
        (sweep,) = Watched(store.root).news(time.time())["sweeps"]
    assert (sweep["done"], sweep["left"]) == (0, 1)


def test_an_ended_sweep_is_shown_until_the_next(store: RecordStore) -> None:
    """The last one, marked as no longer alive."""
    with sweeping(store.root, "over", ["a"], [None]):
        pass
    (sweep,) = Watched(store.root).news(time.time())["sweeps"]
    assert (sweep["name"], sweep["alive"]) == ("over", False)


def test_a_port_in_use_is_one_line(address: str, store: RecordStore) -> None:
    """The line holds the port and the reason."""
    port = int(address.rpartition(":")[2])
    with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"):
        serve(store.root, "127.0.0.1", port, lambda text: None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--results-dir", "no-such-folder"], "--results-dir no-such-folder is no folder"),
        (["serve", "--results-dir", ".", "--port", "70000"], "--port 70000 is no port; allowed: 0"),
        (["report", "--with-questions"], "--with-questions goes with --html"),
        (["report", "--html", "x.html", "--table", "SGPT-T1"], "--html writes the page of all jobs"),
        (["report", "--matrix", "ppl", "--plots", "x"], "--matrix is a table of its own; drop"),
        (["report", "--matrix", "ppl", "--rows"], "not allowed with argument"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(arguments: list[str], said: str, capsys) -> None:
    """The value and what is allowed."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_the_command_line_writes_the_page(store: RecordStore, tmp_path: Path, capsys) -> None:
    """One file with done and failed jobs; what it is and how large is said."""
    store.save(replace(make_record(), status="failed", error="boom"))
    target = tmp_path / "new" / "page.html"
    with pytest.raises(SystemExit) as ended:
        main(["report", "--html", str(target), "--results-dir", str(store.root)])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("2 jobs in ")
    assert target.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
