"""Text in the pixels is seen; bones, implants, padding and the couch are not taken for text."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageFont

from tests.support.ct_files import body
from voco_data.deidentification.burned_in import looks_like_text
from voco_data.phantom.plan import CohortSpec, plan_patient
from voco_data.phantom.render import acquire, render_scan


def scan() -> npt.NDArray[np.int16]:
    return body((40, 256, 256))


def write_text(hu: npt.NDArray[np.int16], text: str, size: int, value: int, at: slice) -> None:
    picture = Image.new("L", (hu.shape[2], hu.shape[1]))
    font = ImageFont.load_default(size)
    drawing = ImageDraw.Draw(picture)
    drawing.fontmode = "1"
    drawing.text((8, 8), text, 255, font)
    hu[at, np.asarray(picture) > 0] = value


@pytest.mark.parametrize("value", [3071, 1500])
@pytest.mark.parametrize("size", [11, 18, 30])
def test_a_name_on_every_slice_is_seen(size: int, value: int) -> None:
    hu = scan()
    write_text(hu, "DOE JANE 1970", size, value, slice(None))
    assert looks_like_text(hu)


def test_a_name_that_is_not_the_brightest_and_one_along_columns() -> None:
    hu = scan()
    write_text(hu, "DOE JANE 1970", 16, 1000, slice(None))
    hu[:, 100:110, 120:130] = np.random.default_rng(0).integers(1300, 1500, (40, 10, 10))
    assert looks_like_text(hu)
    assert looks_like_text(np.ascontiguousarray(hu.transpose(0, 2, 1)))
    black = scan()
    write_text(black[:, 100:, 60:], "DOE JANE 1970", 16, -1024, slice(None))
    assert looks_like_text(black)


def test_a_name_on_the_first_slice_alone_is_seen() -> None:
    hu = scan()
    write_text(hu, "ID 123456789", 14, 3071, slice(0, 1))
    assert looks_like_text(hu)


def test_scans_are_not_text() -> None:
    assert not looks_like_text(scan())
    saturated = np.minimum(scan(), 200).astype(np.int16)  # the bar is one value now
    assert not looks_like_text(saturated)
    screws = scan()
    for row in range(60, 200, 20):  # implants at the end of the scanner's range
        screws[:, row : row + 6, 100:130] = 3071
        screws[:, row : row + 6, 140:170] = 3071
    assert not looks_like_text(screws)
    assert not looks_like_text(np.full((9, 64, 64), -1024, np.int16))


def test_phantoms_are_not_text() -> None:
    spec = CohortSpec(patients=6, unlabelled=0, matrix=128, slices=40)
    for number in range(spec.patients):
        plan = plan_patient(spec, number)
        for series in plan.series:
            assert not looks_like_text(acquire(render_scan(plan.model, series.scan), series.scan))
