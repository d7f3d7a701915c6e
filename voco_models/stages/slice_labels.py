"""Which slices of a view show a finding: from the labels of patients and of single images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from voco_data.labels import ImageLabels
from voco_data.store import Record
from voco_models.data import VolumeView
from voco_models.explanation import slices_with_images


def label_slices(
    records: Sequence[Record],
    classes: Mapping[str, Tensor],
    view: VolumeView,
    stored: int,
    images: ImageLabels | None = None,
) -> Tensor:
    """Labels (N, F, Z) of the view's slices in N series, for each of F findings; float32.

    `classes` are the classes (N,) of the patients, by finding, and `stored` is the number of slices
    of a stored volume. `images` names the images that show
    an injury. A slice is 1 if it contains such an image. It is 0 if the series has images of this
    injury elsewhere, or if the patient is healthy. All slices are NaN, not known, if the patient
    has the injury and no image of the series is named.
    """
    labels = np.zeros((len(records), len(classes), view.slices), np.float32)
    for number, record in enumerate(records):
        named = {} if images is None else images.get(record.series_uid, {})
        for index, (finding, of_patients) in enumerate(classes.items()):
            if int(of_patients[number]) == 0:
                continue
            labels[number, index] = (
                slices_with_images(record, view, stored, named[finding])
                if finding in named
                else np.nan
            )
    return torch.from_numpy(labels)
