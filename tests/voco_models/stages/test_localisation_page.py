"""The page of pictures beside the boxes of `voco localise`: which series it shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.organ_stores import ORGANS, organ_store
from voco_data.errors import InputError
from voco_data.store import Store
from voco_models.localisation.boxes import OrganBox
from voco_models.stages import localisation
from voco_models.stages.localisation import localise
from voco_models.stages.projection import project
from voco_models.stages.projection_recipes import ProjectionRecipe
from voco_models.training import FitConfig, Sgd

CONFIDENCES = {0: 0.5, 1: 0.9, 3: 0.2, 4: 0.7}
"""Of the liver, by row; the series in row 2 has no box."""
RECIPE = ProjectionRecipe(
    fit=FitConfig(total_steps=1, lr=0.1, weight_decay=1e-4, optimizer=Sgd(), checkpoint_every=1),
    network="unet_2d",
    widths=(2, 2, 4, 4, 4),
    organs=ORGANS,
    masks=2,
    batch_size=2,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return organ_store(tmp_path_factory.mktemp("stores"), 5, masked=5)


@pytest.fixture(scope="module")
def run(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    project([store.path], folder, recipe=RECIPE, device="cpu")
    return folder


@pytest.fixture
def known_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that find the liver with `CONFIDENCES`."""

    def find(*arguments: Any) -> list[dict[str, OrganBox]]:
        return [
            {"liver": OrganBox((2.0, 10.0, 12.0), (8.0, 40.0, 30.0), CONFIDENCES[record.row])}
            if record.row in CONFIDENCES
            else {}
            for record in arguments[3]
        ]

    monkeypatch.setattr(localisation, "find_organ_boxes", find)


@pytest.mark.usefixtures("known_boxes")
def test_the_least_certain_series_come_first(store: Store, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "boxes.csv"
    summary = localise(run, store, out, box="liver", pictures=3)
    assert summary.page == tmp_path / "boxes.html"
    assert summary.to_json()["page"] == str(summary.page)
    page = summary.page.read_text()
    captions = re.findall(r"<figcaption>Patient (\S+), .*?: (.*?)</figcaption>", page)
    assert captions == [
        ("patient-002", "no box"),
        ("patient-003", "confidence 0.20"),
        ("patient-000", "confidence 0.50"),
    ]
    assert "4 of 5 series have a box of the liver" in page
    assert "Scores" not in page


@pytest.mark.usefixtures("known_boxes", "drawn_plots")
def test_a_picture_shows_the_scan_the_maps_and_the_box(
    store: Store, run: Path, tmp_path: Path
) -> None:
    localise(run, store, tmp_path / "boxes.csv", box="liver", pictures=2)
    page = (tmp_path / "boxes.html").read_text()
    assert page.count("<svg") == 2
    assert page.count("data:image/png") == 2 * 6  # three columns, two planes
    assert page.count("stroke-dasharray") == 2  # the second series has a box, in both planes
    for words in (">scan<", ">maps<", ">boxes<", "z, mm (to the head)"):
        assert words in page


@pytest.mark.usefixtures("known_boxes")
def test_scores_are_on_the_page(store: Store, run: Path, tmp_path: Path) -> None:
    localise(run, store, tmp_path / "boxes.csv", box="liver", score=True, pictures=1)
    page = (tmp_path / "boxes.html").read_text()
    assert "3 patients with masks, from whom the run has not learnt" in page
    assert "Mean box: median error, mm" in page


def test_no_page_is_written_without_being_asked_for(
    store: Store, run: Path, tmp_path: Path
) -> None:
    summary = localise(run, store, tmp_path / "boxes.csv", box="liver")
    assert "page" not in summary.to_json()
    assert not (tmp_path / "boxes.html").exists()
    with pytest.raises(InputError, match="pictures: expected 0 or more, got -1"):
        localise(run, store, tmp_path / "boxes.csv", box="liver", pictures=-1)
