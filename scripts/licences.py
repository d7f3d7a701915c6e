"""Write docs/licences.md, the licences of what users install: `python scripts/licences.py`.

It reads the metadata of the distributions in this environment, which must have all of EXTRAS, and
follows their requirements, beginning with those of pyproject.toml.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"
BEGIN, END = "<!-- made -->\n", "<!-- end -->\n"

DEFAULT = "default"
"""voco without an extra."""
EXTRAS = (
    "ingest", "s3", "train", "volumetric", "sr", "onnx", "explain", "oct", "tensorboard", "mlflow",
    "orchestrate",
)  # fmt: skip
"""What users install. `bench` and `dev` are for measurements and tests."""
NOT_STATED = {"cuda-toolkit": "not stated (NVIDIA; a name for its requirements, without a file)"}
"""Distributions whose metadata have no licence, and what is known of them."""
CHOSEN = {"text-unidecode": "Artistic License"}
"""Distributions that offer the GPL beside another licence, which is the one that voco uses."""
_COPYLEFT = re.compile(r"\b[AL]?GPL|(?:Affero|Lesser|Library)? ?General Public License")


def installed_with(extra: str) -> frozenset[str]:
    """Names of the distributions that voco with this extra installs.

    Raises importlib.metadata.PackageNotFoundError for one that this environment lacks.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    more = [] if extra == DEFAULT else project["optional-dependencies"][extra]
    todo = _needed(project["dependencies"] + more, ())
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) not in seen:
            seen.add((name, extras))
            todo |= _needed(metadata.requires(name) or [], extras)
    return frozenset(name for name, _ in seen)


def _needed(requirements: Iterable[str], extras: Iterable[str]) -> set[tuple[str, frozenset[str]]]:
    """The requirements that hold on this machine: their names and extras."""
    parsed = [Requirement(text) for text in requirements]
    return {
        (normalise(requirement.name), frozenset(requirement.extras))
        for requirement in parsed
        if _is_needed(requirement, extras)
    }


def _is_needed(requirement: Requirement, extras: Iterable[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def normalise(name: str) -> str:
    """The name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def find_licence(name: str) -> str:
    """The licence by the metadata: its SPDX expression, else classifiers, else the first line."""
    found = metadata.metadata(name)
    classifiers = [
        text.rpartition(" :: ")[2]
        for text in found.get_all("Classifier") or []
        if text.startswith("License ::") and not text.endswith("OSI Approved")
    ]
    (expression,) = found.get_all("License-Expression") or [""]
    (named,) = found.get_all("License") or [""]
    text = expression or "; ".join(classifiers) or named
    return text.strip().partition("\n")[0][:160] or NOT_STATED.get(name, "")


def is_copyleft(licence: str) -> bool:
    """Whether it names the GPL, AGPL or LGPL, also beside another licence."""
    return _COPYLEFT.search(licence) is not None


def reasons() -> dict[str, list[str]]:
    """Distributions by name, each with what installs it: `default`, or the extras."""
    found: dict[str, list[str]] = {}
    default = installed_with(DEFAULT)
    for name in default:
        found[name] = [DEFAULT]
    for extra in EXTRAS:
        for name in installed_with(extra) - default:
            found.setdefault(name, []).append(extra)
    return dict(sorted(found.items()))


def make_table() -> str:
    """The table of the page, in Markdown."""
    lines = ["| distribution | licence, as its metadata say | installed with |", "|---|---|---|"]
    for name, extras in reasons().items():
        licence = find_licence(name).replace("|", "or")
        if name in CHOSEN:
            licence += f" (used: {CHOSEN[name]})"
        lines.append(f"| {name} | {licence} | {', '.join(extras)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the table into the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{make_table()}\n{END}{after}")


if __name__ == "__main__":
    main()
