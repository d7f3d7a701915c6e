"""The documents agree with the code: reason codes, columns, links, and the paths that they name."""

from __future__ import annotations

import itertools
import re
from dataclasses import fields
from pathlib import Path

import pytest

from tests.support.architecture import ROOMS
from tests.support.project import PROJECT as ROOT
from voco_data.qc.ledger import LedgerRow
from voco_data.reasons import SKIPPED, Reason

PAGES = sorted(
    page for folder in (".", "docs", "docker", "voco_data") for page in (ROOT / folder).glob("*.md")
)
PATH_BASES = (ROOT, ROOT / "voco_data", ROOT / "voco_models")
"""Folders that a path in a document may be relative to."""
SOURCE_ENDINGS = (".css", ".html", ".js", ".md", ".py", ".sh", ".svg", ".toml", ".txt", ".yaml")
"""Endings of files of this repository. voco and its users write files with other endings."""
PACKAGES = [ROOT / name for name in ("voco_data", "voco_models", "flows", "tests")]
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def test_every_reason_is_in_the_ledgers_document_under_its_heading() -> None:
    text = (ROOT / "docs" / "ledger.md").read_text()
    skipped, refused = text.split("Refused, because")
    for reason in Reason:
        part = skipped if reason in SKIPPED else refused
        assert f"| `{reason.value}` |" in part, reason
    listed = set(
        re.findall(
            r"^\| `([a-z_]+)` \|", text.split("## Reasons")[1].split("## Flags")[0], re.MULTILINE
        )
    )
    assert listed == {reason.value for reason in Reason}


def test_every_column_of_the_ledger_is_described() -> None:
    text = (ROOT / "docs" / "ledger.md").read_text().split("## Reasons")[0]
    for field in fields(LedgerRow):
        assert f"`{field.name}`" in text, field.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            assert file.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in anchors_of(file.read_text()), target


def anchors_of(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_index_lists_every_document() -> None:
    index = ROOT / "docs" / "index.md"
    listed = {
        (index.parent / link).resolve() for link in re.findall(r"\]\((.+?)\)", index.read_text())
    }
    assert {*PAGES} - {index} - listed == set()


def paths_named_in(text: str) -> set[str]:
    """Paths of this repository in the back-quoted spans and fenced blocks of a page.

    A token counts if it ends in `/` or as a source file, and begins with a folder of the repository
    or of one of its packages. `body.py` without a folder counts too.
    """
    spans = FENCE.findall(text) + re.findall(r"`([^`]+)`", FENCE.sub("", text))
    tokens = {token.strip(",;:()") for span in spans for token in span.split()}
    return {token for token in tokens if is_repository_path(token)}


def is_repository_path(token: str) -> bool:
    if not re.fullmatch(r"\w[\w./-]*", token) or not token.endswith(("/", *SOURCE_ENDINGS)):
        return False
    first, slash, _ = token.partition("/")
    if not slash:
        return token.endswith(".py")
    return any((base / first).is_dir() for base in PATH_BASES)


def exists(path: str) -> bool:
    if "/" not in path:
        return any(next(package.rglob(path), None) for package in PACKAGES)
    return any((base / path).exists() for base in PATH_BASES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_named_in_the_documents_exist(page: Path) -> None:
    assert {path for path in paths_named_in(page.read_text()) if not exists(path)} == set()


def test_paths_are_recognised() -> None:
    text = """
`voco_data/store/` and `store/nothing.py`, in `gone.py`, not `runs/x.py`, `<root>/store/a.py`, `s3://b/`
```
pytest -m slow tests/gone/test_gone.py
```
"""
    named = paths_named_in(text)
    assert named == {"voco_data/store/", "store/nothing.py", "gone.py", "tests/gone/test_gone.py"}
    assert {path for path in named if exists(path)} == {"voco_data/store/"}


def check_tests_of(row: str) -> None:
    """The last cell of a row names tests: `file.py::test`, with the folder if it must be told."""
    cell = row.split("|")[-2].strip()
    assert re.fullmatch(r"`[^`]+\.py::\w+`(, `[^`]+\.py::\w+`)*", cell), row
    for file, test in re.findall(r"`([^`]+\.py)::(\w+)`", cell):
        found = list((ROOT / "tests").glob(file if "/" in file else f"**/{file}"))
        assert len(found) == 1, f"{file}: {found}"
        assert re.search(rf"^(async )?def {test}\(", found[0].read_text(), re.MULTILINE), row


def test_every_fault_of_a_server_has_a_test_that_exists() -> None:
    page = (ROOT / "docs" / "operations.md").read_text().split("## Faults")[1]
    rows = [line for line in page.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10
    for row in rows:
        assert row.count("|") == 5, row
        check_tests_of(row)


def test_every_loss_and_damage_has_a_test_that_exists() -> None:
    page = (ROOT / "docs" / "damage.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    for row in rows:
        assert row.count("|") == 4, row
        check_tests_of(row)


TROUBLE = (ROOT / "docs" / "real-world-data.md").read_text()
TROUBLE_ROWS = [line for line in TROUBLE.splitlines() if line.startswith("| ")]


def test_every_trouble_has_a_test_that_exists() -> None:
    rows = [row for row in TROUBLE_ROWS if row != "| trouble | what voco does | test |"]
    assert len(rows) > 100
    for row in rows:
        assert row.count("|") == 4, row
        check_tests_of(row)


def test_every_reason_and_flag_has_its_trouble() -> None:
    flags = (ROOT / "docs" / "ledger.md").read_text().split("## Flags")[1]
    names = {
        name for row in re.findall(r"^\| (`.+?) \|", flags, re.MULTILINE) for name in code(row)
    }
    assert len(names) > 10
    said = {name for row in TROUBLE_ROWS for name in code(row.split("|")[2])}
    assert {*names, *(reason.value for reason in Reason)} - said == set()


def code(text: str) -> list[str]:
    """The back-quoted spans of a text."""
    return re.findall(r"`([^`]+)`", text)


def test_contributing_lists_the_packages_in_their_order() -> None:
    drawing = FENCE.findall((ROOT / "CONTRIBUTING.md").read_text())[1]
    for floor, rooms in ROOMS.items():
        part = drawing.split(f"{floor}/ ")[1].split("\n\n")[0]
        lines = itertools.takewhile(lambda line: line.startswith("  "), part.split("\n")[1:])
        listed = [re.findall(r"\w+(?=\.py|/)", re.split(r" {2,}", line)[1]) for line in lines]
        assert list(itertools.chain.from_iterable(listed)) == list(rooms)
