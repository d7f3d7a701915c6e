"""The table of targets: what a group must be, and what can be asked of the table."""

from __future__ import annotations

import pytest

from voco_data.errors import InputError
from voco_data.labels.targets import ORGAN_TARGETS, RSNA_TARGETS, TargetGroup, TargetTable


def test_the_groups_and_weights_of_the_competition() -> None:
    """RSNA 2023 Abdominal Trauma Detection, evaluation page."""
    assert {group.name: group.weights for group in RSNA_TARGETS} == {
        "bowel": (1, 2),
        "extravasation": (1, 6),
        "kidney": (1, 2, 4),
        "liver": (1, 2, 4),
        "spleen": (1, 2, 4),
    }
    assert ORGAN_TARGETS.names == ("kidney", "liver", "spleen")
    assert {group.classes for group in ORGAN_TARGETS} == {("healthy", "low", "high")}


def test_columns_are_those_of_the_label_table() -> None:
    assert RSNA_TARGETS["bowel"].columns == ("bowel_healthy", "bowel_injury")
    assert RSNA_TARGETS["liver"].columns == ("liver_healthy", "liver_low", "liver_high")


def test_selection_keeps_the_given_order() -> None:
    chosen = RSNA_TARGETS.select(("spleen", "bowel"))
    assert chosen.names == ("spleen", "bowel")
    assert (len(chosen), chosen.most_classes) == (2, 3)
    assert "bowel" in chosen
    assert [group.name for group in RSNA_TARGETS.without(ORGAN_TARGETS)] == [
        "bowel",
        "extravasation",
    ]
    with pytest.raises(KeyError, match="heart"):
        RSNA_TARGETS.select(("heart",))


def test_other_weights_for_graded_groups() -> None:
    table = RSNA_TARGETS.with_grade_weights((1, 3, 9))
    assert [group.weights for group in table] == [(1, 2), (1, 6), *[(1, 3, 9)] * 3]
    with pytest.raises(InputError, match="kidney needs one weight above 0 for each of its 3"):
        ORGAN_TARGETS.with_grade_weights((1, 3))


@pytest.mark.parametrize(
    ("classes", "weights"),
    [(("healthy",), (1.0,)), (("a", "a"), (1.0, 1.0)), (("a", "b"), (1.0,)), (("a", "b"), (1, 0))],
)
def test_a_group_that_cannot_be_learnt_is_refused(
    classes: tuple[str, ...], weights: tuple[float, ...]
) -> None:
    with pytest.raises(InputError, match="targets: heart needs"):
        TargetGroup("heart", classes, weights)


def test_a_table_names_each_group_once() -> None:
    with pytest.raises(InputError, match="different names"):
        TargetTable((RSNA_TARGETS["liver"], RSNA_TARGETS["liver"]))
    with pytest.raises(InputError, match="different names"):
        TargetTable(())
