"""The classifier of volumes: features of slices, and a head that grades the target groups."""

from __future__ import annotations

from torch import Tensor, nn

from voco_data.errors import InputError
from voco_data.labels import ORGAN_TARGETS, TargetTable
from voco_models.networks.encoder import Backbone
from voco_models.networks.heads import (
    DEFAULT_OPTIONS,
    FeatureNorm,
    Head,
    HeadOptions,
    HeadOutput,
)
from voco_models.networks.organ_queries import OrganQueryHead
from voco_models.networks.recompute import Recompute
from voco_models.networks.sequence_heads import (
    BiLstmHead,
    GatedAttentionHead,
    GruAttentionHead,
    TransformerHead,
)
from voco_models.networks.slice_features import SliceFeatures, SlicePooling

BILSTM = "bilstm"
ORGAN_QUERIES = "organ_queries"
TRANSFORMER = "transformer"
HEADS: dict[str, type[Head]] = {
    BILSTM: BiLstmHead,
    "gru_attention": GruAttentionHead,
    "gated_attention": GatedAttentionHead,
    TRANSFORMER: TransformerHead,
    ORGAN_QUERIES: OrganQueryHead,
}
"""Heads by the names that recipes use."""

FORMER_NAMES = {
    "backbone.": "features.backbone.",
    "norm.": "features.norm.",
    "sequence.": "head.",
    "heads.": "head.heads.",
}
"""Beginnings of the names of weights in runs that are older than the choice of a head."""


def find_head(name: str) -> type[Head]:
    """The head of a name. Raises InputError for an unknown one."""
    if name not in HEADS:
        raise InputError(f"head: expected one of {', '.join(sorted(HEADS))}, got {name!r}")
    return HEADS[name]


class SliceSequenceClassifier(nn.Module):
    """Volumes (B, Z, Y, X) in [-1, 1] -> logits (B, C) for each group. Paper, section 2.2.

    `size_px` is the side of a slice. `head` is a name of `HEADS`. `pooling`, `feature_norm`,
    `images_per_call` and `recompute` are those of `SliceFeatures`. Raises InputError for an unknown
    name, for a pooling that the head cannot use, and for a backbone that cannot recompute.
    """

    def __init__(
        self,
        backbone: Backbone,
        size_px: int,
        *,
        head: str = BILSTM,
        options: HeadOptions = DEFAULT_OPTIONS,
        pooling: SlicePooling = "mean",
        feature_norm: FeatureNorm = "none",
        images_per_call: int | None = None,
        targets: TargetTable = ORGAN_TARGETS,
        recompute: Recompute = "off",
    ) -> None:
        super().__init__()
        kind = find_head(head)
        check_pooling(head, pooling)
        self.features = SliceFeatures(
            backbone,
            size_px,
            pooling=pooling,
            norm=feature_norm,
            width=options.hidden,
            images_per_call=images_per_call,
            recompute=recompute,
        )
        self.head = kind(self.features.layout, targets, options)
        hook = _rename_former_weights
        self.register_load_state_dict_pre_hook(hook)  # type: ignore[no-untyped-call]

    @property
    def backbone(self) -> Backbone:
        """The network that is called on slices."""
        return self.features.backbone

    def classify(self, volumes: Tensor, depths_mm: Tensor | None = None) -> HeadOutput:
        """Logits and attention of volumes (B, Z, Y, X); see `Head.forward`."""
        output: HeadOutput = self.head(self.features(volumes), depths_mm)
        return output

    def forward(self, volumes: Tensor, depths_mm: Tensor | None = None) -> dict[str, Tensor]:
        """Logits (B, C) by group of volumes (B, Z, Y, X), in the order of the target table."""
        return self.classify(volumes, depths_mm).logits


def _rename_former_weights(
    module: nn.Module,  # noqa: ARG001  PyTorch gives these
    state: dict[str, Tensor],
    prefix: str,
    *_: object,
) -> None:
    """Give the weights of an older run their names of today. Their order is the same."""
    for key in [key for key in state if key.startswith(prefix)]:
        for former, name in FORMER_NAMES.items():
            if key.startswith(prefix + former):
                state[prefix + name + key.removeprefix(prefix + former)] = state.pop(key)


def check_pooling(head: str, pooling: SlicePooling) -> None:
    """Raise InputError for vectors of so many places that a head would flatten."""
    if pooling == "stages" and not find_head(head).keeps_places:
        raise InputError(f"recipe: the head {head} needs pooling mean or quadrants, got {pooling}")
