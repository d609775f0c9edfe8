"""What a checkpoint's pickle would do is read, not tried."""

import builtins
import collections
import fractions
import io
import os
import pickle
import subprocess
import zipfile
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import HARMLESS, pickled_checkpoint, refusal_of, zipped

from nnunet_bridge.core.errors import SecurityError
from nnunet_bridge.nnunet.checkpoints import check_checkpoint, fault_of_pickle

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_values_pass(value):
    assert fault_of_pickle(pickle.dumps(value, protocol=2)) == ""


@pytest.mark.parametrize(
    "value",
    [
        np.float32(0.5),
        np.float64(0.5),
        np.int64(3),
        np.dtype("float32"),
        collections.OrderedDict(a=1),
    ],
)
def test_what_nnunet_writes_beside_its_weights_passes(value):
    assert fault_of_pickle(pickle.dumps({"value": value}, protocol=2)) == ""


@pytest.mark.parametrize(
    "value",
    [
        *(os.system, os.remove, builtins.eval, builtins.getattr, subprocess.Popen),
        *(pickle.loads, np.load, np.array([object()]), fractions.Fraction(1, 2)),
        datetime(2026, 1, 1, tzinfo=UTC),
    ],
    ids=lambda value: getattr(value, "__qualname__", type(value).__name__),
)
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_S01_anything_else_is_named_whatever_the_protocol(value, protocol):
    assert fault_of_pickle(pickle.dumps([value], protocol=protocol)) != ""


@given(st.binary(max_size=300))
def test_S01_whatever_the_bytes_nothing_is_raised(content):
    assert isinstance(fault_of_pickle(content), str)


@given(data=st.data())
def test_S01_a_damaged_checkpoint_is_refused_or_still_harmless(data, tmp_path):
    content = bytearray(HARMLESS)
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    file = tmp_path / "checkpoint_final.pth"
    file.write_bytes(content)

    codes = (None, "S01", "S04", "S06", "S07", "S08")
    assert refusal_of(check_checkpoint, file) in codes


def test_a_harmless_checkpoint_passes(tmp_path):
    file = tmp_path / "checkpoint_final.pth"
    file.write_bytes(HARMLESS)

    assert refusal_of(check_checkpoint, file) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped([("archive/version", "3")], compression=0), "no checkpoint of torch"),
        (pickled_checkpoint({}, **{"archive/constants.pkl": b""}), "has no place"),
        (pickled_checkpoint({}, **{"archive/data/../x": b""}), "climbs out"),
    ],
)
def test_S01_S04_a_zip_of_other_things_is_refused(tmp_path, content, message):
    file = tmp_path / "checkpoint_final.pth"
    file.write_bytes(content)

    with pytest.raises(SecurityError, match=message):
        check_checkpoint(file)


def test_S07_a_pickle_of_absurd_size_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("nnunet_bridge.nnunet.checkpoints.MOST_PICKLE_BYTES", 10)
    file = tmp_path / "checkpoint_final.pth"
    file.write_bytes(HARMLESS)

    with pytest.raises(SecurityError) as caught:
        check_checkpoint(file)

    assert caught.value.code == "S07"


def test_the_pickle_is_found_by_its_whole_name(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/notdata.pkl", pickle.dumps({}, protocol=2))
    file = tmp_path / "checkpoint_final.pth"
    file.write_bytes(stream.getvalue())

    with pytest.raises(SecurityError):
        check_checkpoint(file)
