"""Maps of places: attention, and Grad-CAM beside the gradient of the paper's equations."""

from __future__ import annotations

import pytest
import torch

from tests.voco_models.explanation.test_occlusion import SIZE, small_classifier, volume
from voco_models.explanation.place_maps import map_kind, place_maps, without_prior


def test_attention_to_places_is_that_of_the_head() -> None:
    model, (inputs, depths) = small_classifier("organ_queries", "stages"), volume()
    assert map_kind(model) == "attention"
    maps = place_maps(model, inputs, depths)
    assert set(maps) == {"kidney_left", "kidney_right", "liver", "spleen"}
    attention = model.classify(inputs, depths).attention
    for name, map_ in maps.items():
        assert float(map_.sum()) == pytest.approx(1, abs=1e-5)
        # places of a slice are counted row by row
        row, column = 1, 2
        at = row * map_.shape[2] + column
        torch.testing.assert_close(map_[3, row, column], attention[name][0, 3, at].detach())


def test_without_the_prior_only_learnt_weights_point() -> None:
    model, (inputs, depths) = small_classifier("organ_queries", "stages"), volume()
    prior = model.head.get_buffer("prior")
    before = place_maps(model, inputs, depths)["liver"]
    prior[2, :, 3:5, 3:5] = 9.0
    with_prior = place_maps(model, inputs, depths)["liver"]
    assert not torch.allclose(with_prior, before)
    torch.testing.assert_close(place_maps(without_prior(model), inputs, depths)["liver"], before)
    assert float(prior.max()) == 9.0  # the model itself keeps it


@pytest.mark.parametrize("limit", [None, 2])
@pytest.mark.parametrize("head", ["bilstm", "gru_attention"])
def test_grad_cam_is_that_of_the_equations(head: str, limit: int | None) -> None:
    pytest.importorskip("captum", reason="needs the extra explain")
    model, (inputs, depths) = small_classifier(head, seed=2), volume()
    model.features.images_per_call = limit
    assert map_kind(model) == "grad_cam"
    found = place_maps(model, inputs, depths)
    assert model.features.images_per_call == limit

    for group, map_ in found.items():
        maps = model.backbone(inputs.transpose(0, 1)).detach().requires_grad_()  # (Z, C, h, w)
        vectors = model.features.norm(maps.mean(dim=(2, 3)))
        logits = model.head(vectors[None, :, None], depths).logits[group]
        healthy = logits.softmax(1)[0, 0]
        ((1 - healthy).log() - healthy.log()).backward()
        assert maps.grad is not None
        weights = maps.grad.mean(dim=(2, 3), keepdim=True)  # equation 1
        cam = (weights * maps).sum(dim=1, keepdim=True).relu()  # equation 2
        block = SIZE // cam.shape[2]
        large = cam[:, 0].repeat_interleave(block, 1).repeat_interleave(block, 2).detach()
        expected = large / large.max() if large.max() > 0 else large
        torch.testing.assert_close(map_, expected, atol=1e-4, rtol=1e-3)
    assert max(float(map_.max()) for map_ in found.values()) == 1.0


def test_quadrants_and_one_place_have_no_attention_to_places() -> None:
    assert map_kind(small_classifier("organ_queries", "mean")) == "grad_cam"
    assert map_kind(small_classifier("organ_queries", "quadrants")) == "attention"
