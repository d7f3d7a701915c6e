"""One patient in files of weights: ids in the provenance that a file has beside its tensors.

A checkpoint of torch is a zip archive with a pickle and the bytes of the tensors. The pickle is
disassembled here and never loaded, so no code of it runs and torch is not needed. A file of
safetensors begins with a header of JSON. Tensors are copied as they are: a network keeps what it
has learnt.
"""

from __future__ import annotations

import json
import pickletools
import shutil
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from voco_data.withdrawal.documents import prune
from voco_data.withdrawal.names import WITHDRAWN, PatientNames, is_distinct

CHECKPOINTS = (".pt", ".pth")
SAFETENSORS = ".safetensors"
CAPTURE = "nonfinite.pt"
"""A captured step of a training: it holds volumes of patients, and names their series."""
_PICKLE = "data.pkl"
_HEADER_LIMIT = 100 * 2**20
_HEADER_ALIGNMENT = 8


def count_names(path: Path, names: PatientNames) -> int:
    """Texts in the provenance of a file of weights that are the patient's; 0 if it is none."""
    if path.suffix == SAFETENSORS:
        header = _read_header(path)
        return 0 if header is None else _prune_header(header, names)[1]
    return sum(_is_id(text, names) for text in texts_of_checkpoint(path))


def captures_patient(path: Path, names: PatientNames) -> bool:
    """Whether a captured step has a volume of the patient."""
    return any(
        names.is_name(text.partition(" (row ")[0]) and "\n" not in text
        for text in texts_of_checkpoint(path)
    )


def write_without(path: Path, out: Path, names: PatientNames) -> None:
    """Write the file of weights at `path` to `out`, without the patient's ids; same tensors."""
    if path.suffix == SAFETENSORS:
        _write_safetensors(path, out, names)
    else:
        _write_checkpoint(path, out, names)


def texts_of_checkpoint(path: Path) -> Iterator[str]:
    """All texts in the pickle of a checkpoint; none if it is no archive."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.rpartition("/")[2] == _PICKLE:
                for _, text, _, _ in _texts(archive.read(name)):
                    yield text


def _is_id(text: str, names: PatientNames) -> bool:
    """Digits may be anything else in a checkpoint, but for an id of the patient of 3 or more."""
    is_patient = text.strip() in names.patients and len(text.strip()) > 2
    return (is_distinct(text) and names.is_name(text)) or is_patient


def _texts(pickle: bytes) -> Iterator[tuple[str, str, int, int]]:
    """Opcode, text, start and end of every text in a pickle."""
    found: tuple[str, str, int] | None = None
    for opcode, argument, position in pickletools.genops(pickle):
        assert position is not None
        if found is not None:
            yield (*found, position)
        is_text = isinstance(argument, str) and "UNICODE" in opcode.name
        found = (opcode.name, argument, position) if is_text else None  # type: ignore[assignment]


def _without_ids(pickle: bytes, names: PatientNames) -> bytes:
    text = WITHDRAWN.encode()
    parts, last = [], 0
    for _, found, start, end in _texts(pickle):
        if _is_id(found, names):
            parts += [pickle[last:start], b"X", struct.pack("<I", len(text)), text]
            last = end
    return b"".join([*parts, pickle[last:]])


def _write_checkpoint(path: Path, out: Path, names: PatientNames) -> None:
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            info = zipfile.ZipInfo(entry.filename)
            if entry.filename.rpartition("/")[2] == _PICKLE:
                new.writestr(info, _without_ids(old.read(entry), names))
                continue
            with old.open(entry) as source, new.open(info, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 2**20)


def _read_header(path: Path) -> dict[str, Any] | None:
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8 or (length := struct.unpack("<Q", start)[0]) > _HEADER_LIMIT:
            return None
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return None
    return header if isinstance(header, dict) else None


def _prune_header(header: dict[str, Any], names: PatientNames) -> tuple[dict[str, Any], int]:
    """The header with pruned metadata, whose values are texts, some of them JSON."""
    metadata, count = {}, 0
    for key, text in header.get("__metadata__", {}).items():
        try:
            value, found = prune(json.loads(text), names)
        except (ValueError, TypeError):
            value, found = None, 0
        metadata[key] = json.dumps(value) if found else text
        count += found
    return (header | {"__metadata__": metadata} if count else header), count


def _write_safetensors(path: Path, out: Path, names: PatientNames) -> None:
    header = _read_header(path)
    assert header is not None, "count_names has read it"
    text = json.dumps(_prune_header(header, names)[0], separators=(",", ":")).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    with path.open("rb") as old, out.open("wb") as new:
        old.seek(8 + struct.unpack("<Q", old.read(8))[0])
        new.write(struct.pack("<Q", len(text)) + text)
        shutil.copyfileobj(old, new, 2**20)
