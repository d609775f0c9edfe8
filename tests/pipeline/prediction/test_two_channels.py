"""A model with two channels: which images it is shown, from DICOM and from files."""

import json

import numpy as np
import pytest
from dicom_base import expected, save
from dixon import OFFSET, dixon, shuffled
from stand_in import DATASET, TABLE, finished_workspace
from tiny_model import DATASET_JSON

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, Volume
from nnunet_bridge.formats.channels import Channels
from nnunet_bridge.formats.nifti import read_volume, write_volume
from nnunet_bridge.nnunet.names import Dataset
from nnunet_bridge.ops.region import RegionRequest
from nnunet_bridge.pipeline.ingest.channels import SeriesOptions
from nnunet_bridge.pipeline.prediction.options import PredictionOptions
from nnunet_bridge.pipeline.prediction.predict import predict_images

TWO = {**DATASET_JSON, "channel_names": {"0": "water", "1": "fat"}}
GRID = Grid((12, 10, 60), np.diag([1.0, 1.0, 2.0, 1.0]))


class Network:
    """Labels as tibia where the second channel is bright; keeps what it was shown."""

    def __init__(self):
        self.seen = []

    def __call__(self, model, work, _resources, *, advanced):
        from nnunet_bridge.formats.nifti import write_labelmap

        shown = {
            file.name.removesuffix(".nii.gz"): read_volume(file)
            for file in sorted((work / "images").glob("*.nii.gz"))
        }
        self.seen.append({name: volume.voxels for name, volume in shown.items()})
        folder = work / model.configurations[0]
        for name, volume in shown.items():
            if name.endswith("_0001"):
                labels = (volume.voxels >= 1000).astype(np.uint8)
                made = Labelmap(volume.grid, labels, TABLE)
                write_labelmap(folder / f"{name.removesuffix('_0001')}.nii.gz", made)
        advanced(1.0)
        return folder


@pytest.fixture
def workspace(tmp_path):
    return Dataset(finished_workspace(tmp_path / "work", dataset=TWO), DATASET)


def predict(workspace, images, out, network=None, **options):
    network = network or Network()
    asked = PredictionOptions(device="cpu", **options)
    return predict_images(workspace, images, out, asked, network=network)


def two_files(folder, name="leg"):
    """Write an image of two files, the bone only in the second; return its folder."""
    rng = np.random.default_rng(1)
    for channel in (0, 1):
        voxels = rng.integers(0, 200, GRID.shape, dtype=np.int16)
        if channel:
            voxels[3:9, 3:8, 20:30] = 1500
        write_volume(folder / f"{name}_{channel:04d}.nii.gz", Volume(GRID, voxels))
    return folder


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("series", ["one", "each"])
def test_channels_are_found_in_dicom_in_any_order(tmp_path, workspace, series, seed):
    found = dixon(series=series)
    save(shuffled(found, seed), tmp_path / "knee")
    network = Network()

    summary = predict(workspace, [tmp_path / "knee"], tmp_path / "out", network)

    assert summary.exit_code == 0
    (seen,) = network.seen
    assert np.array_equal(seen["knee_0000"], expected() + OFFSET["water"])
    assert np.array_equal(seen["knee_0001"], expected() + OFFSET["fat"])
    again = predict(workspace, [tmp_path / "knee"], tmp_path / "out", network)
    assert len(network.seen) == 1, "a finished case was predicted again"
    assert again.exit_code == 0


def test_a_recipe_chooses_series_that_the_names_of_channels_do_not(tmp_path, workspace):
    words = {"water": "M", "fat": "P", "in": "R", "opposed": "I"}
    save(shuffled(dixon(words=words)), tmp_path / "knee")
    series = {"water": {"image_type": ["M"]}, "fat": {"image_type": "P"}}
    ours, network = Channels.described_by(TWO | {"channel_series": series}), Network()
    images, out = [tmp_path / "knee"], tmp_path / "out"

    refused = predict(workspace, images, out)
    summary = predict(workspace, images, out, network, channels=ours)

    assert (refused.exit_code, summary.exit_code) == (3, 0)
    assert np.array_equal(network.seen[0]["knee_0001"], expected() + OFFSET["fat"])
    others = Channels(("fat", "water"))
    with pytest.raises(InputError, match="the recipe has fat, water") as caught:
        predict(workspace, images, out, channels=others)
    assert caught.value.code == "D17"


def test_subfolders_of_series_are_one_image(tmp_path, workspace):
    for name, slices in dixon(series="each").items():
        save(slices, tmp_path / "knee" / f"z{name[::-1]}")
    network = Network()

    predict(workspace, [tmp_path / "knee"], tmp_path / "out", network)

    assert np.array_equal(network.seen[0]["knee_0001"], expected() + OFFSET["fat"])


@pytest.mark.parametrize("how", ["the folder", "both files", "the first file"])
def test_files_of_one_image_are_its_channels(tmp_path, workspace, how):
    folder = two_files(tmp_path / "new")
    files = sorted(folder.iterdir())
    images = {"the folder": [folder], "both files": files[::-1]}.get(how, files[:1])
    network = Network()

    summary = predict(workspace, images, tmp_path / "out", network)

    assert [case.case_id for case in summary.cases] == ["leg"]
    for channel, file in enumerate(files):
        wanted = read_volume(file).voxels
        assert np.array_equal(network.seen[0][f"leg_{channel:04d}"], wanted)


def test_the_case_table_of_a_study_names_the_channels(tmp_path, workspace):
    study = two_files(tmp_path / "study")
    rows = ["file,role,case,channel", "leg_0000.nii.gz,image,his,fat"]
    rows += ["leg_0001.nii.gz,image,his,water"]  # against their names
    (study / "cases.csv").write_text("\n".join(rows) + "\n")
    (study / "dataset.toml").write_text(
        '[dataset]\nid = 1\nname = "Leg"\ntable = "cases.csv"\n'
        'channels = ["water", "fat"]\n[labels]\ntibia = 1\n'
    )
    network = Network()

    predict(workspace, [study], tmp_path / "out", network)

    for channel in (0, 1):
        wanted = read_volume(study / f"leg_{1 - channel:04d}.nii.gz").voxels
        assert np.array_equal(network.seen[0][f"his_{channel:04d}"], wanted)


def test_D17_one_image_is_refused_by_name_and_the_others_are_predicted(
    tmp_path, workspace
):
    two_files(tmp_path / "new")
    (tmp_path / "new" / "other_0000.nii.gz").write_bytes(
        (tmp_path / "new" / "leg_0000.nii.gz").read_bytes()
    )
    lonely = tmp_path / "lonely.nii.gz"
    lonely.write_bytes((tmp_path / "new" / "leg_0001.nii.gz").read_bytes())
    save(dixon(names=("water",))["water"], tmp_path / "water_only")
    images = [tmp_path / "new", lonely, tmp_path / "water_only"]

    summary = predict(workspace, images, tmp_path / "out")

    said = {case.case_id: "\n".join(case.messages) for case in summary.cases}
    assert summary.exit_code == 4
    assert said["leg"] == ""
    assert "Channel fat" in said["other"]
    assert "other_0001.nii.gz does not exist" in said["other"]
    assert "[D17] 2 channels are read (water, fat), but there is only" in said["lonely"]
    assert "[D04] Channel fat: No images have the image type" in said["water_only"]


def test_an_image_is_predicted_again_if_its_second_channel_changes(tmp_path, workspace):
    folder = two_files(tmp_path / "new")
    predict(workspace, [folder], tmp_path / "out")
    second = read_volume(folder / "leg_0001.nii.gz")
    write_volume(folder / "leg_0001.nii.gz", Volume(GRID, second.voxels + 1))
    network = Network()

    predict(workspace, [folder], tmp_path / "out", network)

    assert np.array_equal(network.seen[0]["leg_0001"], second.voxels + 1)


@pytest.mark.parametrize("how", ["slices", "auto"])
def test_a_region_is_cut_out_of_every_channel(tmp_path, workspace, how):
    folder = two_files(tmp_path / "new")
    region = RegionRequest(15, 35) if how == "slices" else RegionRequest(auto=True)
    network = Network()

    summary = predict(workspace, [folder], tmp_path / "out", network, region=region)

    (case,) = summary.cases
    seen = network.seen[-1]
    cut = json.loads((tmp_path / "out" / "leg" / "prediction.json").read_text())["cut"]
    kept = slice(cut["first_slice"], cut["end_slice"])
    assert (kept.start, kept.stop) != (0, 60)
    for channel, file in enumerate(sorted(folder.iterdir())):
        wanted = read_volume(file).voxels[:, :, kept]
        assert np.array_equal(seen[f"leg_{channel:04d}"], wanted)
    assert case.volumes[0].volume_mm3 == 6 * 5 * 10 * 2


def test_the_preview_shows_the_channel_of_choice(tmp_path, workspace):
    folder = two_files(tmp_path / "new")
    pictures = {}
    for name in (None, "water", "FAT"):
        predict(workspace, [folder], tmp_path / "out", channel=name)
        pictures[name] = (tmp_path / "out" / "leg" / "preview.png").read_bytes()

    assert pictures[None] == pictures["water"] != pictures["FAT"]
    with pytest.raises(InputError, match=r"no channel “in”; there is water, fat"):
        predict(workspace, [folder], tmp_path / "out", channel="in")


def test_an_image_type_cannot_choose_among_channels(tmp_path, workspace):
    save(shuffled(dixon()), tmp_path / "knee")
    options = SeriesOptions(image_type="W")

    summary = predict(workspace, [tmp_path / "knee"], tmp_path / "out", scans=options)

    assert summary.exit_code == 3
    assert "`image_type` cannot choose" in summary.cases[0].messages[0]


def test_N08_two_files_for_a_model_of_one_channel_are_refused(tmp_path):
    one = Dataset(finished_workspace(tmp_path / "work"), DATASET)
    folder = two_files(tmp_path / "new")

    with pytest.raises(InputError, match="two channels of one image") as caught:
        predict(one, [folder], tmp_path / "out")

    assert caught.value.code == "N08"


@pytest.mark.parametrize(
    ("entries", "names"),
    [
        ({"channel_names": {"1": "fat", "0": "water"}}, ("water", "fat")),
        ({"channel_names": {"0": "MRI"}}, ("MRI",)),
        ({"channel_names": {"0": "a", "1": "b"}, "channel_series": {"a": 1}}, None),
        ({"channel_names": {"a": 0}}, None),
        ({}, None),
    ],
)
def test_the_numbers_of_a_description_order_its_channels(entries, names):
    if names is None:
        with pytest.raises(InputError, match="channel_names"):
            Channels.described_by(entries)
    else:
        assert Channels.described_by(entries).names == names
