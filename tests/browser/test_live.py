"""The live page: it shows a sweep's progress and takes new records without being reloaded."""

import threading
from dataclasses import replace

import pytest

from harness.cli.serve import Watched, _Server
from harness.progress import Silent
from harness.tracking.live import running, sweeping
from harness.tracking.store import RecordStore
from tests.browser.conftest import Browser
from tests.reporting.conftest import make_perplexity, make_record

pytestmark = pytest.mark.browser


def test_a_sweep_is_shown_and_its_records_arrive_by_themselves(browser: Browser, tmp_path) -> None:
    """Progress, the running job's step, a new row that keeps filters and focus, and a word when the server has gone."""
    store = RecordStore(tmp_path)
    jobs = [make_record(method, results=(make_perplexity(30.0),)) for method in ("magnitude", "sparsegpt", "wanda")]
    store.save(make_record("dense", results=(make_perplexity(27.6),)))
    with _Server(("127.0.0.1", 0), Watched(tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        with sweeping(tmp_path, "demo", [job.job_id for job in jobs], [5.0, 5.0, 5.0]):
            store.save(jobs[0])
            with running(tmp_path, jobs[1].job_id, Silent()) as reporter:
                reporter.start("prune", 12)
                browser.open(f"http://127.0.0.1:{server.server_address[1]}/#view=jobs")
                line = "demo: 1 of 3 done, 1 running, 1 left, about"
                browser.until(lambda: browser.one("#live").text.startswith(line), line)
                assert f"{jobs[1].job_id} prune 0/12" in browser.one(".running").text
                assert browser.column("method") == ["dense", "magnitude"]
                browser.driver.execute_script("document.getElementById('search').focus()")
            store.save(replace(jobs[1], status="failed", error="boom"))
            store.save(jobs[2])
            browser.until(lambda: browser.column("method") == ["dense", "magnitude", "sparsegpt‡", "wanda"], "new rows")
            assert browser.driver.execute_script("return document.activeElement.id") == "search"
            assert "2 of 3 done, 1 failed" in browser.one("#live").text
        assert [said for said in browser.complaints() if "127.0.0.1" not in said] == []
        server.shutdown()
        thread.join()
    browser.until(lambda: "The server does not answer" in browser.one("#live").text, "gone")
    assert browser.column("method")[-1] == "wanda"
