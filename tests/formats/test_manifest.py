"""The manifest and its key: provenance without identity."""

import stat

import pytest

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.formats.manifest import (
    check_files,
    read_manifest,
    read_patient_groups,
    salt_of,
    write_manifest,
)


def test_a_dataset_without_manifest_has_no_groups(tmp_path):
    assert read_patient_groups(tmp_path) == {}


def test_the_groups_are_read_by_case(tmp_path):
    write_manifest(tmp_path, {"cases": [{"case": "a", "patient": "1f"}]})

    assert read_patient_groups(tmp_path) == {"a": "1f"}


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"cases": []}', '{"schema": 99, "cases": []}']
)
def test_a_damaged_or_newer_manifest_is_refused(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)

    with pytest.raises(InputError, match=r"manifest\.json"):
        read_manifest(tmp_path)


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
