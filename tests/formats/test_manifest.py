"""The manifest and its key: provenance without identity."""

import json
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.spatial.transform import Rotation

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.records import NewerVersionError
from nnunet_bridge.formats.files import sha256_of
from nnunet_bridge.formats.manifest import (
    SCHEMA,
    CaseRecord,
    ContentRecord,
    GeometryRecord,
    Manifest,
    ManifestStore,
    MaskRecord,
    RegionRecord,
    check_files,
    counted_by_case,
    patients_of,
    read_manifest,
    recorded_region,
    require_sound,
    salt_of,
    write_manifest,
)

GOLDEN = Path(__file__).parents[1] / "golden"


def test_a_dataset_without_manifest_is_counted_by_case_and_says_so(tmp_path):
    assert patients_of(tmp_path, ["a", "b"]) == {"a": "a", "b": "b"}
    assert "each case is counted as a patient" in counted_by_case(tmp_path)


def test_patients_are_read_by_case_and_the_person_overrules_the_code(tmp_path):
    known = [{"case": "a", "patient": "1f"}, {"case": "b", "patient": "2f"}]
    known[1]["person"] = "3f"
    write_manifest(tmp_path, {"cases": known})

    assert patients_of(tmp_path, ["a", "b", "c"]) == {"a": "1f", "b": "3f", "c": "c"}
    assert counted_by_case(tmp_path) == ""


WAY_OUT = "remove it and run `convert` again."


@pytest.mark.parametrize("content", ["{", "[]", '{"cases": []}'])
def test_a_damaged_manifest_is_refused_by_name(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)

    with pytest.raises(InputError, match=r"manifest\.json is damaged") as refused:
        read_manifest(tmp_path)
    assert str(refused.value).endswith(WAY_OUT)


@pytest.mark.parametrize(
    ("part", "place"),
    [
        ({"masks": [{"side": "left"}]}, "masks.0.structure"),
        ({"masks": [{"structure": "a", "voxels_after": "?"}]}, "masks.0.voxels_after"),
        ({"overlaps": [{"structures": ["tibia"]}]}, "overlaps.0.structures.1"),
        ({"content": {"blocks": "many"}}, "content.blocks"),
        ({"rescale": {"slopes": 1}}, "rescale.slopes"),
    ],
)
def test_a_damaged_part_of_a_case_is_named(tmp_path, part, place):
    write_manifest(tmp_path, {"cases": [{"case": "a", **part}]})

    with pytest.raises(
        InputError, match=rf"manifest\.json is damaged: cases\.0\.{place}"
    ):
        read_manifest(tmp_path)


def test_a_manifest_of_a_newer_version_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "manifest.json").write_text('{"schema": 99, "cases": []}')

    text = r"schema 99 of the record .*manifest\.json: update nnunet-bridge or remove"
    with pytest.raises(NewerVersionError, match=text):
        read_manifest(tmp_path)


def test_a_manifest_of_schema_4_is_written_as_it_was_read(tmp_path):
    """It was written before masks, overlaps and content had types."""
    shutil.copy(GOLDEN / "manifest_schema_4.json", tmp_path / "manifest.json")

    manifest = read_manifest(tmp_path)

    assert manifest.as_json() == json.loads((tmp_path / "manifest.json").read_text())
    case = manifest.by_case()["msk_001"]
    (overlap,) = case.overlaps
    assert overlap.structures == ("tibia", "femur")
    shared = {mask.structure: mask.voxels_overlapping for mask in case.masks}
    assert shared["femur"] == {"tibia": overlap.voxels}
    assert (case.channels, case.partly_drawn, case.visit) == (("MRI",), None, None)


def test_F13_the_key_is_made_once_and_its_owner_alone_reads_it(tmp_path):
    raw_dir = tmp_path / "nnUNet_raw"

    key = salt_of(raw_dir)

    file = tmp_path / ".nnunet_bridge" / "key"
    assert salt_of(raw_dir) == key == file.read_bytes()
    assert len(key) == 32
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not raw_dir.exists()


def test_F13_a_key_is_never_exchanged_for_another(tmp_path, monkeypatch):
    """Two runs begin at once: the second finds no key, and then one."""
    raw_dir = tmp_path / "nnUNet_raw"
    key = salt_of(raw_dir)

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.is_file", lambda _: False)
        assert salt_of(raw_dir) == key
    assert [file.name for file in (tmp_path / ".nnunet_bridge").iterdir()] == ["key"]


def test_F13_a_file_system_without_hard_links_gets_its_key_too(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError

    monkeypatch.setattr("os.link", no_links)

    assert len(salt_of(tmp_path / "nnUNet_raw")) == 32


def test_a_manifest_that_names_files_outside_its_dataset_is_refused(tmp_path):
    """Else `convert` would remove them, as outputs of a case that has changed."""
    for name in ("../../precious", "/etc/passwd", "imagesTr/../../x", "imagesTr/.x"):
        outputs = [{"file": name, "sha256": ""}]
        write_manifest(tmp_path, {"cases": [{"case": "a", "outputs": outputs}]})

        with pytest.raises(InputError, match="outside its dataset"):
            read_manifest(tmp_path)


def test_F04_strays_and_losses_are_both_named(tmp_path):
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "imagesTr" / "._x.nii.gz").touch()
    (tmp_path / "imagesTr" / ".x.nii.gz.host.1.ab.partial").touch()
    outputs = [{"file": "imagesTr/a_0000.nii.gz"}]
    write_manifest(tmp_path, {"cases": [{"case": "a", "outputs": outputs}]})

    messages = [finding.message for finding in check_files(tmp_path)]

    assert len(messages) == 2
    assert "._x.nii.gz" in messages[0]
    assert "imagesTr/a_0000.nii.gz is missing" in messages[1]


def record(number):
    outputs = [{"file": f"imagesTr/c_{number:03d}_0000.nii.gz", "sha256": "0" * 64}]
    inputs = [{"name": f"{n:016x}", "state": "used"} for n in range(20)]
    return CaseRecord(case=f"c_{number:03d}", outputs=outputs, inputs=inputs)


def finished(complete=True, cases=()):
    return Manifest(schema_version=SCHEMA, complete=complete, cases=cases)


def bytes_written(dataset_dir, cases):
    """Add cases one by one, then join them; return what this process wrote."""
    before = written_so_far()
    store = ManifestStore(dataset_dir)
    store.open(finished(), ())
    for number in range(cases):
        store.add(record(number))
    store.close(finished(cases=tuple(map(record, range(cases)))))
    return written_so_far() - before


def written_so_far():
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("wchar")))


def test_what_is_written_grows_with_the_cases_and_not_with_their_square(tmp_path):
    once, four_times = (bytes_written(tmp_path / str(n), n) for n in (100, 400))

    assert four_times <= 4.4 * once
    assert len(read_manifest(tmp_path / "400").cases) == 400
    assert [file.name for file in (tmp_path / "400").iterdir()] == ["manifest.json"]


def test_F07_until_the_records_are_joined_the_manifest_itself_lists_no_case(tmp_path):
    store = ManifestStore(tmp_path)
    store.open(finished(), ())
    store.add(record(1))
    store.add(record(2))
    store.remove("c_001")

    alone = json.loads((tmp_path / "manifest.json").read_text())
    assert (alone["complete"], alone["cases"]) == (False, [])
    assert [case.case for case in read_manifest(tmp_path).cases] == ["c_002"]
    with pytest.raises(InputError, match="interrupted"):
        require_sound(tmp_path)


def test_F07_a_store_goes_on_where_another_one_was_killed(tmp_path):
    first = ManifestStore(tmp_path)
    first.open(finished(), ())
    first.add(record(1))

    second = ManifestStore(tmp_path)
    assert second.is_open
    second.add(record(2))

    assert set(read_manifest(tmp_path).by_case()) == {"c_001", "c_002"}


def test_F07_records_that_a_kill_left_beside_a_complete_manifest_are_removed(tmp_path):
    ManifestStore(tmp_path).close(finished(cases=(record(1),)))
    stale = tmp_path / "manifest.cases" / "c_002.json"
    stale.parent.mkdir()
    stale.write_text(json.dumps(record(2).as_json()))

    assert set(read_manifest(tmp_path).by_case()) == {"c_001"}
    store = ManifestStore(tmp_path)
    store.open(finished(), store.manifest.cases)

    assert set(read_manifest(tmp_path).by_case()) == {"c_001"}


@pytest.mark.parametrize("schema", [1, 2, 3])
def test_an_interrupted_manifest_of_an_older_schema_is_taken_up(tmp_path, schema):
    cases = [record(1).as_json(), record(2).as_json()]
    content = {"schema": schema, "complete": False, "cases": cases}
    (tmp_path / "manifest.json").write_text(json.dumps(content))

    store = ManifestStore(tmp_path)
    store.open(finished(), store.manifest.cases)
    store.remove("c_001")

    assert store.manifest.schema_version == schema
    assert set(read_manifest(tmp_path).by_case()) == {"c_002"}


def test_a_record_is_written_as_it_was_read(tmp_path):
    content = {"schema": 3, "complete": True, "cases": [record(1).as_json()]}
    (tmp_path / "manifest.json").write_text(json.dumps(content))

    assert read_manifest(tmp_path).as_json() == content


def test_the_contrast_of_schema_2_is_read_from_its_group():
    group = "ORIGINAL\\PRIMARY\\WATER, 32 x 32, TE 2.46 ms, echo 1"
    contrast = CaseRecord(case="a", group=group).contrast

    assert contrast.image_type == ("ORIGINAL", "PRIMARY", "WATER")
    assert contrast.echo_time_ms == 2.46


def test_a_case_without_a_group_or_with_a_contrast_is_read_as_it_stands():
    assert CaseRecord(case="a").contrast is None
    known = CaseRecord(case="a", group="M, 32 x 32", contrast={"image_type": ["W"]})
    assert known.contrast.image_type == ("W",)
    with pytest.raises(ValidationError):
        CaseRecord.model_validate("a")


def test_F13_the_folder_of_the_key_is_made_with_those_above_it(tmp_path):
    raw_dir = tmp_path / "new" / "workspace" / "nnUNet_raw"

    assert len(salt_of(raw_dir)) == 32
    assert (tmp_path / "new" / "workspace" / ".nnunet_bridge" / "key").is_file()


def test_a_recorded_geometry_is_the_grid_of_its_image():
    turn = Rotation.from_rotvec([0.3, -1.2, 2.0]).as_matrix()
    record = GeometryRecord(
        shape=(5, 6, 7),
        spacing_mm=(0.5, 0.75, 4.0),
        direction=tuple(turn.T.ravel()),  # i, j and k, one after the other
        origin_mm=(-12.5, 30.0, 900.0),
    )

    affine = np.eye(4)
    affine[:3] = np.column_stack([turn * [0.5, 0.75, 4.0], [-12.5, 30.0, 900.0]])
    assert record.grid().displacement_mm(Grid((5, 6, 7), affine)) < 1e-4


def test_a_record_of_all_slices_has_no_region():
    unknown = RegionRecord()
    assert unknown.region() is None
    assert (unknown.first_slice, unknown.end_slice, unknown.slices_before) == (0, 0, 0)
    kept = RegionRecord(
        first_slice=2, end_slice=5, shape_before=(3, 4, 9), affine_before=np.eye(4)
    )
    assert (kept.region().first, kept.region().end) == (2, 5)
    assert kept.model_copy(update={"first_slice": 0, "end_slice": 9}).region() is None


def test_what_an_older_record_does_not_say_is_neither_found_nor_judged():
    mask, content = MaskRecord(structure="tibia"), ContentRecord()

    assert (mask.voxels_before, mask.voxels_after, mask.voxels_outside) == (0, 0, 0)
    assert (mask.volume_change, mask.voxels_overlapping) == (0.0, {})
    assert (content.judged, content.blocks, content.fits_better) == (False, 0, "")
    assert (content.contrast, content.best_contrast, content.z) == (0.0, 0.0, 0.0)


def test_the_region_of_an_image_is_recorded_while_the_image_is_the_same(tmp_path):
    image, other = (tmp_path / "imagesTr" / f"{c}_0000.nii.gz" for c in "ab")
    image.parent.mkdir()
    image.write_bytes(b"voxels")
    other.write_bytes(b"voxels")
    region = {"first_slice": 2, "end_slice": 5, "slices_before": 9}
    region |= {"shape_before": (3, 4, 9), "affine_before": np.eye(4).tolist()}
    outputs = [{"file": "imagesTr/a_0000.nii.gz", "sha256": sha256_of(image)}]
    uncropped = [{"file": "imagesTr/b_0000.nii.gz", "sha256": sha256_of(other)}]
    cases = [
        {"case": "b", "outputs": uncropped},
        {"case": "a", "outputs": outputs, "region": region},
    ]
    write_manifest(tmp_path, {"cases": cases})

    assert (recorded_region(image).first, recorded_region(image).end) == (2, 5)
    assert recorded_region(other) is None
    image.write_bytes(b"others")
    assert recorded_region(image) is None
