"""Names planted wherever a header holds text: none of them leaves the private folder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pydicom
import pytest
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.support.ct_files import body, write_slices
from voco_data.store.spec import StoreSpec

# The planted values break the rules of their fields, and pydicom says so as it writes them.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

TEXT = frozenset(
    {"AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR", "UT"}
)
READ = frozenset(
    {
        "BurnedInAnnotation",
        "FrameType",
        "ImageType",
        "LossyImageCompression",
        "Modality",
        "ModalityLUTType",
        "PhotometricInterpretation",
        "RescaleType",
        "SpecificCharacterSet",
    }
)
"""What decides how a file is read: planted one by one, below."""
SECRET = "SCRT"
SPEC = StoreSpec(profile="small", grid=(4, 16, 16))


def plant(dataset: Dataset) -> int:
    """Put a secret into every text attribute of the standard, nested ones and private ones too."""
    planted = 0
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        group = tag >> 16
        if vr in TEXT and keyword and keyword not in READ and group not in (0x0000, 0x0002):
            dataset.add_new(tag, vr, f"{SECRET}{planted}")
            planted += 1
    inner = Dataset()
    inner.PatientName = f"{SECRET}^Inner"
    dataset.RequestAttributesSequence = Sequence([inner])
    block = dataset.private_block(0x0011, f"{SECRET} CREATOR", create=True)
    block.add_new(0x01, "LO", f"{SECRET}private")
    block.add_new(0x02, "UN", SECRET.encode())
    return planted


def rewrite(paths: list[Path], change: object) -> None:
    for path in paths:
        dataset = pydicom.dcmread(path)
        change(dataset)  # type: ignore[operator]
        dataset.save_as(path)


def run(archive: Path, root: Path) -> tuple[dict[str, object], str]:
    """The command, as a user calls it: its summary, and everything that it printed."""
    specs = root.with_name("specs.json")
    specs.write_text(SPEC.canonical_json())
    words = ["preprocess", str(archive), "--root", str(root), "--spec-file", str(specs), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "flows.command", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr


def texts(root: Path) -> Iterator[tuple[Path, str]]:
    """Everything under a root but the private folder, tables decoded."""
    for path in root.rglob("*"):
        if path.is_file() and "private" not in path.relative_to(root).parts:
            yield path, str(path.relative_to(root)) + path.read_bytes().decode("latin-1")
            if path.suffix == ".parquet":
                yield path, pd.read_parquet(path).to_csv()


def assert_hidden(root: Path, printed: str) -> None:
    assert SECRET not in printed
    for path, text in texts(root):
        assert SECRET not in text, path


def test_no_name_of_any_text_tag_gets_out(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    paths = write_slices(archive / f"{SECRET}_folder", body())
    planted: list[int] = []
    rewrite(paths, lambda dataset: planted.append(plant(dataset)))
    assert planted[0] > 1000
    summary, printed = run(archive, tmp_path / "root")
    assert summary["stored"] == 1
    assert_hidden(tmp_path / "root", printed.replace(str(archive), ""))
    private = pd.read_parquet(tmp_path / "root" / "private" / "ids.parquet")
    assert private["original"].str.contains(SECRET).any()  # the owner finds the patient again


JUDGED_BY = (
    *sorted(READ - {"SpecificCharacterSet"}), "SOPClassUID", "TransferSyntaxUID", "PixelSpacing"
)  # fmt: skip


def spoil(path: Path, keyword: str, secret: str) -> None:
    """Type a name into one field of a file."""
    dataset = pydicom.dcmread(path)
    if keyword == "ModalityLUTType":
        item = Dataset()
        item.ModalityLUTType, item.LUTDescriptor = secret, [2, 0, 16]
        item.add_new(0x00283006, "OW", bytes(4))
        dataset.ModalityLUTSequence = Sequence([item])
    elif keyword == "PixelSpacing":
        dataset.PixelSpacing = [1, 1]
        dataset["PixelSpacing"]._value = f"{secret}\\1"
    elif keyword != "TransferSyntaxUID":
        setattr(dataset, keyword, secret)
    dataset.save_as(path)
    if keyword == "TransferSyntaxUID":
        uid, other = b"1.2.840.10008.1.2.1\0", f"1.2.{secret}.10008.1.2.1".encode()
        path.write_bytes(path.read_bytes().replace(uid, other[: len(uid)]))


def test_remarks_quote_no_file(tmp_path: Path) -> None:
    """A name typed into a field that we judge by: the ledger says what is wrong, not the value."""
    archive = tmp_path / "archive"
    for number, keyword in enumerate(JUDGED_BY):
        for path in write_slices(archive / keyword, body(seed=number)):
            spoil(path, keyword, f"{SECRET}{number:02d}")
    summary, printed = run(archive, tmp_path / "root")
    ledger = pd.read_parquet(str(summary["ledger"]))
    assert len(ledger) >= len(JUDGED_BY)  # none was overlooked
    assert_hidden(tmp_path / "root", printed)
