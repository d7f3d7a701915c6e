"""docs/licences.md is current, and nothing that users install has the GPL, AGPL or LGPL."""

from __future__ import annotations

import platform
import re
import sys
import tomllib
from importlib import metadata

import pytest

from scripts import licences
from tests.support.project import PROJECT as ROOT

TABLE = licences.PAGE.read_text().partition("|---|---|---|")[2]
OF_CUDA = ("nvidia-", "cuda-", "triton")
ROWS = re.findall(r"^\| ([a-z0-9-]+) \| (.+) \| (.+) \|$", TABLE, re.MULTILINE)


def test_the_page_lists_what_is_installed() -> None:
    if sys.version_info[:2] != (3, 11) or (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("the page is of Python 3.11 on Linux x86-64")
    try:
        expected = licences.reasons()
    except metadata.PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    listed = {name: extras.split(", ") for name, _, extras in ROWS}
    if not any(name.startswith(OF_CUDA) for name in expected):  # PyTorch's wheels for CPUs
        listed = {name: extras for name, extras in listed.items() if not name.startswith(OF_CUDA)}
    assert listed == expected, "run python scripts/licences.py"


def test_no_distribution_of_users_is_under_the_gpl() -> None:
    assert len(ROWS) > 150
    for name, licence, _ in ROWS:
        assert licence.strip(), f"{name} states no licence"
        assert not licences.is_copyleft(licence) or name in licences.CHOSEN, name


def test_installed_distributions_are_not_under_the_gpl_either() -> None:
    """Also where another version has another licence than on the page."""
    for name, _, _ in ROWS:
        try:
            licence = licences.find_licence(name)
        except metadata.PackageNotFoundError:
            continue
        assert licence, f"{name} states no licence"
        assert not licences.is_copyleft(licence) or name in licences.CHOSEN, name


def test_every_extra_of_the_project_is_listed_or_named_as_not_for_users() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {*licences.EXTRAS, "bench", "dev"} == set(project["optional-dependencies"])


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("GPL-3.0-only", True),
        ("MIT AND LGPL-2.1-or-later", True),
        ("GNU Lesser General Public License v3 (LGPLv3)", True),
        ("GNU Affero General Public License v3", True),
        ("AGPLv3", True),
        ("Apache-2.0 WITH LLVM-exception", False),
        ("Mozilla Public License 2.0 (MPL 2.0)", False),
    ],
)
def test_copyleft_is_recognised(licence: str, expected: bool) -> None:
    assert licences.is_copyleft(licence) is expected


def test_requirements_are_followed_with_their_markers_and_extras(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requirements = {
        "obstore": ["b[fast]>=1", "c; python_version < '3'", "d; extra == 'all'"],
        "b": ["A_b.c; extra == 'fast'", "e; extra == 'slow'"],
    }
    monkeypatch.setattr(licences.metadata, "requires", lambda name: requirements.get(name))
    found = licences.installed_with("s3") - licences.installed_with(licences.DEFAULT)
    assert found == {"obstore", "b", "a-b-c"}
