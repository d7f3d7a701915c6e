"""The history of a run that is resumed: damage is noticed, and mended from the checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.voco_models.training.test_engine import curve, run
from voco_data.errors import InputError
from voco_models.training import checkpoint
from voco_models.training.history import HISTORY, read_history

LOGGER = "voco_models.training.history"


def lines_of(out: Path) -> list[str]:
    return (out / HISTORY).read_text().splitlines(keepends=True)


def write(out: Path, lines: list[str]) -> None:
    (out / HISTORY).write_text("".join(lines))


def shorten(out: Path) -> None:
    write(out, lines_of(out)[:-1])


def cut_the_first(out: Path) -> None:
    write(out, [lines_of(out)[0], *lines_of(out)[2:]])


def edit(out: Path) -> None:
    head, first, *rest = lines_of(out)
    step, rate, _, *others = first.split(",")
    write(out, [head, ",".join((step, rate, "0.001", *others)), *rest])


def repeat(out: Path) -> None:
    write(out, [*lines_of(out), lines_of(out)[-1]])


def garble(out: Path) -> None:
    head, first, *rest = lines_of(out)
    write(out, [head, first.replace(".", "x"), *rest])


def add_values(out: Path) -> None:
    head, first, *rest = lines_of(out)
    write(out, [head, first.replace("\n", ",1,2\n"), *rest])


def rename_column(out: Path) -> None:
    head, *rest = lines_of(out)
    write(out, [head.replace("step", "steps"), *rest])


def make_binary(out: Path) -> None:
    (out / HISTORY).write_bytes(b"\xff\xfe\x00" * 50)


def empty(out: Path) -> None:
    write(out, [])


def remove(out: Path) -> None:
    (out / HISTORY).unlink()


DAMAGES = (
    shorten, cut_the_first, edit, repeat, garble, add_values, rename_column, make_binary, empty,
    remove,
)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("stop", [8, 20])
def test_a_damaged_history_is_restored_from_the_checkpoint(
    tmp_path: Path,
    damage: Callable[[Path], None],
    stop: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also of a run that is finished, and takes no step any more."""
    run(tmp_path / "whole")
    out = tmp_path / "run"
    run(out, max_steps=stop)
    before = lines_of(out)
    damage(out)
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        assert run(out, resume=True).finished
    (line,) = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert line.startswith(f"{out / HISTORY}: ")
    assert "restored" in line
    assert curve(out) == curve(tmp_path / "whole")
    assert lines_of(out)[: len(before)] == before  # also the times


@pytest.mark.parametrize("stop", [7, 8])
def test_a_torn_last_row_of_a_killed_run_resumes_without_a_word(
    tmp_path: Path, stop: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows after the checkpoint are made again anyway."""
    run(tmp_path / "whole")
    out = tmp_path / "run"
    run(out, max_steps=stop)
    with (out / HISTORY).open("a") as file:
        file.write("12,0.01,0.1")
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        run(out, resume=True)
    assert not caplog.records
    assert curve(out) == curve(tmp_path / "whole")


def without_rows(out: Path) -> None:
    """The checkpoint as older versions wrote it."""
    payload = checkpoint.load(out / checkpoint.CHECKPOINT)
    del payload["history"]
    checkpoint.save(out / checkpoint.CHECKPOINT, payload)


@pytest.mark.parametrize("damage", [cut_the_first, repeat, garble, rename_column, make_binary])
def test_an_older_checkpoint_has_nothing_to_restore_from(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    run(tmp_path, max_steps=12)
    without_rows(tmp_path)
    damage(tmp_path)
    before = (tmp_path / HISTORY).read_bytes()
    with pytest.raises(InputError) as caught:
        run(tmp_path, resume=True)
    assert str(caught.value).startswith(f"{tmp_path / HISTORY}: ")
    assert "\n" not in str(caught.value)
    assert (tmp_path / HISTORY).read_bytes() == before
    (tmp_path / HISTORY).unlink()  # as the line says
    assert run(tmp_path, resume=True).finished
    assert [row["step"] for row in read_history(tmp_path)] == [16, 20]


def test_an_older_checkpoint_goes_on_without_a_torn_last_row(tmp_path: Path) -> None:
    """A power failure tears it, since the table is not forced to disk."""
    run(tmp_path, max_steps=12)
    without_rows(tmp_path)
    text = (tmp_path / HISTORY).read_text()
    (tmp_path / HISTORY).write_text(text[:-6])
    assert run(tmp_path, resume=True).finished
    assert [row["step"] for row in read_history(tmp_path)] == [4, 8, 16, 20]
