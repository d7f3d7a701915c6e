"""Comparisons of two runs: whom they are about, paired differences, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sklearn_metrics

from flows.command import main
from tests.support.known_run import ORGANS, write_known_run
from voco_data.errors import InputError
from voco_models.evaluation import looks, predictions
from voco_models.evaluation.comparison import POWER_FACTOR
from voco_models.stages.comparison import compare_runs
from voco_models.stages.evaluation import evaluate

WEIGHTS = np.array([1.0, 2.0, 4.0])


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """A good and a bad run; patients 30 to 89 are in the test sets of both."""
    good = write_known_run(tmp_path / "good", quality=3.0, test=range(90))
    bad = write_known_run(tmp_path / "bad", quality=1.0, noise_seed=1, test=range(30, 120))
    return good, bad


def lines_of(run: Path) -> pd.DataFrame:
    table = predictions.read_predictions(run / predictions.FILE)
    lines = predictions.patient_lines(table, "test").set_index("patient_id")
    return lines.loc[[f"{i:03d}" for i in range(30, 90)]]


def read(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "comparison.json").read_text()))


def calibrated(run: Path, organ: str) -> np.ndarray:
    """The run's calibrated probabilities by hand, from its decision."""
    lines = lines_of(run)
    p = lines[[f"p_{organ}_{c}" for c in ("healthy", "low", "high")]].to_numpy()
    a, *b = json.loads((run / "decision.json").read_text())["calibration"][organ]
    q = p**a * np.exp(b)
    return np.asarray(q / q.sum(axis=1, keepdims=True))


def test_patients_are_those_that_neither_run_was_trained_on(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    summary = compare_runs(*runs, tmp_path / "out")
    found = read(tmp_path / "out")
    assert summary.patients == found["patients"] == 60
    assert found["left_out"] == [30, 30]
    assert [run["training_patients"] for run in found["runs"]] == [110, 110]


def test_differences_as_scikit_learn(runs: tuple[Path, Path], tmp_path: Path) -> None:
    compare_runs(*runs, tmp_path / "out")
    found = read(tmp_path / "out")["differences"]
    areas = []
    for organ in ORGANS:
        y = lines_of(runs[0])[f"y_{organ}"].to_numpy()
        good, bad = (calibrated(run, organ) for run in runs)
        losses = [sklearn_metrics.log_loss(y, p, sample_weight=WEIGHTS[y]) for p in (good, bad)]
        assert found[organ]["first"] == pytest.approx(losses[0], rel=1e-9)
        assert found[organ]["difference"]["value"] == pytest.approx(losses[0] - losses[1])
        high = [sklearn_metrics.roc_auc_score(y == 2, p[:, 2]) for p in (good, bad)]
        row = found[f"{organ}/auroc/high"]
        assert (row["first"], row["second"]) == pytest.approx(high, rel=1e-9)
        areas.append(losses[0] - losses[1])
    assert found["rsna_organ_3"]["difference"]["value"] == pytest.approx(np.mean(areas))
    assert found["rsna_organ_3"]["verdict"] == "better"
    assert found["liver/auroc/high"]["better"] == "higher"
    assert {found[f"liver{m}"]["better"] for m in ("", "/ece", "/brier")} == {"lower"}


def test_interval_and_smallest_difference_of_a_mean_by_hand(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    compare_runs(*runs, tmp_path / "out")
    found = read(tmp_path / "out")["differences"]["liver/brier"]
    y = np.eye(3)[lines_of(runs[0])["y_liver"].to_numpy()]
    terms = []
    for run in runs:
        p = calibrated(run, "liver") / WEIGHTS
        terms.append(np.square(p / p.sum(axis=1, keepdims=True) - y).sum(axis=1))
    paired = terms[0] - terms[1]
    error = paired.std(ddof=1) / np.sqrt(60)
    assert found["difference"]["value"] == pytest.approx(paired.mean())
    assert found["smallest_difference"] == pytest.approx(2.8 * error, rel=0.1)
    assert found["difference"]["low"] == pytest.approx(paired.mean() - 1.96 * error, abs=error / 2)
    assert found["difference"]["high"] == pytest.approx(paired.mean() + 1.96 * error, abs=error / 2)


def test_the_power_of_the_smallest_difference_is_80_percent() -> None:
    normal = NormalDist()
    power = 1 - normal.cdf(normal.inv_cdf(0.975) - POWER_FACTOR)
    assert power == pytest.approx(0.80, abs=0.005)


def test_a_run_does_not_differ_from_itself(runs: tuple[Path, Path], tmp_path: Path) -> None:
    compare_runs(runs[0], runs[0], tmp_path / "out")
    for name, row in read(tmp_path / "out")["differences"].items():
        assert (row["difference"]["low"], row["difference"]["high"]) == (0, 0), name
        assert (row["smallest_difference"], row["verdict"]) == (0, "not shown"), name


def test_the_other_way_round_the_sign_changes(runs: tuple[Path, Path], tmp_path: Path) -> None:
    one = compare_runs(*runs, tmp_path / "one").differences
    other = compare_runs(*runs[::-1], tmp_path / "other").differences
    for a, b in zip(one, other, strict=True):
        assert a["difference"] == pytest.approx(-b["difference"])
        assert (a["low"], a["high"]) == pytest.approx((-b["high"], -b["low"]))
    (score,) = (row for row in other if row["score"] == "rsna_organ_3")
    assert score["verdict"] == "worse"


def test_runs_without_shared_test_patients_are_refused(tmp_path: Path) -> None:
    one = write_known_run(tmp_path / "one", quality=1.0, test=range(50))
    other = write_known_run(tmp_path / "other", quality=1.0, test=range(50, 100))
    with pytest.raises(InputError, match="found none among 50 and 50"):
        compare_runs(one, other, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert looks.read_looks(one) == ()


def test_other_labels_are_counted_and_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    labels = pd.read_parquet(runs[1] / "labels.parquet")
    labels.loc[[30, 31, 5], "spleen"] = (labels.loc[[30, 31, 5], "spleen"] + 1) % 3
    labels.to_parquet(runs[1] / "labels.parquet")  # patient 5 is not compared
    with pytest.raises(InputError, match="2 of 60 test patients have other ones"):
        compare_runs(*runs, tmp_path / "out")


def test_corrected_labels_of_the_first_run_count_for_both(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    compare_runs(*runs, tmp_path / "before")
    labels = pd.read_parquet(runs[1] / "labels.parquet")
    labels.loc[[30, 31], "spleen"] = (labels.loc[[30, 31], "spleen"] + 1) % 3
    (runs[1] / looks.FILE).unlink()  # as if the labels had been others from the beginning
    labels.to_parquet(runs[1] / "labels.parquet")
    summary = compare_runs(*runs, tmp_path / "after", corrected=True)
    assert summary.corrected_labels == 2
    before, after = read(tmp_path / "before"), read(tmp_path / "after")
    assert after["differences"] == before["differences"]
    page = " ".join((tmp_path / "after" / "comparison.html").read_text().split())
    assert "labels of 2 of these patients were corrected" in page


def test_a_comparison_is_recorded_in_both_runs(runs: tuple[Path, Path], tmp_path: Path) -> None:
    for _ in range(2):  # made again, it is the same look
        compare_runs(*runs, tmp_path / "out")
    for run, other in (("good", "bad"), ("bad", "good")):
        (look,) = looks.read_looks(tmp_path / run)
        assert (look.kind, look.out, look.against) == ("comparison", "../out", f"../{other}")
    assert evaluate(runs[0]).looks == 1
    assert "Comparisons with other runs: 1." in (runs[0] / "report.html").read_text()
    compare_runs(*runs, tmp_path / "elsewhere")
    assert [s["comparisons"] for s in read(tmp_path / "elsewhere")["test_sets"]] == [2, 2]
    (runs[1] / "decision.json").write_bytes((runs[0] / "decision.json").read_bytes())
    with pytest.raises(InputError, match=r"bad/decision\.json: changed since"):
        compare_runs(*runs, tmp_path / "out")


def test_a_class_without_patients_is_named(tmp_path: Path) -> None:
    runs = [
        write_known_run(tmp_path / name, quality=1.0, noise_seed=i, test=range(3))
        for i, name in enumerate("ab")
    ]
    summary = compare_runs(*runs, tmp_path / "out")
    absent = {
        f"{organ}/auroc/{name}"
        for organ in ORGANS
        for c, name in enumerate(("healthy", "low", "high"))
        if c not in (y := pd.read_parquet(runs[0] / "labels.parquet")[organ][:3].tolist())
        or set(y) == {c}
    }
    assert absent
    assert set(summary.undefined) == absent
    assert "Not defined on these patients: " in (tmp_path / "out" / "comparison.html").read_text()


def test_the_command(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(runs[0]), "--against", str(runs[1]), "--out", str(tmp_path / "out")]
    assert main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["patients"] == 60
    assert printed["smallest_difference"].startswith("2.8 x standard error")
    assert Path(printed["report"]).is_file()
    assert main(words) == 0
    table = capsys.readouterr().out.splitlines()
    assert any(line.split()[0] == "rsna_organ_3" for line in table)
    (runs[1] / "run.json").unlink()
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "run.json" in line
    with pytest.raises(SystemExit) as stop:
        main([*words, "--again"])
    assert stop.value.code == 2


def test_the_page_has_every_score(runs: tuple[Path, Path], tmp_path: Path) -> None:
    compare_runs(*runs, tmp_path / "out")
    page = (tmp_path / "out" / "comparison.html").read_text()
    found = read(tmp_path / "out")["differences"]
    assert page.count("<tr><td>") == len(found)
    assert page.count("<svg") == 1
    for row in found.values():
        assert f"{row['difference']['value']:+.3f}" in page
    for text in ("60 test patients", "All organs", "Kidney", "AUROC high ↑", "first is better"):
        assert text in page
