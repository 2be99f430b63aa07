"""What lies among good records and is none: named once, set aside, and every command goes on with the others."""

import json
import os
import socket
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

from harness.cli.main import main
from harness.cli.serve import Watched, _Server
from harness.errors import SET_ASIDE
from harness.record import RunRecord, to_json
from harness.tracking.store import RecordStore

pytestmark = pytest.mark.usefixtures("nobody")
RecordMaker = Callable[..., RunRecord]

KINDS = (
    *("empty", "cut", "no json", "a list", "foreign", "newer", "another job", "a field less"),
    *("folder", "loop", "dangling link", "device", "pipe", "socket", "no permission"),
)


def _as_newer(document: dict[str, object]) -> dict[str, object]:
    return document | {"schema_version": 99, "results": {"of": "another shape"}}


def put(kind: str, path: Path, record: RunRecord) -> None:
    """Something that is no record, where the record would be."""
    document = json.loads(to_json(record))
    texts = {
        "empty": "",
        "cut": to_json(record)[:300].decode(),
        "no json": "version https://git-lfs.github.com/spec/v1",
        "a list": "[]",
        "foreign": json.dumps({"job": "mine", "id": 7}),
        "newer": json.dumps(_as_newer(document)),
        "another job": json.dumps(document | {"job_id": "opt-125m__dense__00000000"}),
        "a field less": json.dumps(document | {"job": {"model": {"name": "opt-125m"}}}),
        "no permission": to_json(record).decode(),
    }
    match kind:
        case "folder":
            path.mkdir()
        case "loop":
            path.symlink_to(path)
        case "dangling link":
            path.symlink_to("nothing")
        case "device":
            path.symlink_to("/dev/zero")
        case "pipe":
            os.mkfifo(path)
        case "socket":
            here = Path.cwd()
            os.chdir(path.parent)  # its path may be longer than the name of a socket
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(path.name)
            os.chdir(here)
        case _:
            path.write_text(texts[kind])
            path.chmod(0o000 if kind == "no permission" else 0o644)


@pytest.fixture(params=KINDS)
def bad(request: pytest.FixtureRequest, tmp_path: Path, make_record: RecordMaker) -> Iterator[Path]:
    """The one bad file of a results folder that has a good record beside it."""
    if request.param == "no permission" and os.geteuid() == 0:
        pytest.skip("root may read everything")
    store = RecordStore(tmp_path / "results")
    store.save(make_record())
    record = make_record(seed=7)
    path = store.path_of(record)
    put(str(request.param), path, record)
    yield path
    if request.param == "no permission":
        path.chmod(0o644)


def run(*arguments: str) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_one_bad_file_stops_no_command(
    bad: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The good record is in the table, the page, the dashboard and the plan, the bad file named once, exit code 1."""
    where = ("--results-dir", str(bad.parent.parent))
    page = tmp_path / "page.html"
    good = next(path.stem for path in bad.parent.glob("*.json") if path != bad)
    plan = ("plan", "model=smollm2-135m", "method=magnitude", f"results_dir={bad.parent.parent}")
    for command, shows in (
        (("report", "--format", "json", *where), "wanda"),
        (("report", "--html", str(page), *where), "1 jobs"),
        (("dashboard", "--print", *where), "Prunebench"),
        (plan, "1 new"),
    ):
        caplog.clear()
        assert run(*command) == 1, command
        assert shows in capsys.readouterr().out
        assert caplog.text.count(bad.name) == 1, caplog.text
    assert run("show", good, *where) == 0
    assert run("show", bad.stem, *where) == 2
    assert bad.name in capsys.readouterr().err


def test_served_page_goes_on_without_a_bad_file(bad: Path) -> None:
    """The page has the good record, and the file is read again only when it changes."""
    SET_ASIDE.clear()
    with _Server(("127.0.0.1", 0), Watched(bad.parent.parent)) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_address[1]}/content.json") as answer:
            content = json.loads(answer.read())["content"]
        server.shutdown()
        thread.join()
    assert content["table"]["id"] == [path.stem for path in bad.parent.glob("*.json") if path != bad]
    assert len(SET_ASIDE) == 1


def test_job_of_a_bad_record_is_refused_and_the_others_are_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is kept, for it may be a newer version's; nothing is run over it."""
    sweep = (
        "plan",
        "-m",
        "--json",
        "model=smollm2-135m",
        "method=magnitude",
        "sparsity=0.5,0.6",
        f"results_dir={tmp_path}",
    )
    assert run(*sweep) == 0
    first, second = (row["job_id"] for row in json.loads(capsys.readouterr().out))
    bad = tmp_path / "smollm2-135m" / f"{first}.json"
    bad.parent.mkdir()
    bad.write_text("{}")
    assert run(*sweep) == 1
    refused, planned = json.loads(capsys.readouterr().out)
    assert (refused["state"], planned["state"], planned["job_id"]) == ("refused", "new", second)
    assert refused["reason"] == f"{first}: its record cannot be read; move that away to run the job again"
    assert bad.read_text() == "{}"


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "..", ".", "", "a/b", "nul\0"])
def test_questions_never_lead_out_of_the_folder(
    name: str, tmp_path: Path, make_record: RecordMaker, caplog: pytest.LogCaptureFixture
) -> None:
    """A record that lists another place for its answers is no record: one line."""
    store = RecordStore(tmp_path)
    path = store.save(make_record())
    listed = {"name": name, "sha256": "0" * 64, "rows": 1}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"questions": listed}))
    assert run("compare", path.stem, path.stem, "--results-dir", str(tmp_path)) == 2
    assert store.all() == []
    assert f"{path} is not a record: questions.name" in caplog.text
