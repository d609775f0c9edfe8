"""What nnU-Net's processes read is judged when they read it (S02, S12)."""

import json
import os
import pickle
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from laws import examples
from malicious_models import NETWORK, Runs
from tiny_model import (
    DATASET_JSON,
    changed,
    run_of,
    tiny_plans,
    untrained_checkpoint,
    write_model,
)

from nnunet_bridge.core.errors import NnUNetError, SecurityError
from nnunet_bridge.nnunet.commands import (
    LAUNCH,
    PYTHON,
    PlanTask,
    plan_command,
    predict_command,
    train_command,
)
from nnunet_bridge.nnunet.host import ONE_THREAD, Host
from nnunet_bridge.nnunet.names import Workspace
from nnunet_bridge.nnunet.pickles import load_data

core = np._core
numbers = st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none()
voxels = arrays(np.int64, (2, 3))
values = st.recursive(
    numbers | st.text() | voxels | st.floats(allow_nan=False).map(np.float64),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def same(one, other):
    """Whether two contents agree, arrays and their types too."""
    if isinstance(one, np.ndarray | np.generic):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, list):
        pairs = zip(one, other, strict=True)
        return type(other) is list and all(same(*pair) for pair in pairs)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return type(one) is type(other) and one == other


@examples(50)
@given(content=values, protocol=st.sampled_from(range(2, pickle.HIGHEST_PROTOCOL + 1)))
def test_S12_a_pickle_of_values_and_arrays_is_read_as_it_was_written(
    tmp_path_factory, content, protocol
):
    file = tmp_path_factory.mktemp("pickles") / "case.pkl"
    file.write_bytes(pickle.dumps(content, protocol=protocol))

    assert same(content, load_data(file))


@pytest.mark.training
def test_S12_the_pickles_of_a_real_preprocessed_case_are_read(planned_lab):
    files = list((planned_lab / "work" / "nnUNet_preprocessed").rglob("*.pkl"))

    assert files
    for file in files:
        ours = pickle.loads(file.read_bytes())  # noqa: S301 - written by this test
        assert same(ours, load_data(file))


class Calls:
    """An object that is made by a call when it is unpickled, and then given a state."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments, state) if state else (function, arguments)

    def __reduce__(self):
        return self.call


CALLS = {
    "system": (os.system, "true"),
    "getattr": (getattr, "text", "upper"),
    "eval": (eval, "1"),
    "load": (np.load, "file.npy"),
    "import": (__import__, "this"),
}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_S12_a_pickle_that_calls_anything_else_is_refused(tmp_path, call, protocol):
    file = tmp_path / "case.pkl"
    content = {"shape": (1, 2), "spacing": [Calls(*call)]}
    file.write_bytes(pickle.dumps(content, protocol=protocol))

    with pytest.raises(SecurityError, match="it would call") as caught:
        load_data(file)

    assert caught.value.code == "S12"


EIGHT = b"A" * 8  # a place in memory that is not ours
MAKERS = {
    "scalar": lambda kind: Calls(core.multiarray.scalar, kind, EIGHT),
    "buffer": lambda kind: Calls(core.numeric._frombuffer, EIGHT, kind, (1,), "C"),
    "array": lambda kind: Calls(
        core.multiarray._reconstruct,
        *(np.ndarray, (0,), b"b"),
        state=(1, (1,), kind, False, EIGHT),
    ),
    "over a buffer": lambda kind: Calls(
        np.ndarray, (1,), kind, np.frombuffer(EIGHT, "u1")
    ),
}
fields = st.tuples(st.sampled_from([np.dtype("O"), np.dtype("i8")]), st.integers(0, 99))


@st.composite
def forged_kinds(draw):
    """Draw a type of NumPy with any state: objects, places outside, too many."""
    base = draw(st.sampled_from(["V8", "S8", "U2", "O8", "M8"]))
    named = draw(st.none() | fields.map(lambda field: {"a": field}))
    more = draw(st.none() | st.just((np.dtype("i8"), (2,))))
    names = tuple(named) if named else None
    state = (3, "|", more, names, named, draw(st.integers(-8, 64)), 1, 0)
    return Calls(np.dtype, base, False, True, state=state)


@examples(50)
@given(kind=forged_kinds(), made=st.sampled_from(list(MAKERS)))
def test_S12_no_pickle_makes_numpy_read_memory_that_is_not_its_own(
    tmp_path_factory, kind, made
):
    file = tmp_path_factory.mktemp("pickles") / "case.pkl"
    file.write_bytes(pickle.dumps({"spacing": MAKERS[made](kind)}))

    with pytest.raises(SecurityError, match="it holds values of the type"):
        load_data(file)


@pytest.mark.parametrize("kind", ["O", "V8", "U2", "S8", "M8[s]", [("a", "O")]])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_S12_only_numbers_are_read_as_arrays(tmp_path, kind, make):
    file = tmp_path / "case.pkl"
    file.write_bytes(pickle.dumps(make(np.dtype(kind))))

    with pytest.raises(SecurityError, match="it holds values of the type"):
        load_data(file)


@pytest.mark.parametrize("content", [b"", b"content", pickle.dumps([1, 2])[:-3]])
def test_S12_a_damaged_pickle_is_refused(tmp_path, content):
    (tmp_path / "case.pkl").write_bytes(content)

    with pytest.raises(SecurityError, match="it is damaged"):
        load_data(tmp_path / "case.pkl")


def test_S12_code_in_the_voxels_of_a_preprocessed_case_is_not_loaded(tmp_path):
    """Blosc2 can save a function with its arrays; nnU-Net opens such files so."""
    import blosc2

    def touches(_inputs, output, _offset):
        output[:] = os.getpid()

    numbers = blosc2.asarray(np.arange(8.0), urlpath=str(tmp_path / "a.b2nd"))
    lazy = blosc2.lazyudf(touches, (numbers,), np.float64, shape=(8,))
    lazy.save(urlpath=str(tmp_path / "case.b2nd"))

    with pytest.raises(ValueError, match="active serialized value"):
        blosc2.open(urlpath=str(tmp_path / "case.b2nd"), mode="r", mmap_mode="r")


# What nnU-Net's own processes do: each starts in five seconds.


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "work").mkdir()
    return Workspace.at(tmp_path / "work", environment={})


def ended(workspace, command):
    """Run a call of nnU-Net and return the message of its failure."""
    log_file = workspace.runs_dir / "log"
    process = Host().launch(workspace, command, ONE_THREAD, log_file)
    with pytest.raises(NnUNetError) as caught:
        Host().finish(process, "it")
    return str(caught.value)


def evil_plans(marker):
    """Return plans with which nnU-Net would write a file; the kind that S02 names."""
    plans = changed(tiny_plans(), *NETWORK, "nonlin", "subprocess.Popen")
    return changed(plans, *NETWORK, "nonlin_kwargs", {"args": ["touch", str(marker)]})


@pytest.mark.training
def test_S02_plans_that_change_after_the_check_do_not_run_in_a_prediction(
    workspace, tmp_path
):
    run, marker = run_of(workspace), tmp_path / "marker"
    write_model(run, untrained_checkpoint(run, tiny_plans()), plans=evil_plans(marker))
    (tmp_path / "images").mkdir()
    folders = tmp_path / "images", tmp_path / "out"
    progress = tmp_path / "progress"
    command = predict_command(
        {run.model_dir: [0]}, *folders, ONE_THREAD, progress_file=progress
    )

    message = ended(workspace, command)

    assert not marker.exists()
    assert "The model is refused: plans.json" in message


@pytest.mark.training
def test_S02_plans_that_change_after_the_check_do_not_run_in_a_training(
    workspace, tmp_path
):
    run, marker = run_of(workspace), tmp_path / "marker"
    folder = run.dataset.planned_dir
    folder.mkdir(parents=True)
    run.plans_file.write_text(json.dumps(evil_plans(marker)))
    (folder / "dataset.json").write_text(json.dumps(DATASET_JSON))

    message = ended(workspace, train_command(run, ONE_THREAD, resume=False))

    assert not marker.exists()
    assert "The model is refused: plans.json" in message


@pytest.mark.training
def test_S02_plans_that_change_after_the_check_remove_no_folder_in_planning(
    workspace, tmp_path
):
    dataset, precious = run_of(workspace).dataset, tmp_path / "precious"
    precious.mkdir()
    place = ("configurations", "2d", "data_identifier")
    plans = changed(tiny_plans(), *place, str(precious))
    file = dataset.plans_file("nnUNetPlans")
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({**plans, "plans_name": "nnUNetPlans"}))
    (dataset.raw_dir / "labelsTr").mkdir(parents=True)
    units = (("nnUNetPlans", "2d"),)
    task = PlanTask(dataset, fingerprint=False, planners=(), preprocess=units)

    message = ended(workspace, plan_command(task, ONE_THREAD))

    assert precious.is_dir()
    assert "The model is refused: plans.json" in message


def test_S12_a_worker_that_nnunet_spawns_reads_pickles_as_data_too(workspace, tmp_path):
    """The worker gets the main module of its parent, which is our `launch`."""
    pickled = tmp_path / "case.pkl"
    pickled.write_bytes(pickle.dumps(Runs(tmp_path / "marker")))
    program = (
        "import multiprocessing, runpy, sys\n"
        "from batchgenerators.utilities import file_and_folder_operations as f\n"
        "import nnunet_bridge.nnunet.launch as launch\n"
        "sys.modules['__main__'] = launch\n"
        f"with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        f"    pool.apply(f.load_pickle, ({str(pickled)!r},))\n"
    )
    assert LAUNCH == ("-m", "nnunet_bridge.nnunet.launch")

    message = ended(workspace, [*PYTHON, "-c", program])

    assert re.search(r"SecurityError: .*case\.pkl is refused", message)
    assert not (tmp_path / "marker").exists()
