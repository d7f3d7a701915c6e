"""What the tests that kill runs share: an archive in two states, and a zygote that starts runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.chaos import Chaos
from tests.support.zygote import Zygote


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    zygote = Zygote()
    made = Chaos(tmp_path_factory.mktemp("kill"), zygote)
    made.prepare()
    yield made
    zygote.close()
