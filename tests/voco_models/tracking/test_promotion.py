"""The rule of promotion, against scores made by hand, and what a conclusion does with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.known_run import write_known_run
from voco_data.errors import InputError
from voco_data.withdrawal.taint import TAINTED
from voco_models.tracking.champions import read_champions
from voco_models.tracking.conclusion import conclude_retraining
from voco_models.tracking.pins import BackboneChoice, RetrainingPins
from voco_models.tracking.promotion import check_margin, judge


def row(low: float, high: float, *, score: str = "rsna_organ_3", better: str = "lower") -> Any:
    value = (low + high) / 2
    return {
        "score": score, "run": 0.5 + value, "run_low": 0.1, "run_high": 0.9,
        "against": 0.5, "against_low": 0.2, "against_high": 0.8,
        "difference": value, "low": low, "high": high, "better": better,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "margin", "promoted"),
    [
        (-0.30, -0.10, 0.05, True),  # shown to be better
        (-0.04, 0.04, 0.05, True),  # the same, and measured well enough
        (0.01, 0.05, 0.05, True),  # shown to be worse, by no more than the margin
        (-0.20, 0.051, 0.05, False),  # better on average, but it may be worse by more
        (0.10, 0.30, 0.05, False),
        (0.10, 0.30, 0.40, True),
        (-0.01, 0.001, 0.0, False),
    ],
)
def test_the_worse_end_of_the_interval_counts(
    low: float, high: float, margin: float, promoted: bool
) -> None:
    verdict = judge([row(low, high)], 40, "retrain-a", margin)
    assert verdict.promoted is promoted
    assert f"[{low:+.4f}, {high:+.4f}] on 40 patients" in verdict.reason
    assert f"margin {margin:g}" in verdict.reason
    mirrored = judge([row(-high, -low, better="higher")], 40, "retrain-a", margin)
    assert mirrored.promoted is promoted


def test_other_scores_do_not_count() -> None:
    rows = [row(0.5, 0.9, score="liver"), row(-0.01, 0.01), row(0.5, 0.9, score="rsna_official_6")]
    assert judge(rows, 9, "a").promoted
    assert not judge(rows[2:], 9, "a").promoted  # a run that grades no solid organ


@pytest.mark.parametrize("rows", [[], [row(float("nan"), float("nan"))], [row(-1.0, float("inf"))]])
def test_without_an_interval_nothing_is_promoted(rows: list[Any]) -> None:
    verdict = judge(rows, 3, "a")
    assert (verdict.promoted, "no score has an interval" in verdict.reason) == (False, True)


@pytest.mark.parametrize("margin", [-0.1, float("nan"), float("inf")])
def test_a_margin_that_is_none_is_refused(margin: float) -> None:
    with pytest.raises(InputError, match="margin: expected a number of at least 0"):
        check_margin(margin)


# --- conclusions of runs with predictions of a known quality ------------------------------------


def pins_of(runs: Path, name: str, backbone: str = "") -> RetrainingPins:
    choice = BackboneChoice(backbone or f"{name}/pretrain", not backbone, None, "as told")
    return RetrainingPins(runs / name, {}, {"rows": name}, choice, patients=9, unlabelled=1)


def finish(runs: Path, name: str, **how: Any) -> RetrainingPins:
    (runs / name).mkdir()
    write_known_run(runs / name / "finetune", **how)
    return pins_of(runs, name)


def test_months_of_better_and_worse_runs(tmp_path: Path) -> None:
    first = conclude_retraining(finish(tmp_path, "jan", quality=2.0))
    assert (first["promoted"], first["champion"]) == (True, "jan")
    worse = conclude_retraining(finish(tmp_path, "feb", quality=0.0, noise_seed=1))
    assert (worse["promoted"], worse["champion"]) == (False, "jan")
    assert "may be worse by" in worse["reason"]
    better = conclude_retraining(finish(tmp_path, "mar", quality=4.0, noise_seed=2))
    assert (better["promoted"], better["champion"]) == (True, "mar")
    assert Path(better["comparison"]).is_file()
    champions = read_champions(tmp_path)
    status = {run.run: champions.status(run.run) for run in champions.runs}
    assert status == {"jan": "former champion", "feb": "challenger", "mar": "champion"}


def test_a_conclusion_that_is_made_again_changes_nothing(tmp_path: Path) -> None:
    for name, quality in (("jan", 3.0), ("feb", 0.0)):
        pins = finish(tmp_path, name, quality=quality)
        once = conclude_retraining(pins)
        text = (tmp_path / "champion.json").read_text()
        assert conclude_retraining(pins) == once
        assert (tmp_path / "champion.json").read_text() == text


def test_a_tainted_run_is_never_promoted(tmp_path: Path) -> None:
    conclude_retraining(finish(tmp_path, "jan", quality=0.0))
    better = finish(tmp_path, "feb", quality=4.0)
    (tmp_path / "feb" / "finetune" / TAINTED).write_text("{}")
    found = conclude_retraining(better)
    assert (found["promoted"], found["champion"]) == (False, "jan")
    assert "withdrawn patient" in found["reason"]
    (tmp_path / "jan" / "pretrain").mkdir()
    (tmp_path / "jan" / "pretrain" / TAINTED).write_text("{}")
    (tmp_path / "mar").mkdir()
    write_known_run(tmp_path / "mar" / "finetune", quality=4.0)
    reused = conclude_retraining(pins_of(tmp_path, "mar", backbone="jan/pretrain"))
    assert (reused["promoted"], reused["champion_tainted"]) == (False, True)


def test_what_cannot_be_compared_is_kept_with_the_reason(tmp_path: Path) -> None:
    conclude_retraining(finish(tmp_path, "jan", quality=1.0, test=range(50)))
    other = conclude_retraining(finish(tmp_path, "feb", quality=4.0, test=range(50, 100)))
    assert (other["promoted"], other["champion"]) == (False, "jan")
    assert "cannot be compared with the champion jan" in other["reason"]


def test_a_corrected_label_does_not_stop_the_comparison(tmp_path: Path) -> None:
    conclude_retraining(finish(tmp_path, "jan", quality=1.0))
    new = finish(tmp_path, "feb", quality=4.0, noise_seed=1)
    path = tmp_path / "feb" / "finetune" / "labels.parquet"
    labels = pd.read_parquet(path)
    labels.loc[[3], "spleen"] = (labels.loc[[3], "spleen"] + 1) % 3
    labels.to_parquet(path)
    assert conclude_retraining(new)["promoted"]
