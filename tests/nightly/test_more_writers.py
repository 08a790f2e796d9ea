"""Files and databases under many writers and kills; trouble with each product that is reached by HTTP."""

from __future__ import annotations

import pytest
import test_file
import test_http_presets
import test_sqlite
from test_file import reports  # noqa: F401
from test_http_presets import certificates, preset  # noqa: F401
from test_sqlite import path  # noqa: F401

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _many(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (test_file, test_sqlite):
        monkeypatch.setattr(module, "EACH", 12_500)
        monkeypatch.setattr(module, "SHARE", 5_000)
    monkeypatch.setattr(test_sqlite, "ROUNDS", 20)


class TestFiles(test_file.TestManyWriters):
    """Threads and processes."""


class TestDatabases(test_sqlite.TestDelivery):
    """Threads and processes."""


class TestKilledDatabases(test_sqlite.TestDeliveryIds):
    """Kills."""


class TestHttpPresets(test_http_presets.TestTrouble):
    @pytest.fixture(params=test_http_presets.PRESETS)
    def name(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)
