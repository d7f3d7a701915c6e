"""2D CNN backbones of timm. No other module imports timm."""

from __future__ import annotations

import difflib
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub
import timm
import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from voco_data.errors import InputError
from voco_models.networks.depthwise import replace_depthwise
from voco_models.networks.encoder import Backbone
from voco_models.networks.weight_files import load_matching, read_weights

DEFAULT_BACKBONE = "efficientnetv2_rw_t"
"""EfficientNetV2-T, the paper's smaller backbone."""
LARGER_BACKBONE = "efficientnetv2_rw_s"
"""EfficientNetV2-S, the paper's larger backbone."""
TINY_BACKBONE = "test_byobnet"
"""For demos and tests: 0.2 M parameters, the fastest step on a CPU among timm's CNNs."""

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of the file of weights in timm's repositories, the first choice first."""
PROBE_PX = 64
"""Side of the image that `unused_parameters` looks at."""
CONNECT_SECONDS = 5.0
RGB = 3
_ADVICE = "give a downloaded file of weights with --init FILE"


class TimmBackbone(Backbone):
    """A timm CNN without its pooling and classifier.

    `forward` maps float (B, C, H, W) to a feature map (B, `num_features`, h, w), in channels-last
    memory.
    """

    memory_format = torch.channels_last

    def __init__(self, name: str, network: nn.Module, in_chans: int) -> None:
        super().__init__(name, in_chans, int(network.num_features))  # type: ignore[arg-type]
        self.network = replace_depthwise(network).to(memory_format=self.memory_format)

    def plain_weights(self) -> dict[str, Tensor]:
        """The state dict of the timm model."""
        return dict(self.network.state_dict())

    def unused_parameters(self) -> list[nn.Parameter]:
        """Parameters of layers after the feature map, which some timm networks keep.

        Found by a backward pass of a small image, in evaluation mode.
        """
        parameters = [p for p in self.parameters() if p.requires_grad]
        image = torch.zeros(1, self.in_chans, PROBE_PX, PROBE_PX, device=parameters[0].device)
        was_training = self.training
        try:
            with torch.enable_grad():
                total = self.eval()(image).sum()
            # In evaluation mode too: it may compute activations again.
            gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        finally:
            self.train(was_training)
        return [p for p, g in zip(parameters, gradients, strict=True) if g is None]

    def set_recompute(self, enabled: bool) -> None:
        """Compute activations again in the backward pass, block by block, or keep them.

        The statistics of batch norm then change in the backward pass too. Raises InputError for a
        network of which timm cannot do it.
        """
        try:
            self.network.set_grad_checkpointing(enabled)  # type: ignore[operator]
        except (AssertionError, AttributeError) as error:
            raise InputError(
                f"backbone {self.name}: timm cannot recompute its activations; turn recompute off"
            ) from error

    def forward(self, images: Tensor) -> Tensor:
        """Feature map (B, F, h, w) of float images (B, C, H, W)."""
        images = images.contiguous(memory_format=self.memory_format)
        features: Tensor = self.network.forward_features(images)  # type: ignore[operator]
        return features

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Feature maps of all stages, the finest first; the last one is that of `forward`."""
        images = images.contiguous(memory_format=self.memory_format)
        last, maps = self.network.forward_intermediates(images)  # type: ignore[operator]
        coarser = [one for one in maps if one.shape[2:] != last.shape[2:]]
        return [*coarser, last]


def create_timm_backbone(
    name: str, in_chans: int = 1, pretrained: bool | Path = False
) -> TimmBackbone:
    """A timm CNN by name, for images of `in_chans` channels.

    `pretrained=True` fetches timm's ImageNet weights; a path reads them from that file instead
    (.safetensors or .pth as timm publishes them). An RGB stem is summed to `in_chans`.
    Raises InputError for an unknown name, for weights that cannot be had, and for weights of
    another network.
    """
    if not timm.is_model(name):
        similar = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(similar)}?" if similar else ""
        raise InputError(f"backbone: expected the name of a timm model, got {name!r}{hint}")
    network = timm.create_model(name, in_chans=in_chans, num_classes=0)
    if pretrained is not False:
        file = pretrained if isinstance(pretrained, Path) else fetch_imagenet_weights(name)
        load_weights(network, name, read_weights(file), file)
    return TimmBackbone(name, network, in_chans)


def load_weights(network: nn.Module, name: str, weights: Mapping[str, Tensor], file: Path) -> None:
    """Load a state dict of the timm model `name` into `network`, which has no classifier.

    The weights of the classifier are left out, and an RGB stem is summed to the channels of the
    network. Raises InputError if any other name or shape differs; `file` is named in the message.
    """
    config = timm.get_pretrained_cfg(name)
    own = network.state_dict()
    classifiers = tuple(f"{prefix}." for prefix in _names(config.classifier if config else None))
    fitted = {
        key: tensor
        for key, tensor in weights.items()
        if key in own or not key.startswith(classifiers)
    }
    for stem in _names(config.first_conv if config else None):
        key = f"{stem}.weight"
        if key in own and key in fitted and fitted[key].ndim == 4 and fitted[key].shape[1] == RGB:
            fitted[key] = adapt_input_conv(own[key].shape[1], fitted[key])
    load_matching(network, name, fitted, file)


def fetch_imagenet_weights(name: str) -> Path:
    """The file of timm's ImageNet weights: from the cache of huggingface_hub, or downloaded.

    Raises InputError, within a few seconds, where there is no network.
    """
    config = timm.get_pretrained_cfg(name)
    repository = config and config.hf_hub_id
    if not repository:
        raise InputError(f"backbone {name}: timm publishes no ImageNet weights of it; {_ADVICE}")
    for file in WEIGHT_FILES:
        cached = huggingface_hub.try_to_load_from_cache(repository, file)
        if isinstance(cached, str):
            return Path(cached)
    endpoint = huggingface_hub.constants.ENDPOINT
    try:
        # One request without retries: the library would retry for a minute, with a line each time.
        request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310  the user's HF_ENDPOINT
        urllib.request.urlopen(request, timeout=CONNECT_SECONDS).close()  # noqa: S310
    except urllib.error.HTTPError:
        pass  # it answers
    except OSError as error:
        raise InputError(
            f"backbone {name}: ImageNet weights are not in the cache, and {endpoint} cannot be "
            f"reached; {_ADVICE}"
        ) from error
    return _download(name, repository)


def _download(name: str, repository: str) -> Path:
    errors = huggingface_hub.errors
    for file in WEIGHT_FILES:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, file))
        except errors.EntryNotFoundError:
            continue
        except (OSError, errors.HfHubHTTPError, errors.LocalEntryNotFoundError) as error:
            raise InputError(
                f"backbone {name}: ImageNet weights cannot be downloaded from {repository} "
                f"({type(error).__name__}); {_ADVICE}"
            ) from error
    raise InputError(f"backbone {name}: {repository} has no {WEIGHT_FILES[0]}; {_ADVICE}")


def _names(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The names in an entry of timm's configuration: none, one, or several."""
    if not value:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)
