"""One bad image never ends a batch: it is refused by name, the others predicted."""

import json

import nibabel
import numpy as np
import pytest
from click.testing import CliRunner
from stand_in import DATASET, GRID, StandIn, finished_workspace, image_with_bone

from nnunet_bridge.cli import main
from nnunet_bridge.core.errors import EnvironmentFault, NnUNetError
from nnunet_bridge.formats.nifti import LPS_FROM_RAS
from nnunet_bridge.nnunet.names import Dataset
from nnunet_bridge.pipeline.prediction.options import PredictionOptions
from nnunet_bridge.pipeline.prediction.predict import predict_images

NAMES = tuple(f"leg_{number}" for number in range(1, 5))


class Failing(StandIn):
    """Predicts one image after the other, as nnU-Net does, and dies at some."""

    def __init__(self, bad, error=NnUNetError):
        super().__init__()
        self._bad, self._error, self.seen = bad, error, []

    def __call__(self, model, work, resources, *, advanced):
        images = sorted((work / "images").glob("*.nii.gz"))
        names = [file.name.removesuffix("_0000.nii.gz") for file in images]
        self.seen.append(names)
        (work / "predicted").symlink_to(work / model.configurations[0])
        bad = [name for name in names if name in self._bad]
        for file, name in zip(images, names, strict=True):
            if bad and name >= bad[0]:
                file.unlink()  # the dead process never came to it
        folder = super().__call__(model, work, resources, advanced=advanced)
        if bad:
            raise self._error(f"nnU-Net failed on {bad[0]}")
        return folder


@pytest.fixture
def predict(tmp_path):
    dataset = Dataset(finished_workspace(tmp_path), DATASET)
    for number, name in enumerate(NAMES):
        image_with_bone(tmp_path / "in" / f"{name}.nii.gz", 20, 30 + number)

    def call(network, names=NAMES):
        return predict_images(
            dataset,
            [tmp_path / "in" / f"{name}.nii.gz" for name in names],
            tmp_path / "out",
            PredictionOptions(device="cpu"),
            network=network,
        )

    return call


def outcomes(summary):
    return {case["case"]: case["outcome"] for case in summary.as_json()["cases"]}


@pytest.mark.parametrize("bad", [{"leg_4"}, {"leg_1", "leg_2"}])
def test_an_image_on_which_nnunet_fails_is_named_and_the_others_are_predicted(
    predict, tmp_path, bad
):
    summary = predict(Failing(bad))

    assert summary.exit_code == 4
    assert {n for n, how in outcomes(summary).items() if how == "refused"} == bad
    for name in set(NAMES) - bad:
        assert (tmp_path / "out" / name / "labels.nii.gz").is_file()
    for case in summary.cases:
        if case.case_id in bad:
            assert case.messages == (f"nnU-Net failed on {case.case_id}",)


def test_what_was_predicted_before_a_failure_is_not_predicted_again(predict):
    network = Failing({"leg_2"})

    predict(network)

    assert network.seen == [list(NAMES), ["leg_2"], ["leg_3", "leg_4"]]


def test_nnunet_that_fails_on_every_image_ends_with_its_own_error(predict):
    with pytest.raises(NnUNetError) as caught:
        predict(Failing(set(NAMES)))

    assert {case.case_id for case in caught.value.reports} == set(NAMES)
    assert caught.value.exit_code == 7


def test_a_fault_of_the_machine_ends_the_batch_and_keeps_the_report(predict):
    with pytest.raises(EnvironmentFault):
        predict(Failing({"leg_3"}, EnvironmentFault))


def written(file, voxels, affine=None, **fields):
    affine = LPS_FROM_RAS @ (GRID.affine if affine is None else affine)
    image = nibabel.Nifti1Image(voxels, affine)
    image.set_sform(affine, 1)
    for name, value in fields.items():
        image.header[name] = value
    nibabel.save(image, file)


BRIGHT = np.full(GRID.shape, 1500, np.int16)
NOISE = np.random.default_rng(1).integers(0, 200, GRID.shape).astype(np.int16)
WITH_NAN = NOISE.astype(np.float32)
WITH_NAN[3:6, 3:6, 3:6] = np.nan
WITH_INF = NOISE.astype(np.float32)
WITH_INF[0, 0, 0] = -np.inf


def scaled(in_plane, between):
    return GRID.affine @ np.diag([in_plane, in_plane, between, 1])


BAD_IMAGES = {
    "zeros": ("P11", lambda file: written(file, np.zeros_like(NOISE))),
    "bright": ("P11", lambda file: written(file, BRIGHT)),
    "nan": ("P11", lambda file: written(file, WITH_NAN)),
    "inf": ("P11", lambda file: written(file, WITH_INF)),
    "tiny": ("G13", lambda file: written(file, NOISE, scaled(1e-3, 1e-3))),
    "metres": ("G13", lambda file: written(file, NOISE, xyzt_units=1)),
    "thick": ("G13", lambda file: written(file, NOISE, scaled(1, 11))),
    "coarse": ("G13", lambda file: written(file, NOISE, scaled(11, 9))),
    "damaged": ("K19", lambda file: file.write_bytes(b"damaged")),
    "colours": ("K08", lambda file: written(file, np.stack([NOISE] * 3, -1))),
}


def test_a_nifti_image_is_checked_as_a_dicom_series_is(predict, tmp_path):
    for name, (_, make) in BAD_IMAGES.items():
        make(tmp_path / "in" / f"{name}.nii.gz")

    summary = predict(StandIn(), (*BAD_IMAGES, "leg_1"))

    assert summary.exit_code == 4
    assert {case.case_id: case.codes for case in summary.cases} == {
        "leg_1": (),
        **{name: (code,) for name, (code, _) in BAD_IMAGES.items()},
    }
    assert {name for name, how in outcomes(summary).items() if how == "refused"} == set(
        BAD_IMAGES
    )
    assert not (tmp_path / "out" / "zeros").exists()


def test_P11_a_slice_of_one_value_inside_a_file_is_warned_of(predict, tmp_path):
    voxels = NOISE.copy()
    voxels[:, :, :2] = 0
    voxels[:, :, 30] = 7
    written(tmp_path / "in" / "leg_2.nii.gz", voxels)

    case = predict(StandIn(), ["leg_2"]).cases[0]

    assert (str(case.outcome), case.codes) == ("warned", ("P11",))
    assert "1 slice holds one value only, inside the stack: 30." in case.messages[0]


def test_F10_an_image_for_which_memory_does_not_suffice_is_refused(
    predict, monkeypatch
):
    def read(path, *options, **words):
        if path.name.startswith("leg_3"):
            raise MemoryError
        return original(path, *options, **words)

    module = "nnunet_bridge.pipeline.ingest.channels.read_image"
    from nnunet_bridge.pipeline.ingest.inputs import read_image as original

    monkeypatch.setattr(module, read)

    summary = predict(StandIn(), ["leg_3", "leg_4"])

    assert summary.exit_code == 4
    assert summary.cases[0].codes == ("F10",)
    assert outcomes(summary)["leg_4"] == "accepted"


@pytest.mark.parametrize("command", ["predict", "clean", "score", "mesh", "check"])
def test_the_json_of_a_command_that_fails_has_cases_too(tmp_path, monkeypatch, command):
    (tmp_path / "in").mkdir()
    words = {
        "predict": ["1", "in", "-o", "out"],
        "clean": ["in", "out"],
        "score": ["in", "in", "-o", "out"],
        "mesh": ["in", "-o", "out"],
        "check": ["in", "-r", "no.toml"],
    }[command]
    monkeypatch.chdir(tmp_path)

    result = CliRunner().invoke(main, [command, *words, "--json", "-q"])

    assert result.exit_code != 0
    assert json.loads(result.stdout)["cases"] == []
