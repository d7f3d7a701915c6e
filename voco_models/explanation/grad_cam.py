"""Grad-CAM of the backbone's last feature map, by captum (Selvaraju et al., ICCV 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional

from voco_data.errors import InputError
from voco_models.networks import SliceFeatures, SliceSequenceClassifier


def check_captum_installed() -> None:
    """Raise InputError without the extra `explain`: before long work, not after it."""
    if find_spec("captum") is None:
        raise InputError(
            "Grad-CAM, for heads without attention to places, needs captum; install it with: "
            "pip install 'voco[explain]'"
        )


def grad_cam(
    classifier: SliceSequenceClassifier, inputs: Tensor, depths_mm: Tensor | None
) -> dict[str, Tensor]:
    """Grad-CAM by group, (Z, Y, X) from 0 to 1, on the CPU, of one volume (1, Z, Y, X).

    What is explained is the log-odds of an injury, log(1 - p) - log(p) with p of healthy. A place
    of the feature map is a block of pixels of one value. Linear interpolation between the centres
    of a coarse map would put the maximum into a corner of the slice. The largest value of a volume
    is 1, unless the map is 0 everywhere. `depths_mm` (1, Z) as in `Head.forward`.
    """
    from captum.attr import LayerGradCam

    found = {}
    # cuDNN's recurrent networks have no backward pass in evaluation mode.
    with _one_call(classifier.features), torch.backends.cudnn.flags(enabled=False):
        for group in classifier(inputs, depths_mm):

            def log_odds(volume: Tensor, group: str = group) -> Tensor:
                logits = classifier(volume, depths_mm)[group].float()
                odds: Tensor = logits[:, 1:].logsumexp(dim=-1) - logits[:, 0]
                return odds

            method = LayerGradCam(log_odds, classifier.backbone)
            maps = method.attribute(inputs, relu_attributions=True).detach()  # (Z, 1, h, w)
            large = functional.interpolate(maps.float(), inputs.shape[2:], mode="nearest")[:, 0]
            found[group] = (large / large.max().clamp(min=torch.finfo(large.dtype).tiny)).cpu()
    return found


@contextmanager
def _one_call(features: SliceFeatures) -> Iterator[None]:
    """All slices in one call of the backbone, whose feature map is then that of the volume."""
    limit, recompute = features.images_per_call, features.recompute
    features.images_per_call, features.recompute = None, "off"
    if recompute == "blocks":
        features.backbone.set_recompute(False)
    try:
        yield
    finally:
        features.images_per_call, features.recompute = limit, recompute
        if recompute == "blocks":
            features.backbone.set_recompute(True)
