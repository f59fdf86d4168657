"""What is known of the photos only while they are converted: sizes, overlaps, classes together.

`statistics.json` beside dataset.json: {"classes", "photos", "together", "sizes", "overlap"}.
"""

import collections
import json
from pathlib import Path

import numpy as np

from dnnlib import util

FILE_NAME = "statistics.json"


class Statistics:
    """Counts over all splits of a data set, photo by photo."""

    def __init__(self, classes):
        self._classes = list(classes)
        self._together = np.zeros((len(classes), len(classes)), np.int64)
        self._sizes = collections.Counter()
        self._overlaps = []

    def add(self, size, shares, overlap):
        """Count a photo of `size` (width, height) whose classes cover these shares of its image.

        overlap: share of the area of all its instances that lies under another one; None where
        the annotations cannot overlap.
        """
        shown = np.flatnonzero(shares)
        self._together[np.ix_(shown, shown)] += 1
        self._sizes["x".join(map(str, size))] += 1
        if overlap is not None:
            self._overlaps.append(overlap)

    def content(self):
        """What statistics.json holds.

        together[i][j]: photos that show both classes i and j; sizes: {"400x600": photos};
        overlap: photos that have any and the mean share over all, or None.
        """
        overlaps = self._overlaps
        return {"classes": self._classes, "photos": sum(self._sizes.values()),
                "together": self._together.tolist(), "sizes": dict(self._sizes.most_common()),
                "overlap": {"photos": sum(value > 0 for value in overlaps),
                            "mean": round(sum(overlaps) / len(overlaps), 8)} if overlaps else None}

    def write(self, folder):
        """Write statistics.json into `folder`."""
        util.atomic_write(Path(folder) / FILE_NAME, json.dumps(self.content()) + "\n")


def read_statistics(directory, classes):
    """statistics.json of a data set with these classes, or None where there is none of them.

    Data sets of before this file, or made elsewhere, lack it. Raises UserError for broken JSON.
    """
    path = Path(directory) / FILE_NAME
    content = util.read_json(path) if path.is_file() else None
    same = isinstance(content, dict) and content.get("classes") == list(classes)
    parts = {"photos", "together", "sizes", "overlap"}
    return content if same and content.keys() >= parts else None
