"""The registry: a family that voco does not have is one class and one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.support.small_stores import make_store, random_volumes
from voco_data.errors import InputError
from voco_models.networks.backbones import TINY_BACKBONE, TimmBackbone
from voco_models.networks.encoder import Backbone, Encoder, EncoderOptions, Projector, SliceEncoder
from voco_models.networks.registry import FAMILIES, Family, create_backbone, create_encoder
from voco_models.objectives.voco2d import Voco2dConfig
from voco_models.stages.pretrain_recipes import pretrain_recipe
from voco_models.stages.pretraining import pretrain
from voco_models.training import checkpoint


class ToyBackbone(Backbone):
    """A three-dimensional network: (B, 1, Z, h, w) -> (B, F, Z/2, h/8, w/8)."""

    def __init__(self, model: str, in_chans: int, pretrained: bool | Path) -> None:
        assert pretrained is False
        super().__init__(model, in_chans, num_features=int(model))
        self.convolution = nn.Conv3d(in_chans, self.num_features, (2, 8, 8), stride=(2, 8, 8))

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.convolution(images)
        return maps


class ToyEncoder(Encoder):
    """One embedding a crop from all its slices at once."""

    def __init__(
        self, backbone: Backbone, crop_px: tuple[int, int], options: EncoderOptions
    ) -> None:
        super().__init__(backbone, crop_px, options)
        assert backbone.feature_shape((4, *crop_px)) == (
            backbone.num_features, 2, crop_px[0] // 8, crop_px[1] // 8,
        )  # fmt: skip
        self.backbone = backbone
        self.projector = Projector(
            backbone.num_features, width=options.projector_width, out_features=options.embedding
        )

    def forward(self, crops: Tensor) -> Tensor:
        maps = self.backbone(crops.flatten(end_dim=1)[:, None])  # (B*N, F, Z', h', w')
        features = maps.mean(dim=(2, 3, 4)).unflatten(0, crops.shape[:2])
        embeddings: Tensor = self.projector(features)
        return embeddings


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "toy", Family(ToyBackbone, ToyEncoder, takes_volumes=True))


@pytest.mark.usefixtures("toy")
def test_a_new_encoder_pretrains_and_its_backbone_loads(tmp_path: Path) -> None:
    store = make_store(tmp_path / "stores", random_volumes(4, (4, 96, 96)))
    tiny = pretrain_recipe("tiny")
    recipe = replace(
        tiny,
        backbone="toy:6",
        batch_size=2,
        voco=Voco2dConfig(projector_width=8, embedding=4),
    )
    done = pretrain([store.path], tmp_path / "run", recipe=recipe, max_steps=2, device="cpu")
    assert done.last_step == 2
    backbone, _ = checkpoint.load_backbone(done.backbone)
    assert isinstance(backbone, ToyBackbone)
    assert (backbone.name, backbone.num_features) == ("toy:6", 6)
    trained = checkpoint.load(done.checkpoint)["objective"]
    assert torch.equal(backbone.convolution.weight, trained["student.backbone.convolution.weight"])


@pytest.mark.usefixtures("toy")
def test_the_classifier_s_backbones_come_from_the_same_table() -> None:
    assert isinstance(create_backbone("toy:6"), ToyBackbone)


def test_a_name_without_a_family_is_timm_s() -> None:
    for name in (TINY_BACKBONE, f"timm:{TINY_BACKBONE}"):
        encoder = create_encoder(name, (32, 32), EncoderOptions(projector_width=8, embedding=4))
        assert isinstance(encoder, SliceEncoder)
        assert isinstance(encoder.backbone, TimmBackbone)
        assert encoder.backbone.name == name


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(InputError, match="FAMILY one of monai, timm, got 'hub:resnet18'"):
        create_backbone("hub:resnet18")
