"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of the real test data: ``$TUNESEARCH_TEST_DATA``, else ``shared`` beside the repository."""
    named = os.environ.get("TUNESEARCH_TEST_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared"
    if not (folder / "data" / "voc2012_subset").is_dir():
        pytest.skip("the real test data is not here: TUNESEARCH_TEST_DATA must name the folder that holds data/")
    return folder
