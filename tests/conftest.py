"""What all tests share: the folder of reference vectors and real photos, where there is one."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared():
    """Path of the reference material; tests that ask for it are skipped where it is missing."""
    if not SHARED.is_dir():
        pytest.skip("the folder ../shared (reference vectors, real photos) is not on this machine")
    return SHARED
