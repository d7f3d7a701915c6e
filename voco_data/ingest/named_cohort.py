"""A cohort under the ids that may be written: the archive's own, or pseudonyms."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import xxhash

from voco_data.cohort import Cohort, OddFile, SeriesHead, SeriesOrigin
from voco_data.cropping import GivenBox, read_boxes
from voco_data.deidentification import Pseudonymiser, TextSearch, pseudonyms
from voco_data.errors import InputError
from voco_data.ingest.options import IngestOptions
from voco_data.ingest.patient_table import read_patients, set_patients
from voco_data.layouts import index_archive
from voco_data.store import SeriesIdentity, series_key

_STACK = re.compile(r"#[0-9a-f]{8}$")

NO_BOXES: Mapping[str, GivenBox] = MappingProxyType({})


@contextmanager
def open_cohort(
    source: str | Path, options: IngestOptions
) -> Iterator[tuple[Cohort, Mapping[str, GivenBox]]]:
    """Index the archive at `source`; yields its cohort, and the user's boxes by series id.

    The patient ids are those of the user's table, if one is given. Raises InputError for a table of
    boxes or patients that cannot be read, for boxes that name no series of the archive, for a row
    of patients that does not fit it, and as `index_archive` does.
    """
    patients = None if options.ids is None else read_patients(Path(options.ids))
    boxes = NO_BOXES if options.boxes is None else read_boxes(Path(options.boxes))
    with index_archive(
        Path(source),
        layout=options.layout,
        include=options.include,
        exclude=options.exclude,
        progress=options.progress,
    ) as cohort:
        if patients is not None and options.ids is not None:
            set_patients(cohort, patients, Path(options.ids))
        # Pseudonyms are looked for when the key of the root is known.
        if not any(map(pseudonyms.may_be_series_pseudonym, boxes)):
            NamedCohort(cohort, None, boxes).check_boxes()
        yield cohort, boxes


@dataclass(frozen=True, slots=True)
class NamedSeries:
    """A series under the ids that may be written."""

    head: SeriesHead
    given_box: GivenBox | None
    """A box from a table that the user gives."""
    ids: str
    """`kept` or `pseudonym`."""
    patient_id: str
    study_uid: str
    series_uid: str
    source: str
    burned_in: TextSearch = "usual"
    """How text in its pixels is searched."""

    @property
    def identity(self) -> SeriesIdentity:
        """Patient, study and series id."""
        return SeriesIdentity(self.patient_id, self.study_uid, self.series_uid)

    @property
    def stat_digest(self) -> str:
        """Digest that changes with files, masks, given box and search for text of the series."""
        others = [] if self.given_box is None else [self.given_box.digest]
        if self.burned_in != "usual":  # else as in stores that are older than this choice
            others.append(self.burned_in)
        if not others:
            return self.head.stat_digest
        return xxhash.xxh3_128_hexdigest(" ".join([self.head.stat_digest, *others]).encode())

    @property
    def key(self) -> str:
        """Key that stands for the series in every run."""
        return series_key(self.identity)


class NamedCohort:
    """A cohort under the ids that may be written."""

    def __init__(
        self,
        cohort: Cohort,
        pseudonymiser: Pseudonymiser | None,
        boxes: Mapping[str, GivenBox] = NO_BOXES,
        burned_in: TextSearch = "usual",
    ) -> None:
        """Without a pseudonymiser the archive's own ids are kept.

        `boxes` are those of the user's table, by the archive's own series id, or by the pseudonym,
        as in tables that were made from a store.
        """
        self.cohort = cohort
        self._pseudonymiser = pseudonymiser
        self._boxes = boxes
        self._burned_in: TextSearch = burned_in

    def __iter__(self) -> Iterator[NamedSeries]:
        """Iterate over all series in the cohort's order."""
        return map(self._name_series, self.cohort.heads())

    def __getitem__(self, number: int) -> NamedSeries:
        """Return the series of this number in the index."""
        return self._name_series(self.cohort.head(number))

    def check_boxes(self) -> None:
        """Raise InputError if there are boxes, and none is of a series of the archive."""
        if self._boxes and not any(map(self._find_box, self.cohort.heads())):
            raise InputError(
                f"boxes: none of the table's {len(self._boxes)} series is in the archive; expected "
                "the archive's own series ids, or the pseudonyms in stores of this root"
            )

    def _find_box(self, head: SeriesHead) -> GivenBox | None:
        own = self._boxes.get(head.series_uid)
        if own is not None or self._pseudonymiser is None or not self._boxes:
            return own
        return self._boxes.get(self._pseudonymiser.code("series", head.series_uid))

    def uid_keys(self, series: NamedSeries, origin: SeriesOrigin) -> tuple[str, ...]:
        """Keys of the series UID without stack, within its patient and each study of its slices.

        For NIfTI the key of the path alone, because its patient depends on files beside it. All
        stacks of one UID have such a key in common, before and after it was split in another way.
        """
        code = self._pseudonymiser.code if self._pseudonymiser is not None else _as_it_is
        uid = code("series", origin.series_uid)
        if series.head.kind == "nifti":
            return (series_key(SeriesIdentity("", "", uid)),)
        return tuple(
            series_key(SeriesIdentity(series.patient_id, code("study", study), uid))
            for study in origin.study_uids
        )

    def odd_files(self) -> Iterator[tuple[str, OddFile]]:
        """Iterate over files that belong to no series, with the source that may be written."""
        for file in self.cohort.odd_files():
            pseudonym = self._pseudonymiser
            yield (file.path if pseudonym is None else pseudonym("source", file.path)), file

    def _name_series(self, head: SeriesHead) -> NamedSeries:
        given_box = self._find_box(head)
        pseudonym = self._pseudonymiser
        if pseudonym is None:
            return NamedSeries(
                head=head,
                given_box=given_box,
                ids="kept",
                patient_id=head.patient_id,
                study_uid=head.study_uid,
                series_uid=head.series_uid,
                source=head.source,
                burned_in=self._burned_in,
            )
        return NamedSeries(
            head=head,
            given_box=given_box,
            ids="pseudonym",
            patient_id=pseudonym("patient", head.patient_id),
            study_uid=pseudonym("study", head.study_uid) if head.study_uid else "",
            series_uid=pseudonym("series", head.series_uid),
            source=pseudonym("source", head.source),
            burned_in=self._burned_in,
        )


def without_stack(source: str) -> str:
    """The path in a source: without `#` and the 8 hex digits of one of several series there."""
    return _STACK.sub("", source)


def _as_it_is(_kind: str, original: str) -> str:
    """The id itself, as a pseudonymiser would give its pseudonym."""
    return original
