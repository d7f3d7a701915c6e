"""Measure small files that expand, and write the figures into docs/real-world-data.md.

    python scripts/bombs_page.py

`tests/support/bombs.py` makes the files. Each mask is read beside its series in a process of its
own. The archive of all of them, and one without them, go through `voco preprocess`.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support import bombs  # noqa: E402  found by the line above
from tests.support.ct_files import body, write_slices  # noqa: E402
from voco_data.cohort import MaskFile, MaskKind  # noqa: E402
from voco_data.masks import read_masks  # noqa: E402
from voco_data.volumes import Geometry  # noqa: E402

PAGE = ROOT / "docs" / "real-world-data.md"
BEGIN, END = "<!-- bombs -->\n", "<!-- end -->\n"
SERIES = Geometry(
    bombs.SHAPE, (5.0, 2.0, 2.0), (-60.0, -60.0, -100.0), ((0, 0, 1), (0, 1, 0), (1, 0, 0))
)
SERIES_UID = "1.2.3.4"
KINDS: dict[str, MaskKind] = {".nrrd": "nrrd", ".gz": "nifti", ".dcm": "dicom_seg"}
TITLES = {
    "expands_seg.nrrd": "NRRD, gzip, goes on for 13.6 GB",
    "claims_seg.nrrd": "NRRD, gzip, header of 13 GB",
    "bzip2_seg.nrrd": "NRRD, bzip2, goes on for 67 MB",
    "claims_mask.nii.gz": "NIfTI, header of 4.3 GB",
    "goes_on_mask.nii.gz": "NIfTI, goes on for 4.3 GB",
    "late_mask.nii.gz": "NIfTI, first voxel at byte 4.2e9",
    "extension_mask.nii.gz": "NIfTI, header extension of 2.1 GB",
    "plane_mask.nii.gz": "NIfTI, one plane of 1.1 GB",
    "frames.dcm": "SEG, 5,000,000 frames in the header",
    "groups.dcm": "SEG, functional groups of 1,000,000 frames",
    "deflated.dcm": "SEG, deflated, 419 MB",
    "hole.dcm": "SEG, a hole of 4.3 GB in the file",
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process took."""

    seconds: float
    megabytes: float
    """Peak of its memory, or the growth of the peak."""


def main() -> None:
    """Measure and write."""
    if len(sys.argv) == 2:
        print(*read_mask(Path(sys.argv[1])))
        return
    with tempfile.TemporaryDirectory() as folder:
        page = PAGE.read_text()
        before, _, rest = page.partition(BEGIN)
        after = rest.partition(END)[2]
        PAGE.write_text(f"{before}{BEGIN}{make_tables(Path(folder))}{END}{after}")


def make_tables(folder: Path) -> str:
    """Both tables of the page, as a block of text."""
    plain, full = folder / "plain", folder / "full"
    write_slices(plain / "good", body(), tags={"SeriesInstanceUID": SERIES_UID})
    write_slices(full / "good", body(), tags={"SeriesInstanceUID": SERIES_UID})
    lines = [f"{'mask':<44}{'file, kB':>12}{'s':>6}{'MB':>6}"]
    for name, title in TITLES.items():
        path = full / "good" / name
        run_apart(write_bomb, path)
        cost = measure_mask(path)
        size = path.stat().st_size / 1000
        lines.append(f"{title:<44}{size:>12,.1f}{cost.seconds:>6.2f}{cost.megabytes:>6.1f}")
    lines += ["", f"{'archive':<56}{'s':>6}{'MB':>6}"]
    measure_archive(plain, folder / "root-0")  # so that both find compiled kernels and warm files
    for title, archive in (("one series", plain), (f"with {len(TITLES)} masks of above", full)):
        cost = measure_archive(archive, folder / f"root-{archive.name}")
        lines.append(f"{title:<56}{cost.seconds:>6.1f}{cost.megabytes:>6.0f}")
    only = folder / "only"
    run_apart(write_deflated, only)
    cost = measure_archive(only, folder / "root-only")
    title = "18 deflated masks alone"
    lines.append(f"{title:<56}{cost.seconds:>6.1f}{cost.megabytes:>6.0f}")
    return "\n```\n" + "\n".join(lines) + "\n```\n\n"


def run_apart(write: Callable[[Path], None], path: Path) -> None:
    """Write in another process: the peak of this one counts for those that it starts."""
    process = multiprocessing.get_context("fork").Process(target=write, args=(path,))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{path} was not written")


def write_deflated(folder: Path) -> None:
    """Masks whose deflated pixels have 419 MB each."""
    folder.mkdir()
    for number in range(18):
        bombs.seg_that_inflates(folder / f"{number:02d}.dcm", SERIES_UID)


def write_bomb(path: Path) -> None:
    """The bomb of this name."""
    if path.name in bombs.MASKS:
        bombs.MASKS[path.name](path)
    else:
        bombs.SEGMENTATIONS[path.name](path, SERIES_UID)


def measure_mask(path: Path) -> Cost:
    """Read a mask beside its series in a process of its own."""
    ran = subprocess.run(
        [sys.executable, __file__, str(path)], capture_output=True, text=True, check=True
    )
    seconds, megabytes = ran.stdout.split()
    return Cost(float(seconds), float(megabytes))


def read_mask(path: Path) -> tuple[float, float]:
    """Seconds, and the growth of this process's peak memory in MB."""
    small = path.parent / f"small.{os.getpid()}.dcm"
    bombs.seg_of_one_frame(small, SERIES_UID)  # what the first mask of a process loads
    _read(small, "dicom_seg")
    small.unlink()
    before, began = _peak_mb(), time.perf_counter()
    _read(path, KINDS[path.suffix])
    return time.perf_counter() - began, _peak_mb() - before


def _read(path: Path, kind: MaskKind) -> None:
    read_masks(path.parent, [MaskFile(path.name, kind, "unknown")], SERIES)


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1000


def measure_archive(archive: Path, root: Path) -> Cost:
    """Preprocess an archive with one worker; the memory is that of the largest process."""
    command = [sys.executable, "-m", "flows.command", "preprocess", str(archive), "--root"]
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, str(root), "--workers", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"voco preprocess of {archive} ended with {process.returncode}")
    return Cost(time.perf_counter() - began, usage.ru_maxrss / 1000)


if __name__ == "__main__":
    main()
