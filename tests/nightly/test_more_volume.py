"""A hundred thousand stdlib records from eight threads at once, into each sink."""

from __future__ import annotations

import pytest
import test_volume


@pytest.fixture(autouse=True)
def _a_hundred_thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_volume, "EACH", 12_500)


class TestAHundredThousandRecords(test_volume.TestVolume):
    """100,000 records are 100,000 events, in order per thread."""
