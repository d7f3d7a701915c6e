"""What is one scan: never a blend of two, never half of one, whatever value varies."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from tests.support.headers import indexed, write_header
from voco_data.layouts import stacks

STEP_MM = 5.0


def alternate(one: Any, other: Any) -> Callable[[int], Any]:
    return lambda k: other if k % 2 else one


def write_scan(
    folder: Path, count: int = 14, *, name: str = "", start: float = 0.0, **tags: Any
) -> None:
    """Contiguous slices, 5 mm thick and apart; a tag may be a function of the slice's number."""
    for k in range(count):
        values = {key: value(k) if callable(value) else value for key, value in tags.items()}
        position = [0, 0, round(start + STEP_MM * k, 3)]
        defaults = {"ImagePositionPatient": position, "SliceThickness": STEP_MM}
        defaults["PatientComments"] = f"{folder.name}{name}{k}" * 40  # instead of pixels
        write_header(folder / f"{name}{k:03d}", **(defaults | values))


def sizes(source: Path) -> list[int]:
    return sorted(len(entry.files) for entry in indexed(source)[0])


BETWEEN = [
    {"folder": ("a", "b")},
    {"AcquisitionTime": ("100000", "100500")},
    {"ContentTime": ("100000", "100500")},
    {"AcquisitionDateTime": ("20240101100000", "20240101100500")},
    {"TriggerTime": ("900", "1400")},
    {"StudyInstanceUID": ("1.1", "1.9")},
    {"PatientID": ("p", "q")},
    {"SeriesNumber": (3, 4)},
    {"ImageType": ("ORIGINAL", "DERIVED")},
    {"PixelSpacing": ([1, 1], [1.005, 1.005])},
]


@pytest.mark.parametrize("offset", [2.5, 1.3, 4.0])
@pytest.mark.parametrize("value", BETWEEN, ids=lambda value: next(iter(value)))
def test_slices_as_thick_as_the_distance_in_each_scan_are_never_blended(
    tmp_path: Path, value: dict[str, Any], offset: float
) -> None:
    ((key, values),) = value.items()
    for k, (one, start) in enumerate(zip(values, (0.0, offset), strict=True)):
        if key == "folder":
            write_scan(tmp_path / one, start=start)
        else:
            write_scan(tmp_path, name=str(k), start=start, **{key: one})
    assert sizes(tmp_path) == [14, 14]
    assert len({(e.patient_id, e.study_uid, e.series_uid) for e in indexed(tmp_path)[0]}) == 2


@pytest.mark.parametrize("uid", ["1.2", ""])
@pytest.mark.parametrize(
    "tags",
    [
        {"AcquisitionNumber": alternate(1, 2)},
        {"SeriesNumber": alternate(1, 2)},
        {"ImageType": alternate("ORIGINAL", "DERIVED")},
        {"TemporalPositionIdentifier": alternate(1, 2)},
        {"AcquisitionTime": alternate("100000", "100001")},
        {"PatientID": alternate("p", "q")},
        {"StudyInstanceUID": alternate("1.1", "1.2")},
        {"StudyInstanceUID": lambda k: f"1.1.{k}", "PixelSpacing": alternate([1, 1], [1.004, 1])},
        {"SeriesNumber": alternate(1, 2), "PatientID": alternate("p", "q")},
    ],
    ids=lambda tags: "+".join(tags),
)
def test_slices_as_thick_as_their_distance_are_never_halved(
    tmp_path: Path, tags: dict[str, Any], uid: str
) -> None:
    write_scan(tmp_path, 24, SeriesInstanceUID=uid, **tags)
    assert sizes(tmp_path) == [24]


@pytest.mark.parametrize("uid", ["1.2", ""])
def test_slices_that_alternate_over_two_folders_are_one_scan(tmp_path: Path, uid: str) -> None:
    write_scan(tmp_path / "a", 24, SeriesInstanceUID=uid)
    (tmp_path / "b").mkdir()
    for path in sorted((tmp_path / "a").iterdir())[1::2]:
        path.rename(tmp_path / "b" / path.name)
    (entry,), _ = indexed(tmp_path)
    assert (len(entry.files), entry.source) == (24, ".")
    assert entry.series_uid.startswith("a#" if uid == "" else "1.2")


PHASES = [
    {"TemporalPositionIdentifier": (1, 2)},
    {"NominalPercentageOfCardiacPhase": (40, 75)},
    {"SeriesNumber": (7, 8)},
    {"AcquisitionTime": ("100000", "100100")},
    {"AcquisitionDateTime": ("20240101100000", "20240101100100")},
    {"TriggerTime": ("900", "1400")},
]


@pytest.mark.parametrize("value", PHASES, ids=lambda value: next(iter(value)))
@pytest.mark.parametrize(
    "inside",
    [
        lambda phase: {},
        lambda phase: {"AcquisitionNumber": alternate(1, 2)},
        lambda phase: {"AcquisitionNumber": lambda k: 1 + k // 12},
        lambda phase: {"AcquisitionNumber": lambda k: 2 * phase + k // 12},
        lambda phase: {"AcquisitionNumber": lambda k: 2 * phase + k % 2},
        lambda phase: {"StudyInstanceUID": lambda k: f"1.9.{k}"},
        lambda phase: {"StudyInstanceUID": lambda k: f"1.9.{phase}.{k % 3}"},
        lambda phase: {"StudyInstanceUID": lambda k: f"1.9.{phase}.{k}"},
        lambda phase: {"PixelSpacing": alternate([1, 1], [1.004, 1.004])},
    ],
    ids=[
        "plain",
        "shuttle",
        "halves",
        "4 halves",
        "4 shuttles",
        "study",
        "6 studies",
        "studies",
        "rounding",
    ],
)
def test_phases_are_whole_whatever_varies_inside(
    tmp_path: Path, value: dict[str, Any], inside: Callable[[int], dict[str, Any]]
) -> None:
    ((key, values),) = value.items()
    for phase, one in enumerate(values):
        write_scan(tmp_path, 24, name=str(phase), **inside(phase), **{key: one})
    entries, _ = indexed(tmp_path)
    assert [len(entry.files) for entry in entries] == [24, 24]
    for entry in entries:  # each file is named after its phase
        assert len({Path(file).name[0] for file in entry.files}) == 1


def test_parts_that_acquisitions_number_are_joined_again(tmp_path: Path) -> None:
    for number, start in enumerate((0, 60, 0, 60), 1):
        write_scan(tmp_path, 12, name=str(number), start=start, AcquisitionNumber=number)
    entries, _ = indexed(tmp_path)
    names = sorted("".join(sorted({Path(f).name[0] for f in e.files})) for e in entries)
    assert names == ["12", "34"]


def test_three_patients_a_third_of_a_step_apart(tmp_path: Path) -> None:
    for k in range(3):
        write_scan(tmp_path / str(k), start=k * 5 / 3, PatientID=f"p{k}")
    found = [(e.patient_id, e.series_uid, len(e.files)) for e in indexed(tmp_path)[0]]
    assert found == [(f"p{k}", "1.2", 14) for k in range(3)]


def thirds(k: int) -> str:
    return "ORIGINAL" if k % 3 else "DERIVED"


IDENTITIES = [
    {"PatientID": ("p", "q", "r")},
    {"StudyInstanceUID": ("1.1", "1.4", "1.9")},
    {"PixelSpacing": ([1, 1], [1.004, 1.004], [1.008, 1.008])},
]


@pytest.mark.parametrize("uid", ["1.2", ""])
@pytest.mark.parametrize("thickness", [STEP_MM, 2 * STEP_MM])
@pytest.mark.parametrize("identity", IDENTITIES, ids=lambda value: next(iter(value)))
def test_an_image_type_of_every_third_slice_does_not_blend_three_scans(
    tmp_path: Path, identity: dict[str, Any], thickness: float, uid: str
) -> None:
    """By image type there are two parts, which are even or of three slices of each scan."""
    ((key, values),) = identity.items()
    tags = {"ImageType": thirds, "SliceThickness": thickness, "SeriesInstanceUID": uid}
    for k, value in enumerate(values):
        write_scan(tmp_path, 9, name=str(k), start=k * 5 / 3, **{key: value} | tags)
    assert first_letters(tmp_path) == ["0" * 9, "1" * 9, "2" * 9]


def test_a_study_for_each_slice_does_not_hide_three_patients(tmp_path: Path) -> None:
    for k in range(3):
        studies = [f"1.{k}.{number}" for number in range(9)]
        tags = {"PatientID": f"p{k}", "StudyInstanceUID": studies.__getitem__, "ImageType": thirds}
        write_scan(tmp_path, 9, name=str(k), start=k * 5 / 3, **tags)
    assert first_letters(tmp_path) == ["0" * 9, "1" * 9, "2" * 9]


def test_two_kernels_do_not_hide_three_patients(tmp_path: Path) -> None:
    for k in range(3):
        for kernel in ("soft", "bone"):
            tags = {"PatientID": f"p{k}", "ConvolutionKernel": kernel, "ImageType": thirds}
            write_scan(tmp_path, 9, name=f"{k}{kernel}", start=k * 5 / 3, **tags)
    assert first_letters(tmp_path) == [str(k) * 9 for k in (0, 0, 1, 1, 2, 2)]


@pytest.mark.parametrize("start", [5.0, 45.0, 200.0])
def test_a_slice_of_a_fourth_patient_does_not_hide_three(tmp_path: Path, start: float) -> None:
    for k in range(3):
        tags = {"PatientID": f"p{k}", "ImageType": thirds}
        write_scan(tmp_path, 9, name=str(k), start=k * 5 / 3, **tags)
    write_scan(tmp_path, 1, name="3", start=start, PatientID="p3", ImageType="DERIVED")
    assert first_letters(tmp_path) == ["0" * 9, "1" * 9, "2" * 9, "3"]


def test_alternating_studies_do_not_join_scans_that_follow_each_other(tmp_path: Path) -> None:
    for scan in range(2):
        tags = {"StudyInstanceUID": lambda k: f"1.{k % 4}", "InstanceNumber": lambda k: k + 1}
        start = 12 * scan * STEP_MM
        write_scan(tmp_path, 12, name=str(scan), start=start, SeriesNumber=scan, **tags)
    assert first_letters(tmp_path) == ["0" * 12, "1" * 12]


@pytest.mark.parametrize("n_odd_studies", [0, 1])
def test_an_alternating_image_type_does_not_halve_shifted_phases(
    tmp_path: Path, n_odd_studies: int
) -> None:
    """By image type the slices of both phases are even stacks, too."""
    for phase in range(2):
        tags = {
            "AcquisitionNumber": phase + 1,
            "ImageType": alternate("ORIGINAL", "DERIVED"),
            "StudyInstanceUID": lambda k: "1.9" if k < n_odd_studies else "1.1",
        }
        write_scan(tmp_path, 12, name=str(phase), start=phase * STEP_MM, **tags)
    assert first_letters(tmp_path) == ["0" * 12, "1" * 12]


def first_letters(source: Path) -> list[str]:
    """The first letters of the names of the files of each series."""
    entries, odd = indexed(source)
    assert not odd
    return sorted("".join(sorted(Path(file).name[0] for file in e.files)) for e in entries)


def test_phases_in_folders_that_share_all_ids(tmp_path: Path) -> None:
    for folder in "ab":
        for time in ("100000", "100100"):
            write_scan(tmp_path / folder, name=time, AcquisitionTime=time)
    entries, _ = indexed(tmp_path)
    assert [len(entry.files) for entry in entries] == [14] * 4
    assert len({entry.source for entry in entries}) == 4


def test_a_copy_of_one_scan_does_not_hide_the_other(tmp_path: Path) -> None:
    write_scan(tmp_path / "a")
    write_scan(tmp_path / "c")
    (tmp_path / "b").mkdir()
    for path in (tmp_path / "a").iterdir():
        (tmp_path / "b" / path.name).write_bytes(path.read_bytes())
    entries, _ = indexed(tmp_path)
    folders = [sorted({str(Path(file).parent) for file in entry.files}) for entry in entries]
    assert sorted(folders) == [["a", "b"], ["c"]]


def test_two_studies_of_two_phases_have_four_sources(tmp_path: Path) -> None:
    for study in ("1.1", "1.9"):
        for phase in (1, 2):
            write_scan(
                tmp_path,
                name=f"{study}{phase}",
                StudyInstanceUID=study,
                TemporalPositionIdentifier=phase,
            )
    entries, _ = indexed(tmp_path)
    assert [len(entry.files) for entry in entries] == [14] * 4
    assert len({entry.source for entry in entries}) == 4
    assert len({(entry.study_uid, entry.series_uid) for entry in entries}) == 4


def test_a_family_too_large_to_compare_is_split_by_patient_and_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks, "MAX_SLICES", 30)
    for patient in "pqr":
        for folder in "ab":
            write_scan(tmp_path / (patient + folder), PatientID=patient, start=1.3 * ord(folder))
    write_scan(tmp_path / "q2", PatientID="q", StudyInstanceUID="1.9")
    found = [(e.patient_id, len(e.files)) for e in indexed(tmp_path)[0]]
    assert found == [(p, 14) for p in "ppqqqrr"]


Value = tuple[str, tuple[Any, ...]]

TELLING: list[Value] = [
    ("folder", ("a", "b", "c")),
    ("PatientID", ("p", "q", "r")),
    ("StudyInstanceUID", ("1.1", "1.2", "1.3")),
    ("AcquisitionNumber", (1, 2, 3)),
    ("ConvolutionKernel", ("B30f", "B40f", "B70f")),
    ("SeriesNumber", (9, 10, 11)),
    ("NominalPercentageOfCardiacPhase", (5, 45, 75)),
    ("AcquisitionTime", ("235959", "240000", "240001")),
    ("TriggerTime", ("90", "500", "1000")),
]
VARYING: list[tuple[str, Callable[[int], Any]]] = [
    ("EchoNumbers", lambda k: 1 + k % 2),
    ("ImageType", lambda k: "ORIGINAL" if k % 3 else "DERIVED"),
    ("TemporalPositionIdentifier", lambda k: 1 + k // 5),
    ("ContentTime", lambda k: f"10{k:02d}00"),
    ("InstanceNumber", lambda k: 40 - k),
]


FEW = settings(max_examples=25, deadline=None)
MANY = settings(max_examples=500, deadline=None)
SCANS: dict[str, st.SearchStrategy[Any]] = {
    "count": st.integers(1, 3),
    "length": st.integers(9, 16),
    "offset": st.sampled_from([0.0, 1.3, 5 / 3]),
    "telling": st.lists(st.sampled_from(TELLING), min_size=1, max_size=2, unique_by=lambda v: v[0]),
    "varying": st.lists(st.sampled_from(VARYING), max_size=3, unique_by=lambda v: v[0]),
}


@FEW
@given(**SCANS)
def test_scans_are_told_apart_by_any_value_whatever_else_varies(**scans: Any) -> None:
    check_scans_are_told_apart(**scans)


@pytest.mark.slow
@MANY
@given(**SCANS)
def test_many_scans_are_told_apart(**scans: Any) -> None:
    check_scans_are_told_apart(**scans)


def check_scans_are_told_apart(
    count: int,
    length: int,
    offset: float,
    telling: Sequence[Value],
    varying: Sequence[tuple[str, Callable[[int], Any]]],
) -> None:
    """Write scans that share a series UID; check that the index gives one series for each."""
    with tempfile.TemporaryDirectory() as name:
        for scan in range(count):
            tags: dict[str, Any] = {key: values[scan] for key, values in telling} | dict(varying)
            folder = Path(name, tags.pop("folder", "all"))
            write_scan(folder, length, name=str(scan), start=scan * offset, **tags)
        entries, odd = indexed(Path(name))
        assert not odd
        found = defaultdict(set)
        for number, entry in enumerate(entries):
            for file in entry.files:
                found[number].add(Path(file).name[0])
    assert sorted(found.values(), key=sorted) == [{str(scan)} for scan in range(count)]
    assert len({(e.patient_id, e.study_uid, e.series_uid) for e in entries}) == count
    assert len({e.source for e in entries}) == count


DIVIDED: dict[str, st.SearchStrategy[Any]] = {
    "count": st.integers(2, 4),
    "length": st.integers(8, 16),
    "offset": st.sampled_from([0.7, 1.1, 1.25, 5 / 3, 2.5]),
    "identity": st.sampled_from([TELLING[1], TELLING[2]]),
    "varying": st.dictionaries(
        st.sampled_from(["ImageType", "TemporalPositionIdentifier", "SeriesNumber"]),
        st.tuples(st.booleans(), st.integers(1, 6)),
        min_size=1,
    ),
}


@FEW
@given(**DIVIDED)
def test_patients_and_studies_are_told_apart_however_a_value_divides_their_slices(
    **scans: Any,
) -> None:
    check_divided_scans(**scans)


@pytest.mark.slow
@MANY
@given(**DIVIDED)
def test_many_patients_and_studies_are_told_apart(**scans: Any) -> None:
    check_divided_scans(**scans)


def check_divided_scans(
    count: int,
    length: int,
    offset: float,
    identity: Value,
    varying: dict[str, tuple[bool, int]],
) -> None:
    """A value comes again every few slices, or counts blocks of them; the scans interleave."""
    name, values = identity
    check_scans_are_told_apart(
        count,
        length,
        offset,
        [(name, (*values, f"{values[-1]}4"))],
        [
            (key, blocks(size) if in_blocks else cycle(size))
            for key, (in_blocks, size) in varying.items()
        ],
    )


def cycle(size: int) -> Callable[[int], str]:
    return lambda k: str(k % size)


def blocks(size: int) -> Callable[[int], str]:
    return lambda k: str(k // size)
