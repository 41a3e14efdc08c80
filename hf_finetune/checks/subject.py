"""What checks look at: the images of all splits one after the other, and what is known of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from hf_finetune.checks.finding import MOST_GROUPS, Group, ImageRef
from hf_finetune.checks.scan import Scan
from hf_finetune.data.columns import image_paths, label_array
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.fingerprint import name_of_row

_MOST_OF_A_GROUP = 20

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class OutOfFold:
    """What linear probes answer for images that they were not fitted on.

    Attributes:
        probabilities: Of each class for the images of all splits, float32 (images, classes); zeros where an image
            could not be read.
        accuracy: The share of the images whose likeliest class is their label.
        model: What messages call the network that gives the features.
        folds: How many probes there are.
    """

    probabilities: npt.NDArray[np.float32]
    accuracy: float
    model: str
    folds: int


@dataclass(frozen=True)
class Subject:
    """A dataset under the checks. Rows count the images of all splits, one split after the other.

    Attributes:
        data: The dataset.
        scans: By the roles of different splits, what a look at their images showed.
        group_column: The column of groups, which `data` was divided by; None where names alone show groups.
        distances: How far the features of each image are from those of its fifth nearest neighbour, float32 (images,);
            NaN where an image could not be read, None where no network has seen them.
        out_of_fold: The probes' answers; None where there are none.
        not_probed: Why there are none, a sentence.
    """

    data: ImageDataset
    scans: dict[str, Scan]
    group_column: str | None = None
    distances: npt.NDArray[np.float32] | None = None
    out_of_fold: OutOfFold | None = None
    not_probed: str = ""

    @property
    def roles(self) -> list[str]:
        """The roles of the splits in their order."""
        return list(self.scans)

    @cached_property
    def looks(self) -> npt.NDArray[np.void]:
        """An array of `scan.LOOK`, (images,)."""
        return np.concatenate([scan.looks for scan in self.scans.values()])

    @cached_property
    def role_of(self) -> npt.NDArray[np.int64]:
        """The place of each image's split among `roles`, int64 (images,)."""
        return np.repeat(np.arange(len(self.scans)), [len(scan.looks) for scan in self.scans.values()])

    @cached_property
    def labels(self) -> npt.NDArray[Any]:
        """Class ids, int32 (images,), or which classes each image has, bool (images, classes)."""
        return np.concatenate([label_array(self.split(role)) for role in self.scans])

    @cached_property
    def label_codes(self) -> npt.NDArray[np.int64]:
        """A number for the label of each image, int64 (images,); equal labels have equal numbers."""
        if self.labels.ndim == 1:
            return self.labels.astype(np.int64)
        codes: npt.NDArray[np.int64] = np.unique(self.labels, axis=0, return_inverse=True)[1].reshape(-1)
        return codes

    @cached_property
    def _sample_index(self) -> Rows:
        return np.concatenate([self.data.source_rows(role) for role in self.scans])

    def split(self, role: str) -> Dataset:
        """Return the split of a role; none is streamed."""
        split = self.data.splits[role]
        assert isinstance(split, Dataset)
        return split

    def image(self, row: int) -> ImageRef:
        """Return an image by its row."""
        role, own = self.roles[self.role_of[row]], int(self._sample_index[row])
        return ImageRef(role, own, name_of_row(self.data, role, own), self.label(row))

    def label(self, row: int) -> str:
        """Return the name of an image's class, or the names of its classes joined by commas."""
        label, names = self.labels[row], self.data.label_names
        return names[label] if self.labels.ndim == 1 else ", ".join(names[place] for place in np.flatnonzero(label))

    def together(self, groups: Iterable[Rows], text: str = "") -> list[Group]:
        """Return the first groups of rows as groups of images, of which each names 20 at most."""
        first = (rows[:_MOST_OF_A_GROUP].tolist() for rows in islice(groups, MOST_GROUPS))
        return [Group([self.image(row) for row in rows], text) for rows in first]

    def alone(self, rows: Rows) -> list[Group]:
        """Return a group for each of the first of some images."""
        return self.together(rows[:MOST_GROUPS, None])

    def paths(self) -> list[str]:
        """Return the path or file name that the source has for each image, "" where it has none."""
        columns = [image_paths(self.split(role)) for role in self.scans]
        return [path or "" for column in columns for path in column.to_pylist()]


def counted(number: int, what: str = "image") -> str:
    """Return `1 image` or `2,000 images`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
