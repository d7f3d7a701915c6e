"""The moving average of a classifier: by hand, in the state of a training, for prediction."""

from __future__ import annotations

import torch
from torch import nn

from voco_data.store.spec import FINETUNE
from voco_models.data.augment_volumes import Augmentation
from voco_models.data.volume_view import VolumeView
from voco_models.data.window import input_window
from voco_models.networks.backbones import TINY_BACKBONE
from voco_models.networks.classifier import SliceSequenceClassifier
from voco_models.networks.heads import HeadOptions
from voco_models.networks.registry import create_backbone
from voco_models.objectives.classification import ClassificationObjective


def objective_of(decay: float) -> ClassificationObjective:
    torch.manual_seed(0)
    classifier = SliceSequenceClassifier(
        create_backbone(TINY_BACKBONE), 32, options=HeadOptions(hidden=4)
    )
    return ClassificationObjective(
        classifier,
        VolumeView(slices=2, size_px=32, reduce="average"),
        Augmentation(),
        torch.ones(3, 3),
        input_window(None, FINETUNE),
        ema_decay=decay,
    )


@torch.no_grad()
def fill(network: nn.Module, value: float) -> None:
    """Set all weights and statistics; counts of batches become its whole part."""
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.fill_(value)


def test_the_average_by_hand() -> None:
    """With decay 0.75, from 0: 8 -> 2; 8 -> 3.5; 16 -> 6.625."""
    objective = objective_of(0.75)
    fill(objective.classifier, 0)
    fill(objective.average, 0)
    for value, expected in ((8, 2.0), (8, 3.5), (16, 6.625)):
        fill(objective.classifier, value)
        objective.after_step(0.5)
        for name, tensor in objective.average.state_dict().items():
            wanted = expected if tensor.is_floating_point() else value
            assert (tensor == wanted).all(), name
        assert all((t == value).all() for t in objective.classifier.parameters())


def test_it_starts_as_the_classifier_and_is_not_trained() -> None:
    objective = objective_of(0.9)
    kept, average = objective.classifier.state_dict(), objective.average.state_dict()
    assert list(kept) == list(average)
    assert all(torch.equal(kept[name], average[name]) for name in kept)
    trained = {id(p) for group in objective.parameter_groups() for p in group["params"]}
    assert trained == {id(p) for p in objective.classifier.parameters()}
    assert {name.split(".")[0] for name in objective.state_dict()} == {
        "classifier",
        "average",
        "weights",
    }


def test_the_average_predicts() -> None:
    objective = objective_of(0.9)
    assert objective.predictor is objective.average


def test_without_decay_there_is_none() -> None:
    objective = objective_of(0.0)
    assert objective.predictor is objective.classifier
    objective.after_step(0.5)
    assert {name.split(".")[0] for name in objective.state_dict()} == {"classifier", "weights"}
