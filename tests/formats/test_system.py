"""What Windows lacks has a fallback, and only `formats.system` knows the difference.

Linux is the only system here: the tests take away what Windows does not have. Which
names that are is looked up in typeshed, the stubs of the standard library.
"""

import ast
import errno
import functools
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mypy
import pytest
from file_states import file_states
from small_study import four_patients, recipe

from nnunet_bridge.core.errors import EnvironmentFault, SecurityError
from nnunet_bridge.formats import files, memory, system
from nnunet_bridge.formats.dicom import walker
from nnunet_bridge.formats.recipe import match_name
from nnunet_bridge.formats.system import Ending
from nnunet_bridge.pipeline.ingest.convert import convert_study

PACKAGE = Path(files.__file__).parents[1]
STUBS = Path(mypy.__file__).parent / "typeshed" / "stdlib"
OTHERS = ("win32", "darwin")


def stub_of(module):
    place = STUBS.joinpath(*module.split("."))
    return place / "__init__.pyi" if place.is_dir() else place.with_suffix(".pyi")


def holds(condition, platform):
    """Whether a condition of a stub is true on a system, under this Python."""
    facts = SimpleNamespace(platform=platform, version_info=sys.version_info)
    try:
        return bool(eval(ast.unparse(condition), {"sys": facts}))  # noqa: S307 - of typeshed
    except (NameError, AttributeError):
        return True


def names_in(body, platform, package):
    """Yield the names that a stub declares for a system."""
    for node in body:
        if isinstance(node, ast.If):
            chosen = node.body if holds(node.test, platform) else node.orelse
            yield from names_in(chosen, platform, package)
        elif isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            inner = f"{package}." if node.level else ""
            yield from names_of(f"{inner}{node.module}", platform)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign):
            yield ast.unparse(node.target)
        elif isinstance(node, ast.Assign):
            yield from map(ast.unparse, node.targets)


@functools.cache
def names_of(module, platform):
    body = ast.parse(stub_of(module).read_text("utf-8")).body
    return set(names_in(body, platform, module))


def used_names(tree):
    """Yield (module, name) of what a file takes from the standard library."""
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known = [a for a in node.names if stub_of(a.name).exists()]
            modules.update({a.asname or a.name: a.name for a in known})
        elif isinstance(node, ast.ImportFrom) and stub_of(node.module).exists():
            yield from ((node.module, alias.name) for alias in node.names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in modules:
            yield modules[ast.unparse(node.value)], node.attr


def missing_elsewhere(tree):
    """Return the (system, module, name) that a system other than Linux lacks."""
    return {
        (platform, module, name)
        for module, name in used_names(tree)
        for platform in OTHERS
        if not name.startswith("_")
        and name not in names_of(module, platform)
        and not stub_of(f"{module}.{name}").exists()
    }


def test_no_other_module_names_what_only_some_systems_have():
    found = {
        (file.relative_to(PACKAGE).as_posix(), *missing)
        for file in PACKAGE.rglob("*.py")
        for missing in missing_elsewhere(ast.parse(file.read_text("utf-8")))
        if file != Path(system.__file__)
    }

    assert found == set(), "move it to formats/system.py, with a fallback"


@pytest.mark.parametrize(
    "code",
    [
        *("import fcntl; fcntl.flock(f, 2)", "from resource import getrlimit"),
        *("import os; os.killpg(1, 9)", "import signal as s; s.SIGKILL"),
    ],
)
def test_the_rule_sees_what_windows_lacks(code):
    assert {p for p, *_ in missing_elsewhere(ast.parse(code))} == {"win32"}


@pytest.fixture
def windows(monkeypatch):
    """Take away what `formats.system` uses and Windows does not have."""
    tree = ast.parse(Path(system.__file__).read_text("utf-8"))
    lacking = {(m, n) for p, m, n in missing_elsewhere(tree) if p == "win32"}
    modules = {"os": os, "signal": signal}
    flags = [("os", "O_NOFOLLOW"), ("os", "O_DIRECTORY")]
    assert ("os", "killpg") in lacking
    for module, name in [*lacking, *flags]:
        monkeypatch.delattr(modules[module], name, raising=False)
    monkeypatch.setattr(system, "fcntl", None)
    monkeypatch.setattr(system, "resource", None)
    monkeypatch.setattr(walker, "read_at", system.seek_and_read)
    monkeypatch.setattr(system, "read_at", system.seek_and_read)


class Kernel32:
    """The few functions of Windows that the package calls; `running` are processes."""

    running = (4,)

    def OpenProcess(self, _access, _inherit, number):
        return number if number in (*self.running, 5) else 0

    def WaitForSingleObject(self, handle, _wait):
        return 0x102 if handle in self.running else 0  # 5 has ended, its handle is open

    def GetLastError(self):
        return 87

    def CloseHandle(self, handle):
        assert handle

    def GlobalMemoryStatusEx(self, status):
        status._obj.total, status._obj.free = 8 << 30, 3 << 30


def images_in(work):
    states = file_states(work).items()
    return {file: sha for file, (sha, _) in states if file.endswith(".nii.gz")}


def test_a_study_is_converted_to_the_same_files(tmp_path, request):
    study, here, there = (tmp_path / name for name in ("study", "here", "there"))
    four_patients(study)
    convert_study(study, recipe(), here / "nnUNet_raw")
    request.getfixturevalue("windows")

    done = convert_study(study, recipe(), there / "nnUNet_raw")

    assert done.exit_code == 0
    assert images_in(there) == images_in(here)
    assert len(images_in(there)) == 7  # 4 images, 3 with labels


@pytest.mark.usefixtures("windows")
def test_S11_a_link_is_not_written_through(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("precious")
    link.symlink_to(target)

    with pytest.raises(SecurityError, match="a link lies there"):
        files.open_to_write(link)

    assert target.read_text() == "precious"


@pytest.mark.usefixtures("windows")
def test_F08_a_locked_file_can_be_told_though_nobody_may_read_it(tmp_path, monkeypatch):
    held = set()

    class Msvcrt:
        LK_NBLCK, LK_UNLCK = 2, 0

        def locking(self, descriptor, how, _bytes):
            node = os.fstat(descriptor).st_ino
            if how == self.LK_NBLCK and node in held:
                raise PermissionError(errno.EACCES, "locked")

    monkeypatch.setattr(system, "msvcrt", Msvcrt())
    lock = tmp_path / "lock"
    with files.only_writer(lock, "the dataset"):
        assert lock.read_bytes() == b"", "Windows lets nobody write a locked file"
        held.add(lock.stat().st_ino)
        assert files.is_locked(lock)
        with (
            pytest.raises(EnvironmentFault, match="in use by another process"),
            files.only_writer(lock, "the dataset"),
        ):
            pass
    held.clear()
    assert not files.is_locked(lock)


@pytest.mark.usefixtures("windows")
def test_a_process_and_its_workers_end_by_break_then_taskkill(monkeypatch):
    done = []
    monkeypatch.setattr(os, "kill", lambda *words: done.append(words))
    monkeypatch.setattr(subprocess, "run", lambda words, **_: done.append(words))

    for how in Ending:
        system.end_group(77, how)

    tree = ["taskkill", "/T", "/F", "/PID", "77"]
    assert done == [(77, 1), tree, tree]
    assert system.new_group() == {"creationflags": 0x200}
    assert not system.ended_by(-9, "SIGKILL")


def test_a_parent_of_windows_is_asked_for_by_its_number(monkeypatch):
    monkeypatch.setattr(system, "kernel32", Kernel32())

    assert [system.process_exists(number) for number in (4, 5, 6)] == [
        True,
        False,
        False,
    ]
    assert system.is_child_of(4)
    assert not system.is_child_of(5)


@pytest.mark.usefixtures("windows")
def test_F10_memory_is_what_windows_says(monkeypatch):
    monkeypatch.setattr(system, "kernel32", Kernel32())
    monkeypatch.setattr(memory, "_fields", lambda _file: iter(()))

    assert system.physical_memory_bytes() == 8 << 30
    assert memory.free_memory_bytes(Path("nowhere")) == 3 << 30
    assert system.peak_memory_bytes() is None
    system.limit_memory(1)


@pytest.mark.usefixtures("windows")
def test_without_a_timer_a_pattern_still_matches():
    assert match_name(r"(\d+)_tibia", "12_tibia")[1] == "12"


@pytest.mark.usefixtures("windows")
def test_a_place_in_a_file_is_read_without_pread(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(bytes(range(100)))
    place = bytearray(4)
    with file.open("rb", buffering=0) as stream:
        assert system.seek_and_read(stream.fileno(), 3, 50) == bytes([50, 51, 52])
        assert system.read_into(stream.fileno(), memoryview(place), 10) == 4
    assert bytes(place) == bytes([10, 11, 12, 13])


@pytest.mark.parametrize("folder", [True, False])
def test_where_links_need_an_administrator_a_copy_is_made(
    tmp_path, monkeypatch, folder
):
    def refuse(_self, _target):
        error = OSError("a privilege is not held")
        error.winerror = 1314
        raise error

    monkeypatch.setattr(Path, "symlink_to", refuse)
    target = tmp_path / "target"
    file = target / "file" if folder else target
    file.parent.mkdir(exist_ok=True)
    file.write_text("weights")

    system.link_or_copy(tmp_path / "link", target)

    copy = tmp_path / "link" / "file" if folder else tmp_path / "link"
    assert (copy.read_text(), copy.is_symlink()) == ("weights", False)
