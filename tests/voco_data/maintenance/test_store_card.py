"""The card of a store: Croissant by MLCommons' own library, true counts, and no id anywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlcroissant
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import zarr

from flows.command import main
from tests.support.object_server import use
from tests.support.s3_server import BUCKET, S3Server
from tests.support.small_stores import make_store, random_volumes
from voco_data.errors import InputError
from voco_data.labels.targets import ORGAN_TARGETS
from voco_data.maintenance.croissant import Publication
from voco_data.maintenance.store_card import write_store_card
from voco_data.store.reader import Store
from voco_data.store.record import Record

# mlcroissant 1.1.1 uses what rdflib 7 and pandas 3.1 call deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The inplace keyword"),
]

GRID = (2, 4, 4)
GIVEN = Publication(
    licence="CC-BY-4.0",
    name="Abdomens",
    url="https://example.org/abdomens",
    creator="A Hospital",
    citation="@misc{abdomens}",
    published="2026-01-31",
)
ODD = (
    "Müller^Ärgerlich",
    "\x1b[31mDoe^John",
    '"}],"x":"quoted-id',
    "../../home/someone/scans",
    "1.2.840.113619.2.55.3.604688119",
)
"""What a forged record may hold where it should have an id or a value of a closed list."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Five volumes of three patients, found in two ways, with 1 to 5 mm slices."""

    def change(record: Record) -> Record:
        thickness = record.row + 1.0
        return replace(
            record,
            patient_id=f"p{record.row % 3}",
            ids="pseudonym",
            layout="dicom",
            box_method="whole" if record.row else "given:someone",
            box_high_mm=(GRID[0] * thickness, 4.0, 8.0),
            input_digest=f"{9 - record.row:032x}",
        )

    return make_store(tmp_path / "stores", random_volumes(5, GRID), change=change)


def card(store: Store, **options: Any) -> dict[str, Any]:
    out = store.path.parent / "card.json"
    write_store_card(store.path, out, **options)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def leaves(value: Any) -> Iterator[str]:
    """Every key and text of a JSON value."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield str(value)


def test_a_card_is_croissant_and_its_library_reads_the_series(store: Store) -> None:
    card(store, publication=GIVEN)
    read = mlcroissant.Dataset(store.path.parent / "card.json")
    assert (read.metadata.ctx.issues.errors, read.metadata.ctx.issues.warnings) == (set(), set())
    assert read.metadata.conforms_to == ["http://mlcommons.org/croissant/1.1"]
    assert read.metadata.license == ["https://spdx.org/licenses/CC-BY-4.0"]
    assert read.metadata.url == "https://example.org/abdomens"
    # It checks the SHA-256 of the catalogue, and finds every column under the path in the card.
    records = list(read.records("series"))
    table = pq.read_table(store.path / "volumes/catalogue.parquet").to_pandas()
    assert [record["series/row"] for record in records] == table["row"].tolist()
    assert [record["series/patient_id"].decode() for record in records] == [
        "p0",
        "p1",
        "p2",
        "p0",
        "p1",
    ]
    assert {key.partition("/")[2] for key in records[0]} == set(table.columns)


def test_a_card_describes_the_zarr_array(store: Store) -> None:
    found = card(store)
    array = zarr.open_group(store.path, mode="r")["volumes"]
    assert isinstance(array, zarr.Array)
    (voxels,) = (
        field
        for records in found["recordSet"]
        for field in records["field"]
        if field["@id"] == "volumes/voxels"
    )
    assert voxels["arrayShape"] == ",".join(map(str, array.shape[1:]))
    assert voxels["dataType"] == {"uint8": "cr:UInt8"}[array.dtype.name]
    assert found["voco"]["shape"] == list(array.shape)
    assert found["voco"]["dtype"] == array.dtype.name
    # The spec is whole: its canonical text has the digest in the store's name.
    text = json.dumps(found["voco"]["spec"], sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == found["voco"]["spec_digest"]
    assert store.path.name == f"small-{found['voco']['spec_digest']}.zarr"


def test_a_card_counts_and_names_its_provenance(store: Store) -> None:
    about = card(store)["voco"]
    assert about["counts"] == {
        "series": 5,
        "patients": 3,
        "volume_bytes": 5 * 2 * 4 * 4,
        "layouts": {"dicom": 5},
        "ids": {"pseudonym": 5},
        "box_methods": {"given": 1, "whole": 4},
    }
    assert about["spacing_mm"] == {
        "minimum": [1.0, 1.0, 2.0],
        "median": [3.0, 1.0, 2.0],
        "maximum": [5.0, 1.0, 2.0],
    }
    digests = "\n".join(f"{number:032x}" for number in range(5, 10))
    assert about["provenance"]["inputs_sha256"] == hashlib.sha256(digests.encode()).hexdigest()
    assert "labels" not in about


def test_nothing_of_a_forged_record_gets_into_a_card(tmp_path: Path) -> None:
    def change(record: Record) -> Record:
        first, second, third, fourth, fifth = ODD
        return replace(
            record,
            patient_id=first,
            study_uid=second,
            series_uid=third + str(record.row),
            source=fourth,
            transfer_syntax=fifth,
            layout=first,
            ids=second,
            box_method=[first, f"given:{second}", "whole"][record.row],
            flags=(third, fourth),
            versions={fifth: first},
            input_digest=f"{second}{record.row}",
            stat_digest=fourth,
        )

    made = make_store(tmp_path / "secret-folder", random_volumes(3, GRID), change=change)
    found = card(made)
    words = ("Müller", "rgerlich", "Doe", "John", "\x1b", "quoted", "someone", "604688119")
    texts = list(leaves(found))
    for word in (*words, "secret-folder", str(tmp_path), *ODD):
        assert not [text for text in texts if word in text], word
    assert found["voco"]["counts"]["layouts"] == {"other": 3}
    assert found["voco"]["counts"]["ids"] == {"other": 3}
    assert found["voco"]["counts"]["box_methods"] == {"given": 1, "other": 1, "whole": 1}
    assert mlcroissant.Dataset(made.path.parent / "card.json").metadata.name == made.path.stem


def write_labels(path: Path, classes: dict[str, tuple[int, int, int]]) -> Path:
    """A label table: patient to the class of kidney, liver, spleen."""
    rows = []
    for patient, values in classes.items():
        row: dict[str, object] = {"patient_id": patient}
        for group, value in zip(ORGAN_TARGETS, values, strict=True):
            row |= {column: int(i == value) for i, column in enumerate(group.columns)}
        rows.append(row)
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def test_labels_are_counted_by_patient_when_asked(store: Store, tmp_path: Path) -> None:
    # p2 has no label, and another-1 is not in the store.
    table = {"p0": (0, 1, 2), "p1": (0, 0, 2), "another-1": (2, 2, 2)}
    labels = write_labels(tmp_path / "train.csv", table)
    found = card(store, labels=labels)
    assert found["voco"]["labels"] == {
        "patients": {
            "kidney": {"healthy": 2, "low": 0, "high": 0},
            "liver": {"healthy": 1, "low": 1, "high": 0},
            "spleen": {"healthy": 0, "low": 0, "high": 2},
        },
        "without_label": 1,
    }
    assert not [text for text in leaves(found) if "another" in text or text in table]


def test_what_was_not_given_is_said(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    out = store.path.parent / "card.json"
    assert main(["store", "card", str(store.path), "--out", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["series"], summary["patients"]) == (5, 3)
    assert summary["licence"] == json.loads(out.read_text())["license"] == "not given"
    assert summary["missing"] == ["creator", "datePublished", "license", "url"]
    assert mlcroissant.Dataset(out).metadata.license == ["not given"]


def test_all_options_of_the_command_are_in_the_card(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--licence", "https://example.org/terms", "--name", "N", "--url", "https://e.org/"]
    words += ["--creator", "C", "--cite", "K", "--published", "2026-01-31"]
    assert main(["store", "card", str(store.path), *words]) == 0
    found = json.loads((tmp_path / f"{store.path.stem}.croissant.json").read_text())
    assert found["license"] == "https://example.org/terms"
    assert (found["name"], found["url"], found["citeAs"]) == ("N", "https://e.org/", "K")
    assert found["creator"] == {"@type": "Organization", "name": "C"}
    assert found["datePublished"] == "2026-01-31"


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--licence", "do what you want", "SPDX"),
        ("--url", "example.org", "https://"),
        ("--published", "31.1.2026", "2026-01-31"),
        ("--creator", " ", "empty"),
    ],
)
def test_a_value_that_is_none_is_one_line(
    store: Store, option: str, value: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = store.path.parent / "card.json"
    assert main(["store", "card", str(store.path), "--out", str(out), option, value]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_a_licence_of_ones_own_keeps_its_name(store: Store) -> None:
    found = card(store, publication=Publication(licence="LicenseRef-hospital"))
    assert found["license"] == "LicenseRef-hospital"


def test_a_card_replaces_no_file(store: Store) -> None:
    card(store)
    with pytest.raises(InputError, match="exists already"):
        card(store)


def test_a_store_without_series_has_a_card(tmp_path: Path) -> None:
    made = make_store(tmp_path / "stores", np.zeros((0, *GRID), np.uint8))
    found = card(made)
    assert (found["voco"]["counts"]["series"], found["voco"]["spacing_mm"]) == (0, None)
    mlcroissant.Dataset(made.path.parent / "card.json")


def test_a_store_in_a_bucket_has_the_same_card(
    store: Store, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, s3_server.environment | {"VOCO_CACHE": str(tmp_path / "cache")})
    for path in store.path.rglob("*"):
        if path.is_file():
            key = f"cards/{path.relative_to(store.path.parent)}"
            s3_server.client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
    out = tmp_path / "remote.json"
    url = f"s3://{BUCKET}/cards/{store.path.name}"
    assert main(["store", "card", url, "--out", str(out), "--licence", "CC-BY-4.0"]) == 0
    there, here = json.loads(out.read_text()), card(store, publication=Publication("CC-BY-4.0"))
    for date in ("dateCreated", "dateModified"):  # of the copy in the bucket
        assert there.pop(date) >= here.pop(date)
    assert there == here
    assert BUCKET not in json.dumps(there)
