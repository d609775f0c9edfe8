"""A model as one file and back, and every way that was thought of to abuse one."""

import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from malicious_models import MALICIOUS, MODEL, NETWORK, PLANS, Runs, model_with
from tiny_model import (
    DATASET,
    DATASET_JSON,
    HARMLESS,
    NOWHERE,
    changed,
    pickled_checkpoint,
    run_of,
    tiny_plans,
    untrained_checkpoint,
    untrained_network,
    write_model,
    zipped,
)

from nnunet_bridge.cli import main
from nnunet_bridge.core.cleaning import CleaningRule
from nnunet_bridge.core.errors import (
    BridgeError,
    EnvironmentFault,
    InputError,
    NnUNetError,
    SecurityError,
)
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.formats.files import only_writer, sha256_of
from nnunet_bridge.formats.folders import work_folder
from nnunet_bridge.formats.nifti import read_labelmap, write_labelmap, write_volume
from nnunet_bridge.nnunet.commands import nnunet_environment, trainers_dir
from nnunet_bridge.nnunet.host import ONE_THREAD, Host
from nnunet_bridge.nnunet.methods import method_of_run
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.nnunet.runs import known_runs
from nnunet_bridge.pipeline.models import pack
from nnunet_bridge.pipeline.models.choose import ModelRequest, choose_model
from nnunet_bridge.pipeline.models.pack import pack_model, unpack_model
from nnunet_bridge.pipeline.models.tune import tune_cleaning
from nnunet_bridge.pipeline.prediction.options import PredictionOptions
from nnunet_bridge.pipeline.prediction.predict import predict_images
from nnunet_bridge.pipeline.training.record import require_own_folders

PLANTED = [
    *("DOE^JANE", "19540312", "workstation-7", "/home/jdoe/secret-study"),
    *("jdoe@hospital.example", "msk_patient_0042"),
]
"""What must not leave the house."""


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "work").mkdir()
    return Workspace.at(tmp_path / "work", environment={})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workspace of finished models: real networks that never trained, and names of
    people, machines and places wherever nnU-Net could have left some."""
    root = tmp_path_factory.mktemp("trained")
    found = Workspace.at(root, environment={})
    for run in (
        *(run_of(found, 0), run_of(found, 1), run_of(found, 0, "quick")),
        run_of(found, "all", "full", "3d_fullres"),
    ):
        plans = tiny_plans(method_of_run(run).budget.name)
        fold_dir = write_model(
            run,
            real_checkpoint(run, plans),
            plans=plans,
            dataset={**DATASET_JSON, "description": PLANTED[0], "name": PLANTED[1]},
        )
        plant(fold_dir)
    raw = Dataset(found, DATASET).raw_dir
    raw.mkdir(parents=True)
    (raw / "dataset.json").write_text(json.dumps({**DATASET_JSON, "name": PLANTED[1]}))
    for n, height in enumerate((8, 9, 10)):
        write_labelmap(raw / "labelsTr" / f"{PLANTED[5]}_{n}.nii.gz", leg(height))
    return found


def leg(height):
    """Return labels of a tibia and a femur, in the middle of their field of view."""
    voxels = np.zeros((12, 12, 14), np.uint8)
    voxels[2:5, 3:9, 2 : 2 + height] = 1
    voxels[6:10, 3:9, 2 : 2 + height] = 2
    table = LabelTable.from_names(["tibia", "femur"])
    return Labelmap(Grid(voxels.shape, np.diag([1.0, 1.0, 3.0, 1.0])), voxels, table)


EPOCHS = {"full": 1000, "quick": 50, "smoke": 20}


def real_checkpoint(run, plans):
    """Return what nnU-Net 2.8.1 saves at the end of a training, with planted names."""
    import torch

    network = untrained_network(plans, run.configuration)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.99)
    weights = network.state_dict()
    name, last = list(weights.items())[-1]
    secret = torch.frombuffer(
        bytearray(PLANTED[2].ljust(16).encode()), dtype=last.dtype
    )
    weights[name] = torch.cat([last.flatten(), secret])[: last.numel()].view_as(last)
    content = {
        "network_weights": weights,
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float32(0.5)], "host": PLANTED[2]},
        "_best_ema": np.float64(0.5),
        "current_epoch": EPOCHS[method_of_run(run).budget.name],
        "init_args": {
            "plans": {**plans, "folder": PLANTED[3]},
            "configuration": run.configuration,
            "fold": run.fold,
            "dataset_json": {"reference": PLANTED[4], "training": [PLANTED[5]]},
            "device": torch.device("cpu"),
        },
        "trainer_name": run.trainer,
        "inference_allowed_mirroring_axes": (0, 1),
    }
    stream = io.BytesIO()
    torch.save(content, stream)
    return by_numpy_1(stream.getvalue()) if run.fold == 1 else stream.getvalue()


def by_numpy_1(checkpoint):
    """Return a checkpoint as it was saved beside NumPy 1, which named its parts so."""
    with zipfile.ZipFile(io.BytesIO(checkpoint)) as archive:
        parts = [(name, archive.read(name)) for name in archive.namelist()]
    assert any(b"numpy._core.multiarray" in part for _, part in parts)
    return zipped(
        [(n, p.replace(b"numpy._core.mul", b"numpy.core.mul")) for n, p in parts],
        compression=zipfile.ZIP_STORED,
    )


def plant(fold_dir):
    """Leave what nnU-Net and we leave beside a checkpoint."""
    text = "\n".join(PLANTED)
    for name in ("debug.json", "training_log_2026_11_22.txt", "progress.png"):
        (fold_dir / name).write_text(text)
    (fold_dir / "validation" / "summary.json").write_text(
        json.dumps({"mean": {"1": {"Dice": 0.9}}, "metric_per_case": PLANTED})
    )
    model_dir = fold_dir.parent
    (model_dir / "predict_from_raw_data_args.json").write_text(text)
    fingerprint = {
        "spacings": [[3.0, 0.8, 0.8], [2.5, 0.9, 0.9]],
        "shapes_after_crop": [[40, 512, 500], [60, 480, 512]],
        "source": PLANTED[3],
    }
    (model_dir / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    checkpoints = {
        folder.name.removeprefix("fold_"): sha256_of(folder / "checkpoint_final.pth")
        for folder in model_dir.glob("fold_*")
    }
    tibia = {**CleaningRule("volume").as_json(), "dice_before": 0.8}
    tibia |= {"rule": "volume", "min_volume_mm3": 40.0, "folds": {}, "lost": PLANTED}
    cleaning = {
        "dataset": PLANTED[0],
        "checkpoints": checkpoints,
        "cases": {"0": [PLANTED[5]]},
        "structures": {"tibia": tibia, "femur": {"rule": "none"}},
        "tried": {"tibia": [tibia]},
    }
    (model_dir / "cleaning.json").write_text(json.dumps(cleaning))


def packed_to(file, workspace, *configurations, **more):
    request = ModelRequest(configurations, **more)
    return pack_model(Dataset(workspace, DATASET), file, request)


@pytest.fixture(scope="module")
def packed(trained, tmp_path_factory):
    """The smoke model as a file."""
    file = tmp_path_factory.mktemp("packed") / "leg.zip"
    return file, packed_to(file, trained, "2d", budget="smoke")


@pytest.fixture(scope="module")
def unpacked(packed, tmp_path_factory):
    """Another workspace, with that file as a model."""
    found = Workspace.at(tmp_path_factory.mktemp("elsewhere"), environment={})
    return found, unpack_model(found, packed[0])


def tree_hash(folder):
    """Return a hash of every path, kind and byte below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(f"{path.relative_to(folder)} {path.is_dir()}\n".encode())
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def unpack_command(workspace, file, *words):
    root = str(workspace.runs_dir.parent)
    return CliRunner().invoke(main, ["unpack", str(file), "-w", root, "--json", *words])


# The malicious set -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "what", "build"), MALICIOUS, ids=[f"{r} {w}" for r, w, _ in MALICIOUS]
)
def test_every_item_of_the_malicious_set_is_refused_before_it_runs(
    workspace, tmp_path, record_property, row, what, build
):
    """R10: exit code 6, one sentence, no marker, and the results as they were."""
    marker = tmp_path / "marker"
    file = tmp_path / "model.zip"
    file.write_bytes(build(marker))
    other = write_model(run_of(workspace, 3, "full"), b"kept")
    assert other.is_dir()
    before = tree_hash(workspace.results_dir)

    result = unpack_command(workspace, file)

    answer = json.loads(result.stdout)
    message = f"{answer['code']}  exit {result.exit_code}: {answer['error']}"
    print(f"{row}  {what:50} {message}")  # noqa: T201 - the table that -rP shows
    record_property("outcome", answer["error"])
    assert (result.exit_code, answer["code"]) == (6, row)
    assert len(answer["error"].splitlines()) == 1
    assert len(answer["error"]) < 500
    assert result.stderr.endswith(f"Error: [{row}] {answer['error']}\n")
    assert not marker.exists()
    assert tree_hash(workspace.results_dir) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.zip", "work"]


# There and back ----------------------------------------------------------------------


def every_byte(content, name="zip"):
    """Yield all that a file holds, zips inside zips opened."""
    yield name, content
    if content.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield "comment", archive.comment
            for info in archive.infolist():
                yield "name", info.filename.encode() + info.comment + info.extra
                yield from every_byte(archive.read(info), info.filename)


def weights_of(workspace, fold):
    import torch

    file = run_of(workspace, fold).fold_dir / "checkpoint_final.pth"
    with torch.serialization.safe_globals(
        [np.dtype, np._core.multiarray.scalar, torch.device]
        + [(np._core.multiarray.scalar, "numpy.core.multiarray.scalar")]
        + [type(np.dtype(kind)) for kind in ("float32", "float64")]
    ):
        return torch.load(file, weights_only=True)["network_weights"]


@pytest.mark.training
def test_R11_a_packed_model_contains_no_identity(trained, packed):
    file, summary = packed
    planted = [*PLANTED, str(trained.results_dir), str(trained.results_dir.parent)]
    here = [name for name in (socket.gethostname(), str(Path.home())) if len(name) > 5]

    found = [
        (place, word)
        for place, content in every_byte(file.read_bytes())
        for word in (*planted, *here)
        for spelt in (word.encode(), word.encode("utf-16-le"), word[::-1].encode())
        if spelt in content
    ]

    assert found == []
    assert any(PLANTED[2].encode() in c for c in all_bytes_of(trained)), "no test"
    assert summary.as_json()["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def all_bytes_of(workspace):
    for file in (workspace.results_dir / MODEL).rglob("*.pth"):
        for _, content in every_byte(file.read_bytes()):
            yield content


@pytest.mark.training
def test_a_packed_model_holds_these_files_and_no_others(packed):
    with zipfile.ZipFile(packed[0]) as archive:
        names = archive.namelist()
        card = json.loads(archive.read(f"{MODEL}/model.json"))

    assert names == [
        f"{MODEL}/{name}"
        for name in (
            *("cleaning.json", "dataset.json"),
            *("fold_0/checkpoint_final.pth", "fold_1/checkpoint_final.pth"),
            *("model.json", "plans.json"),
        )
    ]
    assert card["training_range"] == {
        "cases": 2,
        "smallest_spacing_mm": [0.8, 0.8, 2.5],
        "largest_spacing_mm": [0.9, 0.9, 3.0],
        "smallest_shape": [500, 480, 40],
        "largest_shape": [512, 512, 60],
    }
    assert card["training_structures"]["cases"] == 3
    femur = card["training_structures"]["structures"]["femur"]
    assert (femur["cases"], femur["at_border"], femur["asymmetry"]) == (3, 0, None)
    assert femur["volume_mm3"]["most"] == 4 * 6 * 10 * 3


@pytest.mark.training
def test_R12_the_same_model_gives_the_same_bytes_and_writes_nothing_anew(
    trained, packed
):
    file, first = packed
    before = file.stat().st_mtime_ns

    again = packed_to(file, trained, "2d", budget="smoke")

    assert again.sha256 == first.sha256
    assert file.stat().st_mtime_ns == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]


@pytest.mark.training
def test_every_weight_comes_back_as_it_was(trained, unpacked):
    import torch

    for fold in (0, 1):
        was, now = weights_of(trained, fold), weights_of(unpacked[0], fold)
        assert list(was) == list(now)
        assert all(torch.equal(was[name], now[name]) for name in was)


@pytest.mark.training
def test_an_unpacked_model_packs_to_the_same_file(packed, unpacked, tmp_path):
    again = packed_to(tmp_path / "again.zip", unpacked[0])

    assert again.sha256 == packed[1].sha256


@pytest.mark.training
def test_an_unpacked_model_is_known_with_its_dice_and_is_not_called_trained(unpacked):
    states = known_runs(Dataset(unpacked[0], DATASET))

    assert [(s.state, s.run.fold, s.mean_dice) for s in states] == [
        ("unpacked", 0, 0.9),
        ("unpacked", 1, 0.9),
    ]
    assert not any(state.done for state in states)


@pytest.mark.training
def test_an_unpacked_model_predicts_and_cleans_as_it_was_tuned(unpacked, tmp_path):
    voxels = np.random.default_rng(3).normal(200, 40, (24, 24, 6)).astype(np.int16)
    image = tmp_path / "leg_9.nii.gz"
    write_volume(image, Volume(Grid(voxels.shape, np.diag([0.8, 0.8, 3, 1])), voxels))
    options = PredictionOptions(clean="tuned")

    summary = predict_images(
        Dataset(unpacked[0], DATASET), [image], tmp_path / "out", options
    )

    assert summary.exit_code == 0
    record = json.loads((tmp_path / "out" / "leg_9" / "prediction.json").read_text())
    assert record["cleaning"]["rules"]["tibia"]["min_volume_mm3"] == 40.0
    assert (tmp_path / "out" / "leg_9" / "labels.nii.gz").is_file()
    (case,) = summary.as_json()["cases"]
    assert case["quality"] == record["quality"]
    assert {row["kind"] for row in case["quality"]["reasons"]} <= {
        *("between_folds", "volume", "pieces", "border", "empty", "steps"),
    }
    assert not any("unknown" in words for words in case["quality"]["not_judged"])
    assert f"worst first in {tmp_path / 'out' / 'quality.html'}" in summary.as_text()
    assert "leg_9" in (tmp_path / "out" / "quality.html").read_text()

    again = predict_images(
        Dataset(unpacked[0], DATASET), [image], tmp_path / "out", options
    )
    assert again.as_json()["cases"][0]["quality"] == record["quality"]


def write_repeated(workspace):
    """Write two folds, trained twice; the second networks find a femur everywhere."""
    plans = tiny_plans()
    for fold in (0, 1):
        run = run_of(workspace, fold)
        write_model(run, HARMLESS, plans=plans)
        write_model(replace(run, repeat=1), only_femur(run, plans), plans=plans)


def only_femur(run, plans):
    """Return a checkpoint whose network gives every voxel the label 2."""
    import torch

    stream = io.BytesIO(untrained_checkpoint(run, plans))
    content = torch.load(stream, weights_only=True)
    for name, weights in content["network_weights"].items():
        weights.zero_()
        if "seg_layers" in name and name.endswith("bias"):
            weights[2] = 1.0
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


@pytest.mark.training
def test_a_further_training_predicts_and_is_packed_if_asked(workspace, tmp_path):
    write_repeated(workspace)
    image, out = tmp_path / "leg_9.nii.gz", tmp_path / "out"
    grid = Grid((24, 24, 6), np.diag([0.8, 0.8, 3, 1]))
    voxels = np.arange(24 * 24 * 6, dtype=np.int16)
    write_volume(image, Volume(grid, voxels.reshape(grid.shape)))
    root = str(workspace.runs_dir.parent)
    asked = ["-w", root, "-c", "2d", "--seed", "1", "--json"]
    predict = ["predict", "11", str(image), "-o", str(out), "--device", "cpu"]

    done = CliRunner().invoke(main, [*predict, *asked])

    assert done.exit_code == 0, done.stderr
    table = LabelTable.from_names(["tibia", "femur"])
    found = read_labelmap(out / "leg_9" / "labels.nii.gz", table)
    assert np.unique(found.voxels).tolist() == [2]
    record = json.loads((out / "leg_9" / "prediction.json").read_text())
    assert record["model"] == "2d, as requested, fold 0, 1, seed 1"
    kinds = [reason["kind"] for reason in record["quality"]["reasons"]]
    assert "between_folds" in kinds

    zipped_model = ["pack", "11", "-o", str(tmp_path / "m.zip"), *asked]
    packed = json.loads(CliRunner().invoke(main, zipped_model).stdout)
    (tmp_path / "elsewhere").mkdir()
    elsewhere = Workspace.at(tmp_path / "elsewhere", environment={})
    unpack_model(elsewhere, tmp_path / "m.zip")
    assert packed["folds"] == ["0", "1"]
    for fold in packed["folds"]:
        weights = weights_of(elsewhere, int(fold))["decoder.seg_layers.0.bias"]
        assert weights.tolist() == [0, 0, 1]


def test_a_training_that_is_not_there_is_named_with_its_seed(workspace):
    write_model(run_of(workspace), HARMLESS)

    with pytest.raises(InputError, match="no finished model 2d seed 2: train one"):
        choose_model(Dataset(workspace, DATASET), ModelRequest(("2d",), seed=2))


@pytest.mark.training
def test_S05_a_model_that_is_there_stays_unless_it_is_to_be_replaced(
    packed, unpacked, tmp_path
):
    workspace = Workspace.at(tmp_path, environment={})
    shutil.copytree(unpacked[0].results_dir, workspace.results_dir)
    spoilt = workspace.results_dir / MODEL / "fold_0" / "checkpoint_final.pth"
    spoilt.write_bytes(b"older")
    (workspace.results_dir / MODEL / "fold_4").mkdir()
    before = tree_hash(workspace.results_dir)

    refused = unpack_command(workspace, packed[0])

    assert (refused.exit_code, json.loads(refused.stdout)["code"]) == (6, "S05")
    assert "--replace" in refused.stderr
    assert tree_hash(workspace.results_dir) == before

    replaced = unpack_command(workspace, packed[0], "--replace")

    assert replaced.exit_code == 0
    assert json.loads(replaced.stdout)["model"] == MODEL
    assert tree_hash(workspace.results_dir) == tree_hash(unpacked[0].results_dir)


@pytest.mark.training
@pytest.mark.parametrize(
    ("budget", "configuration", "folds"),
    [("quick", "2d", ["0"]), ("full", "3d_fullres", ["all"])],
)
def test_models_of_every_budget_pack(trained, tmp_path, budget, configuration, folds):
    file = tmp_path / "model.zip"

    summary = packed_to(file, trained, budget=budget)

    run = run_of(trained, budget=budget, configuration=configuration)
    assert summary.model == f"{DATASET}/{run.model_dir.name}"
    assert list(summary.folds) == folds


def by_nnunet(program, workspace):
    """Run a program in a process in which nnU-Net is as its own commands know it."""
    environment = {
        **{key: value for key, value in os.environ.items() if "WEIGHTS" not in key},
        **workspace.environment(),
        "nnUNet_extTrainer": str(trainers_dir()),
        "PYTHONWARNINGS": "ignore",
    }
    subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        check=True,
        capture_output=True,
    )


@pytest.mark.training
def test_nnunets_own_import_and_predictor_take_a_packed_model(packed, workspace):
    workspace.results_dir.mkdir()
    folder = str(workspace.results_dir / MODEL)

    by_nnunet(
        "from nnunetv2.model_sharing import model_import;"
        f"model_import.install_model_from_zip_file({str(packed[0])!r});"
        "from nnunetv2.inference import predict_from_raw_data as prediction;"
        "predictor = prediction.nnUNetPredictor(perform_everything_on_device=False);"
        f"predictor.initialize_from_trained_model_folder({folder!r}, (0, 1));"
        "assert predictor.trainer_name == 'BridgeSmokeTrainer';"
        "assert predictor.allowed_mirroring_axes == (0, 1);"
        "assert len(predictor.list_of_parameters) == 2",
        workspace,
    )


@pytest.mark.training
def test_what_nnunet_itself_exports_can_be_unpacked(trained, workspace, tmp_path):
    """Its own exporter is the oracle; a pickle among its files would be refused."""
    file = tmp_path / "export.zip"
    by_nnunet(
        "from nnunetv2.model_sharing.model_export import export_pretrained_model;"
        f"export_pretrained_model({DATASET!r}, {str(file)!r},"
        " configurations=('3d_fullres',), folds=('all',))",
        trained,
    )
    with zipfile.ZipFile(file) as archive:
        assert any(name.endswith("progress.png") for name in archive.namelist())

    summary = unpack_model(workspace, file)

    assert summary.folds == ("all",)
    left = [path.name for path in workspace.results_dir.rglob("*") if path.is_file()]
    assert sorted(left) == [
        *("checkpoint_final.pth", "dataset.json", "plans.json", "unpacked.json")
    ]
    (state,) = known_runs(Dataset(workspace, DATASET))
    assert (state.budget, state.mean_dice) == ("full", None)


# Behind the first gate ---------------------------------------------------------------


MODEL_OF_WORDS = {
    "network_weights": {},
    "trainer_name": "BridgeSmokeTrainer",
    "init_args": {"configuration": "2d"},
}


def unfolding():
    """A tensor of one number that says it has ten thousand million."""
    import torch

    stream = io.BytesIO()
    many = torch.zeros(1).expand(100_000, 100_000)
    torch.save({**MODEL_OF_WORDS, "network_weights": {"w": many}}, stream)
    return stream.getvalue()


@pytest.mark.training
@pytest.mark.parametrize(
    ("row", "what", "build"),
    [
        ("S01", "weights that are no tensors", lambda: {"network_weights": {"w": 1}}),
        ("S01", "a tensor of 40 GB from 4 bytes", unfolding),
        ("S09", "a foreign trainer", lambda: {"trainer_name": "EvilTrainer"}),
        ("S02", "another configuration", lambda: {"init_args": {"configuration": "x"}}),
    ],
)
def test_what_the_listing_of_a_pickle_cannot_show_is_refused_by_the_second_check(
    workspace, tmp_path, row, what, build
):
    built = build()
    if isinstance(built, dict):
        built = pickled_checkpoint({**MODEL_OF_WORDS, **built})
    file = tmp_path / "model.zip"
    file.write_bytes(model_with(built))

    with pytest.raises(SecurityError) as caught:
        unpack_model(workspace, file)

    print(f"{row}  {what:50} {caught.value.code}  {caught.value}")  # noqa: T201 - the table
    assert caught.value.code == row
    assert not workspace.results_dir.exists()


HEADS = "decoder.seg_layers.0.weight"


@pytest.fixture(scope="module")
def untrained():
    """The content of the checkpoint of an untrained network."""
    import torch

    stream = io.BytesIO(untrained_checkpoint(run_of(NOWHERE), PLANS))
    return torch.load(stream, weights_only=True)


def other_weights(content, **weights):
    return {**content, "network_weights": {**content["network_weights"], **weights}}


@pytest.mark.training
@pytest.mark.parametrize(
    ("said", "change"),
    [
        ("", lambda c: c),
        ("no weights", lambda c: {**c, "network_weights": {}}),
        ("axes", lambda c: {**c, "inference_allowed_mirroring_axes": (0, 2)}),
        ("axes", lambda c: {**c, "inference_allowed_mirroring_axes": (0,) * 10**5}),
        ("axes", lambda c: {**c, "inference_allowed_mirroring_axes": (-1,)}),
        (HEADS, lambda c: other_weights(c, **{HEADS: c["network_weights"][HEADS][:2]})),
        ("more", lambda c: other_weights(c, more=c["network_weights"][HEADS])),
        ("encoder", lambda c: {**c, "network_weights": {"x": torch_zeros(3)}}),
    ],
)
def test_S02_what_predict_could_not_use_of_a_checkpoint_is_named(
    untrained, tmp_path, said, change
):
    from nnunet_bridge.nnunet.inside import stripping

    (tmp_path / "plans.json").write_text(json.dumps(PLANS))
    (tmp_path / "dataset.json").write_text(json.dumps(DATASET_JSON))
    shapes = stripping._expected_shapes(str(tmp_path), "nnUNetTrainer", "2d")

    fault = stripping._fault_of(change(untrained), shapes)

    assert said in fault
    assert len(fault) < 400
    assert bool(fault) is bool(said)


def torch_zeros(size):
    import torch

    return torch.zeros(size)


@pytest.mark.training
def test_S02_a_model_with_heads_for_other_labels_is_refused_when_it_is_unpacked(
    workspace, tmp_path
):
    labels = {"background": 0, "tibia": 1}
    checkpoint = untrained_checkpoint(run_of(NOWHERE), PLANS)
    model = model_with(checkpoint, dataset={**DATASET_JSON, "labels": labels})
    (tmp_path / "model.zip").write_bytes(model)

    with pytest.raises(SecurityError, match=r"seg_layers.*\(3.*not \(2") as caught:
        unpack_model(workspace, tmp_path / "model.zip")

    assert caught.value.code == "S02"
    assert not workspace.results_dir.exists()


@pytest.mark.training
def test_S01_the_second_gate_stops_a_planted_object_by_itself(
    workspace, tmp_path, monkeypatch
):
    """The first gate is taken away: torch's list of harmless types still holds."""
    monkeypatch.setattr(pack, "check_checkpoint", lambda _file: None)
    marker, file = tmp_path / "marker", tmp_path / "model.zip"
    file.write_bytes(model_with(pickled_checkpoint(Runs(marker))))

    with pytest.raises(SecurityError, match="more than weights") as caught:
        unpack_model(workspace, file)

    assert caught.value.code == "S01"
    assert not marker.exists()
    assert not workspace.results_dir.exists()


SAMPLE = model_with()


@given(at=st.integers(0, len(SAMPLE) - 1), change=st.integers(1, 255))
def test_R9_a_damaged_model_ends_in_one_kind_of_error_and_leaves_nothing(
    tmp_path_factory, at, change
):
    """Up to the second gate, which is a process of its own and left out here."""
    tmp_path = tmp_path_factory.mktemp("damaged")
    workspace = Workspace.at(tmp_path, environment={})
    file = tmp_path / "model.zip"
    file.write_bytes(SAMPLE[:at] + bytes([SAMPLE[at] ^ change]) + SAMPLE[at + 1 :])

    with pytest.raises(BridgeError):
        unpack_model(workspace, file, host=Host(start=_no_process))

    assert not workspace.results_dir.exists()


def _no_process(*_arguments):
    raise NnUNetError(
        "nnU-Net failed (read the checkpoints): the first gate let it in."
    )


@pytest.mark.parametrize("end", [KeyboardInterrupt, MemoryError, OSError])
def test_R6_however_unpacking_ends_the_results_are_as_they_were(
    workspace, tmp_path, end
):
    def ends(*_arguments):
        raise end

    file = tmp_path / "model.zip"
    file.write_bytes(model_with())
    write_model(run_of(workspace), b"older")
    before = tree_hash(workspace.results_dir)

    with pytest.raises(end):
        unpack_model(workspace, file, replace=True, host=Host(start=ends))

    assert tree_hash(workspace.results_dir) == before


# A model that lies there already -----------------------------------------------------


@pytest.mark.parametrize(
    ("row", "change"),
    [
        ("S01", {"checkpoint": None}),
        ("S02", {"plans": changed(PLANS, *NETWORK, "nonlin", "os.system")}),
        ("S07", {"plans": changed(PLANS, *NETWORK, "n_stages", 10**6)}),
    ],
)
def test_predict_refuses_a_harmful_model_that_was_copied_there_by_hand(
    workspace, tmp_path, row, change
):
    marker = tmp_path / "marker"
    checkpoint = pickled_checkpoint(Runs(marker)) if row == "S01" else HARMLESS
    write_model(run_of(workspace), checkpoint, plans=change.get("plans"))
    image = tmp_path / "leg_9.nii.gz"
    voxels = np.arange(24 * 24 * 6, dtype=np.int16).reshape(24, 24, 6)
    write_volume(image, Volume(Grid(voxels.shape, np.diag([0.8, 0.8, 3, 1])), voxels))
    words = ["predict", "11", str(image), "-o", str(tmp_path / "out"), "--json"]

    result = CliRunner().invoke(
        main, [*words, "-w", str(tmp_path / "work"), "--device", "cpu"]
    )

    assert (result.exit_code, json.loads(result.stdout)["code"]) == (6, row)
    assert not marker.exists()


def test_S09_nnunet_finds_trainers_in_our_folder_and_nowhere_else(workspace):
    inherited = {"nnUNet_extTrainer": "/somewhere/evil"}

    environment = nnunet_environment(workspace, ONE_THREAD, inherited)

    assert environment["nnUNet_extTrainer"] == str(trainers_dir())
    assert environment["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"


def test_S10_a_folder_that_looks_like_an_option_reaches_nnunet_as_a_path(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)

    with work_folder(Path("-rf"), "work") as work:
        assert work.is_absolute()
        assert work.parent == tmp_path / "-rf"


def test_pack_refuses_what_unpack_would_refuse(workspace, tmp_path):
    plans = changed(PLANS, "comment", PLANTED[0])
    write_model(run_of(workspace), HARMLESS, plans=plans)

    with pytest.raises(SecurityError, match="comment"):
        packed_to(tmp_path / "model.zip", workspace)

    assert not (tmp_path / "model.zip").exists()


@pytest.fixture
def boxed(tmp_path):
    """Return the file of a packed model."""
    (tmp_path / "model.zip").write_bytes(model_with())
    return tmp_path / "model.zip"


def test_F08_a_model_in_training_is_not_replaced(workspace, boxed):
    with (
        only_writer(run_of(workspace).lock_file, "the training"),
        pytest.raises(EnvironmentFault, match="is being trained") as caught,
    ):
        unpack_model(workspace, boxed, replace=True)

    assert caught.value.code == "F08"


def test_F06_a_disk_that_is_too_small_is_noticed_before_it_is_full(workspace, boxed):
    with pytest.raises(EnvironmentFault, match="free some space") as caught:
        unpack_model(workspace, boxed, host=Host(free_bytes=lambda _place: 10))

    assert caught.value.code == "F06"
    assert not workspace.results_dir.exists()


def test_N07_a_number_that_another_dataset_bears_is_refused(workspace, boxed):
    (workspace.raw_dir / "Dataset011_Arm").mkdir(parents=True)

    with pytest.raises(InputError, match="Dataset011_Arm") as caught:
        unpack_model(workspace, boxed)

    assert caught.value.code == "N07"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"background": 0, "bones": [1, 2]}}, "regions"),
        ({"file_ending": ".png"}, "in .png are not read"),
    ],
)
def test_a_model_that_predict_could_not_use_is_not_unpacked(
    workspace, tmp_path, change, message
):
    file = tmp_path / "model.zip"
    file.write_bytes(model_with(dataset={**DATASET_JSON, **change}))

    with pytest.raises(InputError, match=message):
        unpack_model(workspace, file)

    assert not workspace.results_dir.exists()


@pytest.mark.training
def test_no_training_beside_folds_from_elsewhere(unpacked):
    with pytest.raises(InputError, match="holds an unpacked model"):
        require_own_folders([run_of(unpacked[0], 2)])


@pytest.mark.training
def test_no_cleaning_is_tuned_without_validation(unpacked):
    workspace, _ = unpacked
    raw = Dataset(workspace, DATASET).raw_dir
    raw.mkdir(parents=True, exist_ok=True)
    (raw / "dataset.json").write_text(json.dumps(DATASET_JSON))

    with pytest.raises(InputError, match="stayed where it was trained"):
        tune_cleaning(Dataset(workspace, DATASET))


def test_a_model_of_other_plans_answers_where_there_is_no_other(workspace):
    run = replace(run_of(workspace, budget="full"), plans="nnUNetResEncUNetXLPlans")
    folder = run.fold_dir
    folder.mkdir(parents=True)
    (folder / "checkpoint_final.pth").write_bytes(HARMLESS)
    (folder / "unpacked.json").write_text('{"mean_dice": null}')

    assert choose_model(Dataset(workspace, DATASET)).states[0].run == run

    write_model(run_of(workspace), HARMLESS)
    assert choose_model(Dataset(workspace, DATASET)).budget == "smoke"
