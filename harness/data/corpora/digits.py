"""Digits: 1,797 handwritten digits of 8 x 8 pixels, which scikit-learn ships (the UCI optical digits' test set).

A row is an image and its label: 64 pixels from 0 (paper) to 16 (ink), left to right and top to bottom, then the digit.
The last 360 rows, a fifth, are held out to measure on; the 1,437 before them are for training and calibration.
"""

from functools import cache, partial
from importlib import metadata

from harness.data.arrays import Ids, fingerprint_array
from harness.data.corpora.base import CORPORA, ArrayCorpus
from harness.data.places import Given, Places, Role
from harness.errors import UserError

DIGITS = "digits"
PIXELS = 64
ROW = PIXELS + 1
ALL_ROWS, TRAINING_ROWS = 1797, 1437

IDENTITIES: dict[Role, str] = {
    "calibration": "sha256:6d9620596f71e6b5e58523c445a69213c4e60e04a597921e37afaae0fb0ac021",
    "evaluation": "sha256:240a2c6e0c066455015f9c9192d84d9fe08959caab2c30e95405d9a69cecd37e",
}
"""Of the rows of each split, as `fingerprint_array` makes them; a test computes them again from the content."""


@cache
def digit_rows(role: Role) -> Ids:
    """The rows of one split in their published order, [images, 65]; not to be written to.

    Raises:
        UserError: the installed scikit-learn ships other digits.
    """
    import numpy as np
    from sklearn.datasets import load_digits  # here, because it takes seconds to import

    pixels, labels = load_digits(return_X_y=True)
    rows = np.column_stack([pixels, labels]).astype(np.int64)
    split = rows[:TRAINING_ROWS] if role == "calibration" else rows[TRAINING_ROWS:]
    if fingerprint_array(split) != IDENTITIES[role]:
        raise UserError(f"scikit-learn {metadata.version('scikit-learn')} ships other digits; allowed: 1.9.1")
    return split


def _places(role: Role, about: str) -> Places:
    location = f"scikit-learn=={metadata.version('scikit-learn')}:sklearn/datasets/data/digits.csv.gz"
    rows = TRAINING_ROWS if role == "calibration" else ALL_ROWS - TRAINING_ROWS
    given = Given(location, partial(digit_rows, role), IDENTITIES[role], (rows, ROW))
    return Places(about, embedded=given, published=IDENTITIES[role])


CORPUS = ArrayCorpus(
    calibration=_places(
        "calibration",
        "Digits: training images of scikit-learn, each with its label, for image classifiers; "
        "the rest is held out for scans",
    ),
    evaluation=_places(
        "evaluation",
        "scikit-learn's digits of 8 x 8 pixels, the last 360 of 1,797: the share that is classified right",
    ),
    num_sequences=1024,
    reads="images",
    cuts_rows=False,
)
CORPORA.add(DIGITS, CORPUS)
