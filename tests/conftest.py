"""What all tests share."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "shared machine",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("shared machine")


@pytest.fixture(scope="session")
def test_data():
    """Real images, read in place and never copied into the repository."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("NNUNET_BRIDGE_TEST_DATA") or default)
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: set NNUNET_BRIDGE_TEST_DATA")
    return folder
