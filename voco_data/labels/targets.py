"""The table of targets: the groups that patients are graded in, their classes and weights.

Heads, losses, predictions, calibration, thresholds, metrics, reports and the columns of label
tables read their groups from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from voco_data.errors import InputError

HEALTHY = "healthy"
"""Class 0 of every group."""
GRADES = (HEALTHY, "low", "high")
"""Classes of a solid organ. Low is AAST grade I-III, high is IV-V."""
INJURY = (HEALTHY, "injury")
"""Classes of a group that is not graded."""


@dataclass(frozen=True, slots=True)
class TargetGroup:
    """One question about a patient, answered by exactly one of its classes."""

    name: str
    """Beginning of the group's columns in label tables: `<name>_<class>`."""
    classes: tuple[str, ...]
    """Names of the classes 0, 1, ...; class 0 is the absence of injury."""
    weights: tuple[float, ...]
    """Weight of a patient by true class, in losses and scores."""

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise InputError(f"targets: {self.name} needs two or more classes of different names")
        if len(self.weights) != len(self.classes) or min(self.weights) <= 0:
            raise InputError(
                f"targets: {self.name} needs one weight above 0 for each of its "
                f"{len(self.classes)} classes, got {list(self.weights)}"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """One-hot columns of the group in a label table, in the order of the classes."""
        return tuple(f"{self.name}_{name}" for name in self.classes)


@dataclass(frozen=True, slots=True)
class TargetTable:
    """Groups in the order of every array, column and list that is made from them."""

    groups: tuple[TargetGroup, ...]

    def __post_init__(self) -> None:
        if not self.groups or len(set(self.names)) != len(self.groups):
            raise InputError(f"targets: expected groups of different names, got {self.names}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the groups."""
        return tuple(group.name for group in self.groups)

    @property
    def most_classes(self) -> int:
        """Number of classes of the largest group."""
        return max(len(group.classes) for group in self.groups)

    def select(self, names: Iterable[str]) -> TargetTable:
        """The groups of these names, in the given order. KeyError for an unknown name."""
        return TargetTable(tuple(self[name] for name in names))

    def without(self, other: TargetTable) -> tuple[TargetGroup, ...]:
        """The groups that `other` does not have."""
        return tuple(group for group in self if group.name not in other)

    def with_grade_weights(self, weights: Sequence[float]) -> TargetTable:
        """The same groups, with these weights for healthy, low and high where those are the
        classes. The other groups keep their weights.
        """
        return TargetTable(
            tuple(
                replace(group, weights=tuple(weights)) if group.classes == GRADES else group
                for group in self.groups
            )
        )

    def __iter__(self) -> Iterator[TargetGroup]:
        """The groups in order."""
        return iter(self.groups)

    def __len__(self) -> int:
        """How many groups."""
        return len(self.groups)

    def __getitem__(self, name: str) -> TargetGroup:
        """The group of a name. KeyError for an unknown name."""
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        """Whether there is a group of this name."""
        return name in self.names


RSNA_TARGETS = TargetTable(
    (
        TargetGroup("bowel", INJURY, (1.0, 2.0)),
        TargetGroup("extravasation", INJURY, (1.0, 6.0)),
        TargetGroup("kidney", GRADES, (1.0, 2.0, 4.0)),
        TargetGroup("liver", GRADES, (1.0, 2.0, 4.0)),
        TargetGroup("spleen", GRADES, (1.0, 2.0, 4.0)),
    )
)
"""All groups of RSNA 2023 Abdominal Trauma Detection, with the weights of its evaluation page."""

ORGAN_TARGETS = RSNA_TARGETS.select(("kidney", "liver", "spleen"))
"""What the paper's classifier is trained and scored on: the solid organs, graded."""
