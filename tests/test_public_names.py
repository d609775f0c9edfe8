"""The names that `from nnunet_bridge import ...` promises."""

import subprocess
import sys

import pytest

import nnunet_bridge


@pytest.mark.parametrize("name", sorted(nnunet_bridge._HOMES))
def test_every_public_name_is_there_and_documented(name):
    assert getattr(nnunet_bridge, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'segment_everything'"):
        _ = nnunet_bridge.segment_everything


def test_importing_the_package_loads_nothing_else():
    program = (
        "import sys; before = set(sys.modules); import nnunet_bridge;"
        "print([m for m in set(sys.modules) - before if 'numpy' in m or 'torch' in m])"
    )

    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert result.stdout.strip() == "[]"
