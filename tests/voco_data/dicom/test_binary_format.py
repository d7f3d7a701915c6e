"""Constants of the binary form of DICOM, against the tables of pydicom."""

from __future__ import annotations

from pydicom.datadict import keyword_for_tag
from pydicom.uid import UID
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

from voco_data.dicom.binary_format import LENGTH_FIELD_BYTES, RLE_LOSSLESS, UNCOMPRESSED
from voco_data.dicom.series.element_scan import DECLINED_ELEMENTS, READ_ELEMENTS


def test_every_value_representation_has_its_length_field() -> None:
    expected = {vr.encode(): 4 if vr in EXPLICIT_VR_LENGTH_32 else 2 for vr in STANDARD_VR}
    assert expected == LENGTH_FIELD_BYTES


def test_transfer_syntaxes_are_named_by_their_kind() -> None:
    assert UID(RLE_LOSSLESS).name == "RLE Lossless"
    assert all(not UID(syntax).is_compressed for syntax in UNCOMPRESSED)


def test_scanned_elements_ascend_and_have_their_keywords() -> None:
    for elements in (READ_ELEMENTS, DECLINED_ELEMENTS):
        assert list(elements) == sorted(elements)
        assert elements == {tag: keyword_for_tag(tag) for tag in elements}
