"""Agreement of several labelmaps of the same voxels, counted plane by plane."""

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.uint8]


class Overlaps:
    """Sizes and intersections of every structure, for every pair of labelmaps.

    Examples
    --------
    >>> overlaps = Overlaps(labelmaps=2, classes=4)
    >>> overlaps.add([np.uint8([0, 1, 1, 2]), np.uint8([0, 1, 0, 2])])
    >>> overlaps.mean_dice()
    {'1': 0.666667, '2': 1.0, '3': None}
    """

    def __init__(self, labelmaps: int, classes: int) -> None:
        self.pairs = list(itertools.combinations(range(labelmaps), 2))
        self.sizes = np.zeros((labelmaps, classes), dtype=np.int64)
        self.shared = np.zeros((len(self.pairs), classes), dtype=np.int64)

    def add(self, planes: Sequence[Labels]) -> None:
        """Count one plane of every labelmap."""
        stacked = np.stack([plane.ravel() for plane in planes])
        stacked = stacked[:, stacked.any(axis=0)]  # most voxels are background in all
        classes = self.sizes.shape[1]
        for number, labels in enumerate(stacked):
            self.sizes[number] += np.bincount(labels, minlength=classes)
        for number, (one, other) in enumerate(self.pairs):
            same = stacked[one][stacked[one] == stacked[other]]
            self.shared[number] += np.bincount(same, minlength=classes)

    def mean_dice(self) -> dict[str, float | None]:
        """Return the mean Dice over the pairs that have a structure; else None."""
        dice: dict[str, float | None] = {}
        for label in range(1, self.sizes.shape[1]):
            sums = [
                (shared[label], self.sizes[one, label] + self.sizes[other, label])
                for shared, (one, other) in zip(self.shared, self.pairs, strict=True)
            ]
            known = [2 * both / total for both, total in sums if total]
            dice[str(label)] = round(float(np.mean(known)), 6) if known else None
        return dice
