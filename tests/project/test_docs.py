"""The documents say what is there: reason codes, commands, files they link to."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from tests.support.project import PROJECT as ROOT
from voco_data.qc.ledger import LedgerRow
from voco_data.reasons import SKIPPED, Reason

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")])


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
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
