"""PNG files without an imaging library, read back with Pillow."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from voco_models.prediction.png import data_uri, encode_png


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (256, 256)])
def test_pillow_reads_the_same_pixels(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with Image.open(io.BytesIO(encode_png(image))) as read:
        read.load()  # checks the sums
        assert (read.format, read.mode) == ("PNG", "L")
        np.testing.assert_array_equal(np.asarray(read), image)


def test_pillow_reads_the_same_colours() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    with Image.open(io.BytesIO(encode_png(image))) as read:
        read.load()
        assert read.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(read), image)


def test_a_view_with_strides_is_encoded_as_it_looks() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)[::-1, ::2]
    uri = data_uri(image)
    head, _, content = uri.partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as read:
        assert np.asarray(read).tolist() == [[8, 10], [4, 6], [0, 2]]
