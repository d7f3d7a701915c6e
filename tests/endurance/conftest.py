"""What the tests that kill runs share: an archive in two states, with their undisturbed stores."""

from __future__ import annotations

import pytest

from tests.support.chaos import Chaos
from tests.support.zygote import Zygote


@pytest.fixture(scope="session")
def chaos(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Chaos:
    made = Chaos(tmp_path_factory.mktemp("kill"), zygote)
    made.prepare()
    return made
