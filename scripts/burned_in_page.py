"""Measure the detector of burned-in text, and write the figures into docs/burned-in-text.md.

    python scripts/burned_in_page.py --ct FOLDER [--ct FOLDER ...] [--texts 20] [--write]

Each FOLDER holds CT series without burned-in text. Their series and made-up ones are searched as
they are, for false alarms, and with random text drawn into them, for what is missed. The same seed
gives the same texts.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voco_data.cohort import SeriesEntry
from voco_data.deidentification import TextSearch, looks_like_text
from voco_data.deidentification.burned_in import SLICES_EXAMINED
from voco_data.dicom import read_series
from voco_data.errors import SeriesRefused
from voco_data.layouts import index_archive
from voco_data.nifti import read_nifti
from voco_data.phantom.domains import DOMAINS
from voco_data.phantom.plan import CohortSpec, plan_patient
from voco_data.phantom.render import acquire, render_scan
from voco_data.store import PRETRAIN

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.drawn_text import (  # noqa: E402  found by the line above
    FONTS,
    TextStyle,
    burn_in,
    draw_words,
    render,
)

PAGE = ROOT / "docs" / "burned-in-text.md"
BEGIN, END = "<!-- measured -->\n", "<!-- end -->\n"
SEARCHES: tuple[TextSearch, ...] = ("usual", "strict")
LEAST_SLICES = 8
"""With fewer, a series is no volume."""
SHORT_SLICES = 12
"""Slices of a short scan, cut out of a longer one."""
MATRICES = (256, 512, 768)
LETTERS, SIZES = (3, 4, 6, 9, 16), (8, 10, 12, 16, 20, 24)
VALUES_HU, OPACITIES = (3071, 1500, 600, 300), (1.0, 0.8)
LARGEST_TURN_DEG = 5.0
AIR_HU = -500
"""Text whose ground is below this on average stands in air."""
PROMISED_PX, PROMISED_HU = 10, 600
"""The size and the value that the promise of the page begins with."""
Hu = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Case:
    """A text that was drawn, and which searches have found it."""

    letters: int
    size: int
    value: int
    opacity: float
    edges: str
    turned: bool
    font: str
    case: str
    ground: str
    matrix: int
    everywhere: bool
    """Whether it is on all slices, or on the first alone."""
    found: dict[TextSearch, bool]

    @property
    def is_promised(self) -> bool:
        """Whether the page promises that it is found: on all slices, large and bright enough."""
        return self.everywhere and self.size >= PROMISED_PX and self.value >= PROMISED_HU


@dataclass(slots=True)
class Alarms:
    """Series, short scans and single slices without text, and alarms among them by search."""

    searched: int
    alarms: dict[TextSearch, int]


def main() -> None:
    """Measure, and print or write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ct", type=Path, action="append", default=[], metavar="FOLDER")
    parser.add_argument("--texts", type=int, default=20, help="texts drawn into each series (20)")
    parser.add_argument("--phantoms", type=int, default=15, help="made-up patients (15)")
    parser.add_argument("--write", action="store_true", help="write the page instead of printing")
    args = parser.parse_args()
    real = [hu for folder in args.ct for hu in read_folder(folder)]
    text = measure(real, list(make_phantoms(args.phantoms)), args.texts)
    if not args.write:
        print(text)
        return
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + text + END + after)


def read_folder(folder: Path) -> Iterator[Hu]:
    """HU of the series of a folder that are read as volumes."""
    with index_archive(folder) as cohort:
        for head in cohort.heads():
            entry = cohort.entry(head.number)
            try:
                yield _read(cohort.base, entry)
            except SeriesRefused as refusal:
                print(f"left out: {entry.source}: {refusal.reason.value}")


def _read(base: Path, entry: SeriesEntry) -> Hu:
    paths = [base / file for file in entry.files]
    if entry.kind == "dicom":
        return read_series(paths, gaps=PRETRAIN.gap_policy, min_slices=LEAST_SLICES).hu
    return read_nifti(paths[0], min_slices=LEAST_SLICES).hu


def make_phantoms(patients: int) -> Iterator[Hu]:
    """HU of made-up scans: of all domains, with couches, metal, wires and contrast in the bowel."""
    for number in range(patients):
        matrix = (128, 256, 512)[number % 3]
        spec = CohortSpec(patients=patients, matrix=matrix, slices=32, domains=tuple(DOMAINS))
        plan = plan_patient(spec, number)
        for series in plan.series:
            yield acquire(render_scan(plan.model, series.scan), series.scan)


def measure(real: Sequence[Hu], phantoms: Sequence[Hu], texts: int) -> str:
    """The tables of the page, as Markdown."""
    rng = np.random.default_rng(0)
    cases = [
        case
        for number, hu in enumerate((*real, *phantoms))
        for case in draw_cases(hu, MATRICES[number % len(MATRICES)], texts, rng)
    ]
    alarms = {
        "real series": count_alarms(real, lambda hu: [hu]),
        f"{SHORT_SLICES} slices in a row of real series": count_alarms(real, _short_scans),
        "single slices of real series": count_alarms(real, _slices),
        "made-up series": count_alarms(phantoms, lambda hu: [hu]),
    }
    return "\n".join([*_alarm_lines(alarms), "", *_recall_lines(cases), "", *_time_lines(), ""])


def count_alarms(series: Sequence[Hu], parts: Callable[[Hu], Sequence[Hu]]) -> Alarms:
    """Search parts of series that have no text."""
    searched = [part for hu in series for part in parts(hu)]
    return Alarms(
        len(searched),
        {search: sum(looks_like_text(part, search) for part in searched) for search in SEARCHES},
    )


def _short_scans(hu: Hu) -> list[Hu]:
    starts = range(0, len(hu) - SHORT_SLICES + 1, SHORT_SLICES // 2)
    return [hu[start : start + SHORT_SLICES] for start in starts]


def _slices(hu: Hu) -> list[Hu]:
    return [hu[index : index + 1] for index in range(len(hu))]


def draw_cases(hu: Hu, matrix: int, texts: int, rng: np.random.Generator) -> Iterator[Case]:
    """Draw texts, one after the other, into the slices of a series that a search examines."""
    picked = np.linspace(0, len(hu) - 1, min(len(hu), SLICES_EXAMINED)).round().astype(int)
    ground = np.stack([_enlarge(hu[index], matrix) for index in np.unique(picked)])
    for number in range(texts):
        letters = int(rng.choice(LETTERS))
        turned = bool(rng.integers(2))
        style = TextStyle(
            font=str(rng.choice(FONTS)),
            cap_px=int(rng.choice(SIZES)),
            edges=rng.choice(["hard", "grey", "smoothed"]).item(),
            turn_deg=float(rng.uniform(-1, 1)) * LARGEST_TURN_DEG if turned else 0.0,
            value_hu=int(rng.choice(VALUES_HU)),
            opacity=float(rng.choice(OPACITIES)),
            place=rng.choice(["corner", "edge", "anywhere"]).item(),
        )
        case = "upper" if rng.random() < 0.5 else "mixed"
        ink = render(draw_words(rng, letters, "upper" if case == "upper" else "mixed"), style)
        drawn, everywhere = ground.copy(), number % 2 == 0
        if not burn_in(drawn if everywhere else drawn[:1], ink, style, rng):
            continue
        changed = drawn[0] != ground[0]
        yield Case(
            letters=letters,
            size=style.cap_px,
            value=style.value_hu,
            opacity=style.opacity,
            edges=style.edges,
            turned=turned,
            font=style.font,
            case=case,
            ground="air" if ground[0][changed].mean() < AIR_HU else "body",
            matrix=matrix,
            everywhere=everywhere,
            found={search: looks_like_text(drawn, search) for search in SEARCHES},
        )


def _enlarge(plane: Hu, matrix: int) -> Hu:
    if plane.shape[0] >= matrix:
        return plane
    enlarged = ndimage.zoom(plane.astype(np.float32), matrix / plane.shape[0], order=1)
    return np.asarray(np.rint(enlarged), np.int16)


def _alarm_lines(rows: dict[str, Alarms]) -> Iterator[str]:
    yield "| without text | searched | alarms | `strict` |"
    yield "|---|---|---|---|"
    for name, counted in rows.items():
        usual, strict = (_percent(counted.alarms[search], counted.searched) for search in SEARCHES)
        yield f"| {name} | {counted.searched} | {usual} | {strict} |"


def _recall_lines(cases: Sequence[Case]) -> Iterator[str]:
    yield "| text | on all slices | found | `strict` | on the first slice | found | `strict` |"
    yield "|---|---|---|---|---|---|---|"
    promised = [case for case in cases if case.is_promised]
    yield (f"| **{PROMISED_PX} px or more, {PROMISED_HU} HU or more** | {_cells(promised)} | | | |")
    bright = [case for case in cases if case.value >= PROMISED_HU]
    for size in SIZES:
        yield _row(f"{size} px", [case for case in bright if case.size == size])
    large = [case for case in cases if case.size >= PROMISED_PX]
    for value in VALUES_HU:
        for place in ("air", "body"):
            alike = [case for case in large if case.value == value and case.ground == place]
            yield _row(f"{value} HU over {place}", alike)
    bright = [case for case in large if case.value >= PROMISED_HU]
    for letters in LETTERS:
        yield _row(f"{letters} letters", [case for case in bright if case.letters == letters])
    for edges in ("hard", "grey", "smoothed"):
        yield _row(f"{edges} edges", [case for case in bright if case.edges == edges])
    yield _row("turned by up to 5 degrees", [case for case in bright if case.turned])
    yield _row("four fifths opaque", [case for case in bright if case.opacity < 1])
    for kind in ("upper", "mixed"):
        yield _row(f"{kind} case", [case for case in bright if case.case == kind])
    for font in FONTS:
        yield _row(font, [case for case in bright if case.font == font])
    for matrix in MATRICES:
        yield _row(f"matrix {matrix}", [case for case in bright if case.matrix == matrix])


def _row(name: str, cases: Sequence[Case]) -> str:
    first = [case for case in cases if not case.everywhere]
    return f"| {name} | {_cells([case for case in cases if case.everywhere])} | {_cells(first)} |"


def _cells(cases: Sequence[Case]) -> str:
    found = [_percent(sum(case.found[search] for case in cases), len(cases)) for search in SEARCHES]
    return " | ".join([str(len(cases)), *found])


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def _time_lines() -> Iterator[str]:
    yield "| matrix | slices | ms | `strict` |"
    yield "|---|---|---|---|"
    for matrix in MATRICES[:2]:
        spec = CohortSpec(patients=1, matrix=matrix, slices=100)
        plan = plan_patient(spec, 0)
        hu = acquire(render_scan(plan.model, plan.series[0].scan), plan.series[0].scan)
        usual, strict = (f"{_milliseconds(hu, search):.0f}" for search in SEARCHES)
        yield f"| {matrix} | {len(hu)} | {usual} | {strict} |"


def _milliseconds(hu: Hu, search: TextSearch) -> float:
    seconds = []
    for _ in range(5):
        began = time.process_time()
        looks_like_text(hu, search)
        seconds.append(time.process_time() - began)
    return 1000 * min(seconds)


if __name__ == "__main__":
    main()
