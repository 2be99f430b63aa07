"""What the mirror leaves in the folder of an offline run: the record, and where the run is meant to go.

W&B's own log is not read: it is W&B's.  (Its reader takes 2.6 s a run and shows one that is cut short as an empty one.)
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from harness.data.files import read_file
from harness.errors import UserError
from harness.record import RunRecord, to_json
from harness.tracking.wandb.content import RECORD, RECORD_SHA256, packed, unpacked

STAMP = "mirrored.json"
LAYOUT = 3
"""Raise it when a run is to be written differently, and `rebuild` writes every run again."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """A whole run: the stamp is written last."""

    record: RunRecord
    project: str
    entity: str | None

    def encoded(self) -> bytes:
        """As the file holds it; equal for equal runs."""
        digest = hashlib.sha256(to_json(self.record)).hexdigest()
        place = {"layout": LAYOUT, "project": self.project, "entity": self.entity}
        return json.dumps(place | {RECORD: packed(self.record), RECORD_SHA256: digest}, indent=1).encode()

    def is_in(self, run_folder: Path) -> bool:
        """Whether the folder holds just this run, whole."""
        try:
            return read_file(run_folder / STAMP) == self.encoded()
        except OSError:
            return False


def read_stamp(run_folder: Path) -> Stamp:
    """The stamp in an ``offline-run-*`` folder.

    Raises:
        UserError: it has none (it was not written by the mirror, or not to its end), or a damaged one.
    """
    file = run_folder / STAMP
    try:
        fields = json.loads(read_file(file))
    except FileNotFoundError:
        fields = {}
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}") from error
    if not isinstance(fields, dict):
        raise UserError(f"{file} is damaged: it holds no fields")
    return Stamp(unpacked(fields, str(run_folder)), str(fields.get("project") or ""), fields.get("entity"))
