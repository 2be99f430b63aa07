"""What happens now with each kind of input that users have come with; exits with 1 where it is not what is right."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.odd_inputs import CASES, tried


def main(options: Sequence[str]) -> None:
    """Print a row for every case, or for those whose names hold one of `options`."""
    wrong = 0
    for name, case in CASES.items():
        if options and not any(option in name for option in options):
            continue
        with tempfile.TemporaryDirectory() as folder:
            code, said = tried(case, Path(folder))
            last = (said.splitlines() or [""])[-1].replace(folder, "")
        right = case.says in said and code == case.code
        wrong += not right
        print(f"{'as is right' if right else 'WRONG':<12} {name:<48} exit {code}  {last}")
    print(f"{wrong} wrong")
    sys.exit(wrong > 0)
