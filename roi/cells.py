"""What a source says about an image and a finding: present, absent, or unknown for a reason that has a name.

Letters: N images, K = 14 findings in the order of LABELS. A matrix of cells is (N, K) int8.
"""

import numpy as np

from roi.labels import LABELS

ABSENT, PRESENT, UNCERTAIN, UNSEEN, BLANK, COARSE, UNFIT, DIVIDED = range(8)
REASONS = {
    UNCERTAIN: "the source says that it is uncertain",
    UNSEEN: "the data set never looked for it",
    BLANK: "not mentioned",
    COARSE: "a wider or neighbouring label is present that may mean it",
    UNFIT: "the image or its labels are of no use: excluded, not indexed, not readable",
    DIVIDED: "the readers disagree",
}


def fields(cells: np.ndarray) -> dict[str, np.ndarray]:
    """The fields of the table that say the same. (N, K) -> {"labels", "uncertain", "unknown"}: (N,) of comma-separated findings."""
    powers = (len(REASONS) + 2) ** np.arange(len(LABELS), dtype=np.int64)
    codes, row = np.unique(cells.astype(np.int64) @ powers, return_inverse=True)
    digits = codes[:, None] // powers % powers[1]  # (U, K), the cells of each kind of row
    kinds = {"labels": digits == PRESENT, "uncertain": digits == UNCERTAIN, "unknown": digits > UNCERTAIN}
    return {
        name: np.array([",".join(label for label, on in zip(LABELS, line, strict=True) if on) for line in chosen.tolist()], dtype=object)[row]
        for name, chosen in kinds.items()
    }
