"""The names that `from nnunet_bridge import ...` promises."""

import inspect
import subprocess
import sys

import pytest

import nnunet_bridge


@pytest.mark.parametrize("name", sorted(nnunet_bridge._HOMES))
def test_every_public_name_is_there_and_documented(name):
    assert getattr(nnunet_bridge, name).__doc__


def test_what_is_promised_is_what_can_be_loaded():
    assert sorted(nnunet_bridge.__all__) == sorted(
        [*nnunet_bridge._HOMES, "__version__"]
    )


@pytest.mark.parametrize(
    "name", [n for n in sorted(nnunet_bridge._HOMES) if n[0].islower()]
)
def test_every_public_function_says_the_type_of_all_that_it_takes_and_gives(name):
    signature = inspect.signature(getattr(nnunet_bridge, name))

    assert signature.return_annotation is not inspect.Signature.empty
    assert all(
        parameter.annotation is not inspect.Parameter.empty
        for parameter in signature.parameters.values()
    )


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
