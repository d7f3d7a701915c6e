"""The names of one patient, and where a text is one of them.

An id is a literal text and counts only as a whole: `p-1` is not in `p-10`. An id of digits only,
such as `12`, may also be a number. So it counts only where an id is expected: in columns and keys
of ids, in lists of patients, and on pages after the word `Patient`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from voco_data.erasure import IdMatcher

WITHDRAWN = "(withdrawn)"
"""Stands where an id was that cannot be left out."""

PATIENT_COLUMNS = frozenset(
    ("patient", "patient_id", "patientid", "subject", "subject_id", "case", "case_id", "pid")
)
OTHER_COLUMNS = frozenset(
    ("series_id", "series_uid", "seriesinstanceuid", "study_id", "study_uid", "studyinstanceuid")
)
SOURCE_COLUMNS = frozenset(("source", "path", "file", "filename", "fname"))
_DICOM_IDS = (b"\x10\x00\x20\x00LO", b"\x20\x00\x0d\x00UI")
_WORD = re.compile(rb"[A-Za-z0-9_-]")
_DATA_URI = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]*")


@dataclass(frozen=True)
class PatientNames:
    """All names of a patient. Series, studies and sources are those of no other patient."""

    patients: frozenset[str]
    """The archive's own ids, and the pseudonyms of every root."""
    series: frozenset[str] = frozenset()
    studies: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()
    _matcher: IdMatcher | None = field(init=False, repr=False, compare=False)
    _paths: IdMatcher = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        distinct = [name for name in self.everything if is_distinct(name)]
        object.__setattr__(self, "_matcher", IdMatcher(distinct) if distinct else None)
        object.__setattr__(self, "_paths", IdMatcher(self.patients))

    @property
    def everything(self) -> frozenset[str]:
        """Ids of the patient, of its series and of its studies."""
        return self.patients | self.series | self.studies

    def is_name(self, text: str) -> bool:
        """Whether the whole text is a name of the patient."""
        return text.strip() in self.everything

    def is_in(self, text: str) -> bool:
        """Whether a name that cannot be a number is a word of the text."""
        return self._matcher is not None and self._matcher.matches_text(text)

    def is_in_bytes(self, data: bytes) -> bool:
        """As `is_in`, of the bytes of a file: a hundred times as fast as a pattern in long ones."""
        return any(
            _is_word(data, start, len(word))
            for word in (
                n.encode(errors="surrogateescape") for n in filter(is_distinct, self.everything)
            )
            for start in _places(data, word)
        )

    def is_in_path(self, path: str) -> bool:
        """Whether a part of a path, up to a dot in its name, is an id of the patient."""
        return self._paths.matches_path(path)

    def is_in_dicom(self, data: bytes) -> bool:
        """Whether PatientID or StudyInstanceUID of a DICOM file is a name of the patient.

        The file is of explicit VR, little endian (PS3.5 A.2), as voco writes structured reports.
        """
        return any(
            self.is_name(data[i + 8 : i + 8 + length].decode("latin-1").strip("\0 "))
            for tag in _DICOM_IDS
            if (i := data.find(tag)) >= 0
            for length in (int.from_bytes(data[i + 6 : i + 8], "little"),)
        )

    def is_on_page(self, page: str) -> bool:
        """Whether an HTML page shows a name of the patient. Pictures in the page are not read."""
        text = html.unescape(_DATA_URI.sub("", page))
        if self.is_in(text):
            return True
        numbers = "|".join(map(re.escape, sorted(filter(_is_number, self.everything))))
        shown = rf"(?:[Pp]atient |patients/|[Ss]eries )(?:{numbers})(?![\w-])"
        return bool(numbers) and re.search(shown, text) is not None

    def mask(self, text: str) -> str:
        """The text without the patient's names, for a receipt."""
        for name in sorted(self.everything, key=len, reverse=True):
            text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", WITHDRAWN, text)
        return text


def is_distinct(name: str) -> bool:
    """Whether an id cannot be taken for a number."""
    return bool(name) and not _is_number(name)


def _is_number(name: str) -> bool:
    return name.isdigit()


def _places(data: bytes, word: bytes) -> Iterator[int]:
    start = data.find(word)
    while start >= 0:
        yield start
        start = data.find(word, start + 1)


def _is_word(data: bytes, start: int, length: int) -> bool:
    """Whether no letter, digit, `_` or `-` is beside the bytes. All others end a word."""
    before, after = (
        data[start - 1 : start] if start else b"",
        data[start + length : start + length + 1],
    )
    return _WORD.search(before) is None and _WORD.search(after) is None


@dataclass(frozen=True, slots=True)
class RowRule:
    """Which rows of a table are the patient's, by the names of its columns."""

    names: PatientNames
    columns: tuple[str, ...]

    @property
    def columns_of_ids(self) -> Iterator[int]:
        """Positions of the columns that say of whom a row is."""
        expected = PATIENT_COLUMNS | OTHER_COLUMNS | SOURCE_COLUMNS
        return (i for i, column in enumerate(self.columns) if _plain(column) in expected)

    def is_of_patient(self, cells: Sequence[object]) -> bool:
        """Whether a row is the patient's. A row that says the patient tells by that cell alone."""
        texts = ["" if cell is None else str(cell).strip() for cell in cells]
        said = [
            text
            for column, text in zip(self.columns, texts, strict=False)
            if text and _plain(column) in PATIENT_COLUMNS
        ]
        if said:
            return any(text in self.names.patients for text in said)
        return any(map(self._names_patient, self.columns, texts))

    def _names_patient(self, column: str, text: str) -> bool:
        if not text:
            return False
        if _plain(column) in SOURCE_COLUMNS:
            return text in self.names.sources or self.names.is_in_path(text)
        if _plain(column) in OTHER_COLUMNS:
            return self.names.is_name(text)
        return is_distinct(text) and self.names.is_name(text)


def is_key_of_ids(key: str) -> bool:
    """Whether a key of JSON says of whom an object is."""
    return _plain(key) in PATIENT_COLUMNS | OTHER_COLUMNS


def _plain(column: str) -> str:
    return column.strip().lower().replace(" ", "_")
