"""Features of 3D backbones: they see the slices of a question together, in their order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from voco_models.networks.encoder import Backbone
from voco_models.networks.registry import FAMILIES, Family, create_backbone
from voco_models.networks.volume_encoder import VolumeEncoder
from voco_models.probes.batch_norm import with_batch_norm_of
from voco_models.probes.features import Question, extract, run_all
from voco_models.probes.volumes import ProbedVolume


class Steps(Backbone):
    """From two slices and 2 x 2 px: the step between the slices, and batch norm of the mean."""

    def __init__(self, model: str, in_chans: int, pretrained: bool | Path) -> None:
        assert pretrained is False
        super().__init__(model, in_chans, num_features=2)
        self.norm = nn.BatchNorm3d(1, affine=False)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        B, C, Z, h, w = images.shape
        blocks = images.reshape(B, C, Z // 2, 2, h // 2, 2, w // 2, 2)
        step = (blocks[:, :, :, 1] - blocks[:, :, :, 0]).mean(dim=(-3, -1))
        return torch.cat([step, self.norm(blocks.mean(dim=(3, 5, 7)))], dim=1) * self.scale


@pytest.fixture
def backbone(monkeypatch: pytest.MonkeyPatch) -> Backbone:
    monkeypatch.setitem(FAMILIES, "steps", Family(Steps, VolumeEncoder, takes_volumes=True))
    return create_backbone("steps:2").eval()


def test_features_of_crops_of_volumes(backbone: Backbone) -> None:
    voxels = np.random.default_rng(0).integers(0, 255, (2, 6, 8, 8), dtype=np.uint8)
    volumes = [ProbedVolume(torch.from_numpy(v), "a", low=0, high=255) for v in voxels]
    questions = [
        Question(0, (0, 2, 4, 5), (1, 3), (4, 4)),
        Question(1, (0, 2, 4, 5), (4, 0), (4, 4)),
        Question(1, (0, 2, 4, 5), (2, 2), (4, 4)),
    ]
    crops = np.stack(
        [
            voxels[q.volume][[0, 2, 4, 5], q.corner[0] :, q.corner[1] :][:, :4, :4] / 255 * 2 - 1
            for q in questions
        ]
    )
    blocks = crops.reshape(3, 2, 2, 2, 2, 2, 2)  # question, depth, slice, y, row, x, column
    step = (blocks[:, :, 1] - blocks[:, :, 0]).mean(axis=(3, 5)).mean(axis=1)
    mean = blocks.mean(axis=(2, 4, 6))

    network = with_batch_norm_of(backbone, lambda net: run_all(net, volumes, questions))
    maps, means = extract(network, volumes, questions)
    norm = network.norm
    assert isinstance(norm, nn.BatchNorm3d)
    np.testing.assert_allclose(norm.running_mean, [mean.mean()], rtol=1e-4, atol=1e-6)
    spread = np.sqrt(mean.var(ddof=1) + norm.eps)
    normalised = ((mean - mean.mean()) / spread).mean(axis=1)
    expected = np.stack([step, normalised], axis=1)
    np.testing.assert_allclose(maps, expected.reshape(3, 8), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(means, expected.mean(axis=(2, 3)), rtol=1e-4, atol=1e-5)
