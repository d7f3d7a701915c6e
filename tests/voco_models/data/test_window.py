"""From stored voxels to the input of a network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from voco_data.errors import InputError
from voco_data.store.spec import FINETUNE
from voco_models.data.window import InputWindow, centre, input_window, normalise, uncentre

WHOLE = input_window(None, FINETUNE)


def test_the_input_window_shows_the_hu_that_were_asked_for() -> None:
    window = input_window((0.0, 200.0), FINETUNE)  # the store keeps -150 to 250 HU
    stored = torch.tensor([0, 95, 96, 159, 223, 255], dtype=torch.uint8)
    hu = stored.double().numpy() / 255 * 400 - 150
    np.testing.assert_allclose(window.to_unit(stored), np.clip(hu / 200, 0, 1), atol=1e-6)


def test_without_a_window_all_of_the_stores_is_used() -> None:
    stored = torch.tensor([0, 51, 255], dtype=torch.uint8)
    np.testing.assert_allclose(input_window(None, FINETUNE).to_unit(stored), [0, 0.2, 1], rtol=1e-6)


@pytest.mark.parametrize("window", [(-200.0, 100.0), (0.0, 300.0), (100.0, 100.0)])
def test_a_window_that_the_store_lacks_is_refused(window: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="the store keeps -150 to 250 HU"):
        input_window(window, FINETUNE)


def test_an_impossible_window_is_refused() -> None:
    with pytest.raises(InputError, match="expected low < high, got 9, 9"):
        InputWindow(9, 9)


def test_normalise_maps_the_window_to_minus_one_and_one() -> None:
    stored = torch.tensor([0, 51, 255], dtype=torch.uint8)
    torch.testing.assert_close(normalise(stored, WHOLE), torch.tensor([-1.0, -0.6, 1.0]))
    assert stored.tolist() == [0, 51, 255]


def test_one_pass_and_two_steps_give_the_same_input() -> None:
    stored = torch.arange(256).to(torch.uint8)
    torch.testing.assert_close(normalise(stored, WHOLE), centre(WHOLE.to_unit(stored)))
    torch.testing.assert_close(uncentre(normalise(stored, WHOLE)) * 255, stored.float())
