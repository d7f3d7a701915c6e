"""Ten months of a lab that retrains every month: new scans, corrections, faults, a withdrawal.

After each month: the test set is frozen, no test patient was pretrained on by the champion's
backbone, the file of the champion is whole, the stores are sound, and nothing names a patient who
withdrew. A month that fails leaves the champion as it was, and the next month works.
"""

from __future__ import annotations

import hashlib
import json
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from flows.command import main
from flows.ids import patient_pseudonymiser
from flows.retrain import retrain
from tests.support.killed_retraining import KILLED_AT_STEP, retrain_and_die
from voco_data.errors import InputError, VocoError
from voco_data.phantom.cohort import CohortSpec, write_cohort
from voco_models import stages

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("prefect"), pytest.mark.timeout(1800)]

RECIPES: dict[str, Any] = {
    "pretrain_recipe": "tiny",
    "finetune_recipe": "tiny",
    "pretrain_changes": (
        "fit.total_steps=4", "fit.warmup_steps=1", "fit.log_every=1", "fit.checkpoint_every=2",
    ),
    "finetune_changes": ("epochs=1", "batch_size=4", "view.size_px=32", "log_every=1"),
}  # fmt: skip
ALWAYS = 9.0
"""A margin that promotes: these models learn too little to be compared."""
FULL_AT_BYTES = 50_000
"""The limit on the size of files stands for the disk: both refuse a write with an error."""
PINNED = ("pins.json", "rows.json", "split.json", "labels.csv")


@dataclass
class Lab:
    """An archive that patients come into, and what is made of it month by month."""

    folder: Path
    waiting: list[Path]
    """Scans of patients who have not come yet."""
    table: pd.DataFrame
    """Labels of all patients."""
    month: int = 0
    withdrawn: set[str] = field(default_factory=set)
    """Pseudonyms."""
    groups: dict[str, str] = field(default_factory=dict)
    """Patient to group of the split, as it was last month."""
    bytes_used: dict[int, int] = field(default_factory=dict)
    """Of stores and runs, by month."""

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def archive(self) -> Path:
        return self.folder / "archive"

    @property
    def due(self) -> datetime:
        return datetime(2026, self.month, 1, 3, tzinfo=UTC)

    @property
    def run_id(self) -> str:
        return f"{self.month:032x}"

    @property
    def run(self) -> Path:
        """The folder of this month's retraining."""
        return self.runs / f"retrain-{self.due:%Y%m%d-%H%M%S}-{self.run_id[-12:]}"

    def receive(self, count: int) -> None:
        """Patients come into the archive, with their labels."""
        self.archive.mkdir(exist_ok=True)
        for scan in self.waiting[:count]:
            shutil.move(scan, self.archive / scan.name)
        self.waiting = self.waiting[count:]
        self.label()

    def label(self) -> None:
        come = {path.name for path in self.archive.iterdir()}
        self.table[self.table["patient_id"].isin(come)].to_csv(
            self.folder / "train.csv", index=False
        )

    def correct(self, patient: str) -> None:
        """Another grade of the liver."""
        row = self.table["patient_id"] == patient
        columns = ["liver_healthy", "liver_low", "liver_high"]
        before = self.table.loc[row, columns].to_numpy()[0].tolist()
        self.table.loc[row, columns] = before[1:] + before[:1]
        self.label()

    def parameters(self, **options: Any) -> dict[str, Any]:
        places = {
            "source": self.archive, "root": self.folder / "stores",
            "labels": self.folder / "train.csv", "runs": self.runs,
        }  # fmt: skip
        return RECIPES | places | {"layout": "dicom", "workers": 1, "margin": ALWAYS} | options

    def retrain(self, **options: Any) -> dict[str, Any]:
        """The retraining of this month; a second call is the retry of the same flow run."""
        with pytest.MonkeyPatch.context() as patched:
            run = SimpleNamespace(scheduled_start_time=self.due, id=self.run_id)
            patched.setattr("flows.retraining_steps.flow_run", run)
            return retrain(**self.parameters(**options))

    def fail(self, error: type[Exception], message: str, **options: Any) -> None:
        """A retraining that fails, and leaves the champion as it was."""
        before = (self.runs / "champion.json").read_bytes()
        with pytest.raises(error, match=message):
            self.retrain(**options)
        assert (self.runs / "champion.json").read_bytes() == before

    def champion(self) -> dict[str, Any]:
        """champion.json, of which the digest is checked as its description says."""
        values: dict[str, Any] = json.loads((self.runs / "champion.json").read_text())
        digest = values.pop("sha256")
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        assert digest == hashlib.sha256(text.encode()).hexdigest()
        return values

    def champion_name(self) -> str:
        return str(self.champion()["champion"])

    def seen_by(self, run: str) -> set[str]:
        """Patients whom the backbone of a run has learnt from."""
        (folder,) = (each["backbone"] for each in self.champion()["runs"] if each["run"] == run)
        data = json.loads((self.runs / folder / "patients.json").read_text())
        return {patient for store in data["stores"] for patient in store["patients"]}


def read_groups(path: Path) -> dict[str, str]:
    """Patient to `test` or the number of a fold, from a split file."""
    groups = {}
    for addition in json.loads(path.read_text())["additions"]:
        parts = {"test": addition["test"]}
        parts |= {f"fold {i}": fold for i, fold in enumerate(addition["folds"])}
        for name, patients in parts.items():
            for patient in patients:
                assert patient not in groups
                groups[patient] = name
    return groups


def check(lab: Lab) -> None:
    """What holds at the end of each month."""
    groups = read_groups(lab.runs / "split.json")
    staying = {p: group for p, group in lab.groups.items() if p not in lab.withdrawn}
    assert staying.items() <= groups.items()
    assert not lab.withdrawn & groups.keys()
    test = {patient for patient, group in groups.items() if group == "test"}
    assert len(test) > 1

    champion = lab.champion_name()
    assert (lab.runs / champion / "finetune" / "predictions.parquet").is_file()
    seen = lab.seen_by(champion)
    assert seen
    assert not seen & (test | lab.withdrawn)
    labelled = pd.read_csv(lab.runs / champion / "labels.csv", dtype=str)["patient_id"]
    assert test & set(labelled)

    stores = sorted((lab.folder / "stores").glob("*.zarr"))
    assert len(stores) == 2
    for store in stores:
        assert main(["store", "verify", str(store)]) == 0
    files = [p for top in ("stores", "runs") for p in (lab.folder / top).rglob("*") if p.is_file()]
    for patient in lab.withdrawn:
        assert not [path for path in files if patient in str(path)]
        assert not [path for path in files if patient.encode() in path.read_bytes()]
    lab.groups = groups
    lab.bytes_used[lab.month] = sum(path.stat().st_size for path in files)


@contextmanager
def full_disk() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FULL_AT_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def lab(embedded: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    spec = CohortSpec(
        patients=26, unlabelled=0, matrix=64, slices=24, injury_prevalence=0.35, seed=0
    )
    made = write_cohort(spec, tmp_path / "cohort")
    table = pd.read_csv(made.labels, dtype={"patient_id": str})
    lab = Lab(tmp_path, sorted((made.ratic / "train_images").iterdir()), table)
    for module in ("champion_changes", "conclusion"):  # the clock of the simulated months
        monkeypatch.setattr(f"voco_models.tracking.{module}.now", lambda: f"{lab.due:%FT%TZ}")
    return lab


@pytest.fixture
def begin(lab: Lab) -> Callable[[], None]:
    """The next month begins; the one before is checked."""

    def next_month() -> None:
        if lab.month:
            check(lab)
        lab.month += 1

    return next_month


def test_ten_months(
    lab: Lab,
    begin: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    begin()  # January: the first champion
    lab.receive(14)
    january = lab.retrain()
    assert (january["promoted"], january["pretrained"], january["patients"]) == (True, True, 14)

    begin()  # February: new scans, and corrected labels; the backbone is kept
    lab.receive(3)
    pseudonym = patient_pseudonymiser(lab.folder / "stores" / "any")
    assert pseudonym is not None
    own = {pseudonym(path.name): path.name for path in lab.archive.iterdir()}
    for group in ("test", "fold 0"):
        lab.correct(own[next(p for p, found in lab.groups.items() if found == group)])
    february = lab.retrain(new_data_share=0.9)
    assert (february["promoted"], february["pretrained"], february["patients"]) == (True, False, 17)
    compared = json.loads((lab.run / "comparison" / "comparison.json").read_text())
    assert compared["corrected_labels"] == 1

    begin()  # March: the label table is broken
    lab.receive(1)
    (lab.folder / "train.csv").write_text("patient_id,liver_healthy\n1\n")
    lab.fail(InputError, "train.csv")
    assert not lab.run.exists()
    lab.label()

    begin()  # April: the process is killed while it trains, and the archive grows before the retry
    lab.receive(1)
    options = {"new_data_share": 0.0}
    given = {name: str(v) if isinstance(v, Path) else v for name, v in lab.parameters().items()}
    champion = lab.champion_name()
    retrain_and_die(lab.folder / "dead", lab.due, lab.run_id, given | options)
    assert lab.champion_name() == champion
    pins = {name: (lab.run / name).read_bytes() for name in PINNED}
    history = (lab.run / "pretrain" / "history.csv").read_text()
    assert len(history.splitlines()) == 1 + KILLED_AT_STEP
    lab.receive(2)
    lab.correct(own[next(p for p, found in lab.groups.items() if found == "fold 1")])
    april = lab.retrain(**options)
    assert (april["promoted"], april["pretrained"], april["patients"]) == (True, True, 19)
    assert {name: (lab.run / name).read_bytes() for name in PINNED} == pins
    # The lines before the death, with the seconds that they took, are those of the dead process.
    assert (lab.run / "pretrain" / "history.csv").read_text().startswith(history)

    begin()  # May: the archive is away
    lab.archive.rename(lab.folder / "away")
    lab.fail(InputError, re.escape(str(lab.archive)))
    assert not lab.run.exists()
    (lab.folder / "away").rename(lab.archive)

    begin()  # June: the disk is full when the classifier is trained
    lab.receive(1)
    train = stages.finetune

    def without_space(*args: Any, **named: Any) -> Any:
        with full_disk():
            return train(*args, **named)

    with monkeypatch.context() as patched:
        patched.setattr("voco_models.stages.finetune", without_space)
        lab.fail(VocoError, "cannot write", new_data_share=0.9)
    assert (lab.run / "pins.json").exists()
    assert not (lab.run / "finetune" / "predictions.parquet").exists()

    begin()  # July: it works again; later the model before it is taken back
    lab.receive(1)
    july = lab.retrain(new_data_share=0.9)
    assert (july["promoted"], july["pretrained"], july["patients"]) == (True, False, 23)
    words = ["--rollback", "--reason", "too many alarms in the night shift"]
    assert main(["champion", str(lab.runs), *words]) == 0
    assert lab.champion_name() == Path(april["run"]).name

    begin()  # August: nothing has changed
    before = {p: p.read_bytes() for p in lab.runs.rglob("*") if p.is_file()}
    august = lab.retrain(new_data_share=0.9)
    assert (august["retrained"], august["champion"]) == (False, Path(april["run"]).name)
    assert {p: p.read_bytes() for p in lab.runs.rglob("*") if p.is_file()} == before

    begin()  # September: a patient withdraws whom the champion has learnt from; it is replaced
    gone = min(lab.seen_by(lab.champion_name()) & own.keys())
    shutil.rmtree(lab.archive / own[gone])
    lab.label()
    places = ["--root", str(lab.folder / "stores"), "--runs", str(lab.runs)]
    receipt = str(lab.folder / "receipt.json")
    assert main(["forget", gone, *places, "--receipt", receipt, "--yes"]) == 0
    lab.withdrawn.add(gone)
    assert (lab.runs / lab.champion_name() / "finetune" / "tainted.json").exists()
    september = lab.retrain(new_data_share=0.9)
    assert (september["promoted"], september["champion_tainted"]) == (True, False)
    assert september["pretrained"]
    assert "withdrawn patient" in september["backbone"]

    begin()  # October: new scans, and a margin that this model does not meet
    lab.receive(3)
    october = lab.retrain(new_data_share=0.9, margin=0.0)
    assert (october["promoted"], october["champion"]) == (False, september["champion"])
    assert "may be worse by" in october["reason"]
    check(lab)

    page = lab.folder / "timeline.html"
    assert main(["champion", str(lab.runs), "--page", str(page)]) == 0
    text = page.read_text()
    happened = re.findall(r'class="what [a-z-]+">([^<]+)<', text)
    assert happened == [
        "promoted", "promoted", "promoted", "not finished", "promoted", "rolled back", "promoted",
        "kept",
    ]  # fmt: skip
    assert not lab.withdrawn & set(re.findall(r"[\w-]+", text))
    used = [lab.bytes_used[month] for month in range(1, 11)]
    record_property("bytes_of_stores_and_runs", used)
    print("bytes of stores and runs by month:", used)
    months = dict(zip(range(1, 11), used, strict=True))
    assert months[3] - months[2] < 2_000_000  # a month that failed early, and one without news
    assert months[8] - months[7] < 1_000_000
