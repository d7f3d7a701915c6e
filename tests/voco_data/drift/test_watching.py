"""The watch on a store with a champion: alarms, too few patients, scores, the page."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.support.drift_site import RUN, make_drift_site, write_ledger
from voco_data.drift.refusals import refused_patients, utc_seconds
from voco_data.drift.watching import DriftSummary, ReferenceCohort, watch_drift
from voco_data.errors import InputError
from voco_data.storage.local import LocalStorage
from voco_models.evaluation.predictions import table_columns
from voco_models.tracking.champion_cohort import find_champion_cohort


def watch(runs: Path, **options: Any) -> DriftSummary:
    cohort = ReferenceCohort(**asdict(find_champion_cohort(runs)))
    return watch_drift(cohort, runs / "drift", **options)


def names(summary: DriftSummary) -> list[str]:
    return [line.partition(":")[0] for line in summary.alarms]


def test_without_a_drift_there_is_no_alarm(tmp_path: Path) -> None:
    found = watch(make_drift_site(tmp_path))
    assert (found.cohort_patients, found.new_patients, found.new_series) == (60, 40, 40)
    assert found.alarms == ()
    assert found.too_few == ()
    assert {row["measure"] for row in found.comparisons} == {
        "refused", "fallback_box", "transfer_syntax", "hu_p5", "hu_median", "hu_p95",
        "slice_spacing", "pixel_spacing", "scan_length",
    }  # fmt: skip
    assert "No alarm." in Path(found.report).read_text()


def test_a_shift_of_hu_is_named_with_its_size(tmp_path: Path) -> None:
    found = watch(make_drift_site(tmp_path, shift_hu=50.0))
    assert names(found) == ["hu_p5", "hu_median", "hu_p95"]
    [median] = [row for row in found.comparisons if row["measure"] == "hu_median"]
    assert 30 < median["effect"] < 70
    assert "60 patients of the cohort, 40 new" in found.alarms[1]
    page = Path(found.report).read_text()
    assert page.count("<svg xmlns=") == 9
    assert page.index("HU, median of the tissue: alarm") < page.index("slice spacing")
    assert json.loads((tmp_path / "runs" / "drift" / "drift.json").read_text())["alarms"]
    assert not names(
        watch(tmp_path / "runs", min_effects=[f"hu_{p}=200" for p in ("p5", "median", "p95")])
    )


def test_thicker_slices_and_more_refusals_are_named(tmp_path: Path) -> None:
    runs = make_drift_site(
        tmp_path,
        refused_share=0.5,
        change=lambda record: replace(record, spacing_mm=(5.0, *record.spacing_mm[1:])),
    )
    found = watch(runs)
    assert set(names(found)) == {"refused", "slice_spacing", "scan_length"}
    assert "10.0% to 50.0%" in next(line for line in found.alarms if line.startswith("refused"))


def test_boxes_that_were_not_found_are_named(tmp_path: Path) -> None:
    runs = make_drift_site(tmp_path, change=lambda record: replace(record, box_confidence=0.3))
    assert names(watch(runs)) == ["fallback_box"]


def test_few_patients_are_too_few_to_tell(tmp_path: Path) -> None:
    found = watch(make_drift_site(tmp_path, new=12, shift_hu=500.0))
    assert found.alarms == ()
    assert found.comparisons == ()
    assert "hu_median: too few to tell (60 patients of the cohort, 12 new, 20 needed)" in (
        found.too_few
    )
    assert "Too few patients to tell." in Path(found.report).read_text()
    assert names(watch(tmp_path / "runs", min_patients=10))


def test_nothing_new_is_no_alarm(tmp_path: Path) -> None:
    found = watch(make_drift_site(tmp_path, new=0))
    assert (found.new_patients, found.alarms) == (0, ())


def test_of_refusals_the_last_ledger_counts(tmp_path: Path) -> None:
    root = LocalStorage(tmp_path)
    write_ledger(tmp_path, "20260101T000000", 4, 4)
    since = utc_seconds("2026-02-01T00:00:00Z")
    before, new = refused_patients(root, since)
    assert (sum(before.values()), len(before), new) == (4, 4, {})
    again = write_ledger(tmp_path, "20260101T000000", 4, 1)
    write_ledger(tmp_path, "20260301T000000", 3, 2, again)
    before, new = refused_patients(root, since)
    assert (sum(before.values()), len(before)) == (1, 4)
    assert (sum(new.values()), len(new)) == (2, 3)


# --- scores ------------------------------------------------------------------------------------


def write_scores(runs: Path, shift: float) -> Path:
    """Predictions of the run's 50 test patients, and a folder of voco predict with 50 others."""
    rng = np.random.default_rng(5)

    def injuries(extra: float) -> np.ndarray:
        return np.clip(rng.uniform(0.05, 0.5, 50) + extra, 0, 0.95)

    table = pd.DataFrame(0.0, index=range(50), columns=table_columns())
    table = table.assign(level="patient", split="test", fold=-1, series_uid="")
    table["patient_id"] = [f"test-{i}" for i in range(50)]
    new = pd.DataFrame({"patient_id": [f"new-{i}" for i in range(50)]})
    new = new.assign(level="patient", status="predicted")
    for organ in ("liver", "spleen", "kidney"):
        own, other = injuries(0.0), injuries(shift if organ == "liver" else 0.0)
        table[f"p_{organ}_healthy"], table[f"p_{organ}_low"] = 1 - own, own
        new[f"raw_{organ}_healthy"], new[f"raw_{organ}_low"] = 1 - other, other
        new[f"predicted_{organ}"] = "healthy"
    table.to_parquet(runs / RUN / "finetune" / "predictions.parquet")
    out = runs.parent / "predicted"
    out.mkdir()
    new.to_parquet(out / "predictions.parquet")
    (out / "predict.json").write_text(json.dumps({"run": str(runs / RUN / "finetune")}))
    return out


def test_scores_of_one_organ_that_have_shifted_are_named(tmp_path: Path) -> None:
    runs = make_drift_site(tmp_path)
    out = write_scores(runs, 0.3)
    assert names(watch(runs, predictions=[out])) == ["score_liver"]
    (out / "predict.json").write_text(json.dumps({"run": str(runs / "another")}))
    with pytest.raises(InputError, match="expected predictions of the champion"):
        watch(runs, predictions=[out])
    with pytest.raises(InputError, match="expected the folder of a voco predict"):
        watch(runs, predictions=[tmp_path])


def test_scores_without_a_shift_are_no_alarm(tmp_path: Path) -> None:
    runs = make_drift_site(tmp_path)
    found = watch(runs, predictions=[write_scores(runs, 0.0)])
    assert found.alarms == ()
    assert sum(row["measure"].startswith("score_") for row in found.comparisons) == 3


# --- the cohort of the champion ----------------------------------------------------------------


def test_without_a_champion_or_its_pins_it_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected the folder of retrainings with champion\.json"):
        find_champion_cohort(tmp_path)
    runs = make_drift_site(tmp_path)
    pins = runs / RUN / "pins.json"
    values = json.loads(pins.read_text())
    pins.write_text(json.dumps(values | {"pinned": ""}))
    assert find_champion_cohort(runs).since == "2026-03-02T00:00:00Z"
    pins.write_text("{")
    with pytest.raises(InputError, match="expected the pins of the champion"):
        find_champion_cohort(runs)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"alpha": 1.5}, "alpha: expected"), ({"min_patients": 1}, "min patients: expected")],
)
def test_options_are_checked(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        watch(make_drift_site(tmp_path, cohort=3, new=0), **options)
