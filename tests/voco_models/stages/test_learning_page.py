"""docs/learning.md: who is left out of what, and the figures of results that are made by hand."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from scripts import learning_page
from scripts.learning_page import GROUPS, Work
from tests.support.ct_learning import ct_learning_folder, write_patient_table
from tests.support.small_stores import make_store, random_volumes
from voco_data.selection import SeenPatients, read_split
from voco_data.store.record import Record
from voco_models.networks.imagenet_lite0 import PACKAGE

HALF = ("stored", "half of random", "stored")
N_REAL, DOMAINS = 7, {"a": 2, "b": 3, "c": 1, "d": 2, "e": 2}
RANDOM, IMAGENET = list(learning_page.NAMES)[:2]
ERRORS = {RANDOM: 30.0, IMAGENET: 15.0, "scratch": 10.0, "imagenet": 5.0}
"""Error in px of every patient, plus 1 px for each group; re-estimated statistics add 2 px."""


def made_up(record: Record) -> Record:
    return replace(record, patient_id=record.patient_id.replace("patient", "made-up"))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """Stores, splits, and results of runs that never took place."""
    folder = tmp_path_factory.mktemp("work")
    work = Work(folder, "small", (), {"real": 4, "phantom": 2})
    grid, n_made_up = (4, 80, 80), sum(DOMAINS.values())
    make_store(folder / "real", random_volumes(N_REAL, grid), profile="pretrain")
    phantoms = random_volumes(n_made_up, grid, seed=1)
    make_store(folder / "phantom", phantoms, profile="pretrain", change=made_up)
    owners = [domain for domain, count in DOMAINS.items() for _ in range(count)]
    lines = [f"made-up-{n:03d},{domain}" for n, domain in enumerate(owners)]
    (folder / "phantoms").mkdir()
    (folder / "phantoms" / "domains.csv").write_text("\n".join(["patient_id,domain", *lines]))
    learning_page.make_splits(work)
    for group in range(GROUPS):
        for arm in learning_page.ARMS:
            write_run(work.run(arm, group), seconds=60 * (5 + group))
        test = read_split(work.split(group)).test
        for kind, prefix in (("real", "patient"), ("phantom", "made-up")):
            patients = [one for one in test if one.startswith(prefix)]
            work.probe(kind, group).write_text(json.dumps(result_of(work, group, patients)))
    return work


def write_run(run: Path, seconds: float) -> None:
    run.mkdir()
    provenance = {
        "commit": "0123456789abcdef",
        "torch": "2.0",
        "timm": "1.0",
        "recipe": {"fit": {"total_steps": 77}},
    }
    (run / "run.json").write_text(json.dumps({"provenance": provenance, "alarms": ["a"]}))
    (run / "history.csv").write_text(f"step,lr,loss,seconds\n1,1,1,1\n77,1,1,{seconds}\n")


def result_of(work: Work, group: int, patients: list[str]) -> dict[str, object]:
    by_patient = {}
    for backbone, error in ERRORS.items():
        name = str(work.run(backbone, group)) if backbone in learning_page.ARMS else backbone
        for statistics, more in (("stored", 0), ("re-estimated", 2)):
            errors = dict.fromkeys(patients, error + group + more)
            sides = dict.fromkeys(patients, 0.5)
            by_patient[f"{name} / {statistics}"] = {
                question: sides if question.startswith("side") else errors
                for question in learning_page.QUESTIONS
            }
    return {"by_patient": by_patient}


def test_every_patient_and_every_domain_is_left_out_once(work: Work) -> None:
    splits = [read_split(work.split(group)) for group in range(GROUPS)]
    everyone = {f"patient-{n:03d}" for n in range(N_REAL)}
    everyone |= {f"made-up-{n:03d}" for n in range(sum(DOMAINS.values()))}
    assert sorted(patient for split in splits for patient in split.test) == sorted(everyone)
    domain_of = learning_page.read_domains(work)
    for split in splits:
        assert {*split.test, *split.folds[0], *split.folds[1]} == everyone
        unseen = {domain_of[one] for one in split.test if one in domain_of}
        seen = {domain_of[one] for fold in split.folds for one in fold if one in domain_of}
        assert unseen
        assert unseen.isdisjoint(seen)


def test_splits_that_exist_stay(work: Work) -> None:
    before = [work.split(group).read_text() for group in range(GROUPS)]
    learning_page.make_splits(work)
    assert [work.split(group).read_text() for group in range(GROUPS)] == before


def rows_of(text: str, first: str) -> list[list[str]]:
    lines = re.findall(rf"^\| ({first}) \| (.*) \|$", text, re.MULTILINE)
    return [[name, *rest.split(" | ")] for name, rest in lines]


def test_a_mean_counts_each_patient_once(work: Work) -> None:
    real, phantoms = learning_page.render(work).split("### Phantoms")
    sizes = [len(read_split(work.split(group)).test) for group in range(GROUPS)]
    of_real = [
        sum(one.startswith("patient") for one in read_split(work.split(group)).test)
        for group in range(GROUPS)
    ]
    mean = sum(group * count for group, count in enumerate(of_real)) / N_REAL
    stored, again = rows_of(real, "random")
    assert stored[1:3] == ["stored", stored[2]]
    assert stored[2].startswith(f"{30 + mean:.1f} (")
    assert again[2].startswith(f"{32 + mean:.1f} (")
    n = sum(DOMAINS.values())
    made_up = sum(g * (sizes[g] - of_real[g]) for g in range(GROUPS)) / n
    assert rows_of(phantoms, "VoCo from scratch")[0][2].startswith(f"{10 + made_up:.1f} (")


def test_differences_are_of_the_same_patients(work: Work) -> None:
    text = learning_page.render(work)
    # The group adds as much to both, so every pair differs by the same, and so do the resamples.
    rows = [
        row for row in rows_of(text.split("### Phantoms")[0], "VoCo from scratch") if len(row) == 8
    ]
    found = {tuple(row[1:4]): float(row[4].split()[0]) for row in rows}
    assert found == {
        ("stored", "random", "stored"): -20,
        ("stored", "random", "re-estimated"): -22,
        ("re-estimated", "random", "stored"): -18,
        ("re-estimated", "random", "re-estimated"): -20,
        ("stored", "ImageNet", "stored"): -5,
        ("stored", "ImageNet", "re-estimated"): -7,
        ("re-estimated", "ImageNet", "stored"): -3,
        ("re-estimated", "ImageNet", "re-estimated"): -5,
        ("stored", "half of random", "stored"): pytest.approx(found[HALF], abs=0.11),
        ("stored", "half of random", "re-estimated"): pytest.approx(found[HALF] - 1, abs=0.11),
        ("re-estimated", "half of random", "stored"): pytest.approx(found[HALF] + 2, abs=0.11),
        ("re-estimated", "half of random", "re-estimated"): pytest.approx(
            found[HALF] + 1, abs=0.11
        ),
    }
    group_mean = 2 * (found[HALF] + 5)  # 10 + g - (30 + g) / 2 = -5 + g / 2
    assert 0 < group_mean < 2
    assert {row[4] for row in rows[:1]} == {"-20.0 (-20.0 to -20.0)"}
    assert {row[-1] for row in rows} == {"+0.00 (+0.00 to +0.00)", ""}
    arms = [row for row in rows_of(text, "VoCo from ImageNet") if row[2] == "VoCo from scratch"]
    assert [row[4] for row in arms] == ["-5.0 (-5.0 to -5.0)"] * 4  # real and made-up


def test_groups_and_domains_have_rows_of_their_own(work: Work) -> None:
    text = learning_page.render(work)
    for group in range(GROUPS):
        (row,) = rows_of(text, str(group))
        assert row[2:] == [f"{error + group + 2:.1f}" for error in ERRORS.values()]
    for number, (domain, count) in enumerate(DOMAINS.items()):
        (row,) = rows_of(text, domain)
        assert row[1] == str(count)
        assert row[2:] == [f"{error + number % GROUPS + 2:.1f}" for error in ERRORS.values()]


def test_the_facts_are_those_of_the_runs(work: Work) -> None:
    facts = learning_page.render(work).splitlines()[0]
    parts = ("Commit 0123456789ab, torch 2.0", "7 real and 10 made-up", "77 steps; 5 to 7 min")
    for part in (*parts, "6 alarms in 6 runs", "4 crops per real volume and 2"):
        assert part in facts


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.real_ct
def test_the_command_measures_and_goes_on_where_it_was_stopped(
    real_ct: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip(PACKAGE)
    volumes = ct_learning_folder(real_ct)
    ids = write_patient_table(volumes, tmp_path / "ids.csv")
    words = [str(tmp_path / "work"), "--ct", str(volumes), "--ids", str(ids), "--crops", "4"]
    words += ["--phantoms", "10", "--set", "fit.total_steps=2", "--set", "fit.warmup_steps=1"]
    monkeypatch.setattr(sys, "argv", ["learning_page.py", *words])
    learning_page.main()
    text = capsys.readouterr().out
    assert "24 real and 10 made-up volumes. Recipe `small`, 2 steps" in text
    assert len(rows_of(text, "VoCo from scratch")) == 2 * (2 + 8 + 4)
    for run in (tmp_path / "work").glob("run-*"):
        seen = SeenPatients.read(run)
        assert seen is not None
        learnt_from = {patient for store in seen.stores for patient in store.contents}
        group = run.name.rpartition("-")[2]
        assert learnt_from.isdisjoint(read_split(tmp_path / "work" / f"split-{group}.json").test)
    (tmp_path / "work" / "probe-real-1.json").unlink()
    times = {run: (run / "run.json").stat().st_mtime_ns for run in tmp_path.glob("work/run-*")}
    assert len(times) == 2 * GROUPS
    learning_page.main()
    assert capsys.readouterr().out == text
    assert {run: (run / "run.json").stat().st_mtime_ns for run in times} == times
    monkeypatch.setattr(sys, "argv", ["learning_page.py", *words, "--set", "fit.lr=1"])
    with pytest.raises(SystemExit, match="was made with another recipe"):
        learning_page.main()


def test_a_backbone_without_controls_is_refused(tmp_path: Path) -> None:
    work = Work(tmp_path, "tiny", (), {"real": 4, "phantom": 2})
    with pytest.raises(SystemExit, match="expected a recipe with tf_efficientnet_lite0"):
        learning_page.check_can_measure(work)
