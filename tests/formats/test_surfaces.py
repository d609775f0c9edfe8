"""Surface files: every form, the refusals by name, and hostile files."""

import os

import numpy as np
import pytest
import trimesh

from nnunet_bridge.core.findings import Outcome, Refused
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.formats.mesh_files import FRAMES, MeshFileOptions, write_mesh_files
from nnunet_bridge.formats.surfaces import filled_surface, read_surface
from nnunet_bridge.ops.surface import surfaces_of
from nnunet_bridge.ops.surface_frame import frame_by_image

CENTRE = np.array([-31.0, 42.0, 510.0])
BALL = trimesh.creation.icosphere(3, radius=14)
GRID = Grid(
    (40, 44, 16),
    np.array([[0, 1, 0, -53], [1, 0, 0, 22], [0, 0, -3, 533], [0, 0, 0, 1]], float),
)


def vtk(points, faces, *, binary, version=(4, 2), kind="float", cells="POLYGONS"):
    """Return a legacy VTK file as the VTK User's Guide describes it."""

    def numbers(array, stored):
        if binary:
            return np.asarray(array).astype(stored).tobytes() + b"\n"
        return (" ".join(map(str, np.ravel(array).tolist())) + "\n").encode()

    size = faces.shape[1]
    form = "BINARY" if binary else "ASCII"
    text = f"# vtk DataFile Version {version[0]}.{version[1]}\nx SPACE=RAS\n{form}\n"
    text += f"DATASET POLYDATA\nPOINTS {len(points)} {kind}\n"
    content = text.encode() + numbers(points, {"float": ">f4", "double": ">f8"}[kind])
    content += b"METADATA\nINFORMATION 0\n\n"
    content += b"LINES 1 3\n" + numbers([2, 0, 1], ">i4")
    if version < (5, 0):
        content += f"\n{cells} {len(faces)} {faces.size + len(faces)}\n".encode()
        content += numbers(np.insert(faces, 0, size, axis=1), ">i4")
    else:
        content = content.replace(b"LINES 1 3\n" + numbers([2, 0, 1], ">i4"), b"")
        content += f"{cells} {len(faces) + 1} {faces.size}\n".encode()
        offsets = np.arange(len(faces) + 1) * size
        content += b"OFFSETS vtktypeint64\n" + numbers(offsets, ">i8")
        content += b"CONNECTIVITY vtktypeint64\n" + numbers(faces, ">i8")
    return content + b"\nPOINT_DATA 1\nSCALARS a float\n"


def quads(mesh):
    """Return a box of six squares."""
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    faces = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4]]
    return corners * 20.0 + mesh, np.array([*faces, [1, 5, 7, 3]])


POINTS = BALL.vertices + CENTRE
AT = trimesh.Trimesh(POINTS, BALL.faces, process=False)
FORMS = {
    "binary.ply": AT.export(file_type="ply"),
    "text.ply": AT.export(file_type="ply", encoding="ascii"),
    "binary.stl": AT.export(file_type="stl"),
    "text.stl": AT.export(file_type="stl_ascii"),
    "plain.obj": AT.export(file_type="obj"),
    "CAPITALS.PLY": AT.export(file_type="ply"),
    **{
        f"{kind} {'binary' if binary else 'text'} {version[0]}.vtk": vtk(
            POINTS, BALL.faces, binary=binary, version=version, kind=kind
        )
        for kind in ("float", "double")
        for binary in (True, False)
        for version in ((3, 0), (5, 1))
    },
}


def written(folder, name, content):
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def mask(file, frame="LPS", grid=GRID):
    return filled_surface(read_surface(file), grid, frame=frame, name="tibia")


@pytest.mark.parametrize("name", FORMS)
def test_every_form_becomes_the_same_ball(name, tmp_path):
    found = mask(written(tmp_path, name, FORMS[name]))

    indices = np.stack(np.meshgrid(*map(np.arange, GRID.shape), indexing="ij"), -1)
    away = np.linalg.norm(GRID.to_patient(indices) - CENTRE, axis=-1)
    sure = np.abs(away - 13.9) > 0.15
    np.testing.assert_array_equal(found.voxels[sure], away[sure] < 13.9)
    assert (found.file, found.findings) == (name, ())


@pytest.mark.parametrize("binary", [True, False])
def test_polygons_and_strips_of_vtk_are_split(binary, tmp_path):
    points, faces = quads(CENTRE - 10)
    strips = faces[:, [0, 1, 3, 2]]

    for form, cells in ((faces, "POLYGONS"), (strips, "TRIANGLE_STRIPS")):
        content = vtk(points, form, binary=binary, cells=cells)
        surface = read_surface(written(tmp_path, "a.vtk", content))
        assert len(surface.faces) == 12
        assert abs(trimesh.Trimesh(surface.points, surface.faces).volume) == (
            pytest.approx(8000)
        )
        assert surface.frame == "RAS"


@pytest.mark.parametrize("file_format", ["ply", "stl", "obj"])
@pytest.mark.parametrize("frame", FRAMES)
def test_mesh_and_back_is_the_mask_and_the_frame_is_read(frame, file_format, tmp_path):
    table = LabelTable.from_names(["tibia"])
    rng = np.random.default_rng(3)
    drawn = np.zeros(GRID.shape, np.uint8, order="F")
    drawn[5:30, 8:36, 3:12] = rng.random((25, 28, 9)) < 0.7
    drawn[0, 0, 0] = 1  # up to the border of the image
    mesh = surfaces_of(Labelmap(GRID, drawn, table))["tibia"]
    options = MeshFileOptions(frame=frame, file_format=file_format)
    file = write_mesh_files(tmp_path, [mesh], options)["tibia"]

    surface = read_surface(file)

    assert surface.frame == frame
    back = filled_surface(surface, GRID, frame=surface.frame, name="tibia").voxels
    assert 2 * (back & (drawn > 0)).sum() / (back.sum() + drawn.sum()) >= 0.99


def ply(points, faces):
    return trimesh.Trimesh(points, faces, process=False).export(file_type="ply")


def crossing():
    second = BALL.vertices + CENTRE + [7, 3, 0]
    faces = np.concatenate([BALL.faces, BALL.faces + len(POINTS)])
    return ply(np.concatenate([POINTS, second]), faces)


def turned():
    faces = BALL.faces.copy()
    faces[5] = faces[5][::-1]
    return ply(POINTS, faces)


REFUSED = {
    "open": ("K26", "not closed: 3 edges", lambda: ply(POINTS, BALL.faces[1:])),
    "one face turned": ("K26", "turned against", turned),
    "crossing itself": ("K26", "crosses itself", crossing),
    "metres": ("K12", "metres", lambda: ply(POINTS / 1000, BALL.faces)),
    "microns": ("K12", "microns", lambda: ply(POINTS * 1000, BALL.faces)),
    "elsewhere": ("K05", "outside the image", lambda: ply(POINTS + 90, BALL.faces)),
    "half outside": ("K02", "outside the image", lambda: ply(POINTS + 17, BALL.faces)),
    "no faces": ("K14", "no faces", lambda: ply(POINTS, BALL.faces[:0])),
    "between voxels": (
        *("K14", "no voxel"),
        lambda: ply(
            BALL.vertices * [0.03, 0.09, 0.03] + [-31.5, 42.5, 511.5], BALL.faces
        ),
    ),
    "NaN": (
        "K19",
        "",
        lambda: ply(np.where(POINTS[7] == POINTS, np.nan, POINTS), BALL.faces),
    ),
    "empty": ("K19", "", lambda: b""),
    "text": ("K19", "", lambda: b"this is no surface\n" * 9),
    "cut off": ("K19", "", lambda: FORMS["binary.ply"][:-700]),
    "announces too much": (
        *("S07", "more elements"),
        lambda: FORMS["binary.ply"].replace(b"face 1280", b"face 1999999999"),
    ),
    "points beyond": (
        *("K19", ""),
        lambda: FORMS["text.ply"].replace(b"element vertex 642", b"element vertex 64"),
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_K26_a_surface_that_is_no_body_in_the_image_is_refused_by_name(fault, tmp_path):
    code, words, content = REFUSED[fault]
    file = written(tmp_path, "Tibia_R.ply", content())

    with pytest.raises(Refused) as caught:
        mask(file)

    assert caught.value.code == code, str(caught.value)
    assert words in str(caught.value)
    assert "“Tibia_R.ply”" in str(caught.value)


def test_K02_a_tip_outside_is_left_out_with_a_warning(tmp_path):
    """The last voxels of a long body: fewer than one in a thousand."""
    box = trimesh.creation.box(bounds=[[-50, 25, 487], [-16, 60, 532]])
    tip = trimesh.creation.box(bounds=[[-50, 25, 532], [-48.5, 26.5, 537]])
    faces = np.concatenate([box.faces, tip.faces + 8])
    content = ply(np.concatenate([box.vertices, tip.vertices]), faces)

    found = mask(written(tmp_path, "a.ply", content))

    assert [(f.code, f.outcome) for f in found.findings] == [("K02", Outcome.WARNED)]


def test_no_file_beside_a_surface_is_opened(tmp_path):
    secret = tmp_path / "other.mtl"
    os.mkfifo(secret)  # to open it would block for ever
    text = f"mtllib other.mtl\nmtllib {secret}\nusemtl x\n{FORMS['plain.obj']}"
    textured = (
        FORMS["text.ply"]
        .replace(b"ply\n", b"ply\n", 1)
        .replace(
            b"\nelement vertex", b"\ncomment TextureFile other.mtl\nelement vertex", 1
        )
    )

    for name, content in (("a.obj", text), ("a.ply", textured)):
        assert mask(written(tmp_path, name, content)).voxels.any()


def body(shape=GRID.shape):
    """Return an image with a ball in a cylinder, none of them symmetrical."""
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    place = GRID.to_patient(indices)
    ball = np.linalg.norm(place - CENTRE, axis=-1) < 14
    return Volume(GRID, (100 + 300 * ball + indices[..., 0]).astype(np.int16))


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("centred", [True, False])
def test_K27_the_frame_is_the_one_that_fits_the_image(frame, centred):
    volume = body()
    if centred:  # so that both frames lie in the image
        affine = GRID.affine.copy()
        affine[:2, 3] -= GRID.middle_mm[:2]
        volume = Volume(Grid(GRID.shape, affine), volume.voxels)
    away = GRID.middle_mm * [1, 1, 0] if centred else 0
    points = (POINTS - away) * np.array(FRAMES[frame])

    found, finding = frame_by_image(volume, [(points, BALL.faces)], FRAMES)

    assert found == frame
    assert (finding.code, finding.outcome) == ("K27", Outcome.FIXED)
    assert f"read as {frame}" in finding.message


def test_K27_a_surface_that_fits_both_frames_alike_is_refused():
    middle = (np.array(GRID.shape) - 1) / 2
    affine = np.diag([1.0, 1, 3, 1])
    affine[:3, 3] = -affine[:3, :3] @ middle
    noise = np.random.default_rng(1).integers(90, 110, GRID.shape).astype(np.int16)
    volume = Volume(Grid(GRID.shape, affine), noise)

    with pytest.raises(Refused, match=r"masks\.frame") as caught:
        frame_by_image(volume, [(BALL.vertices, BALL.faces)], FRAMES)
    assert caught.value.code == "K27"

    with pytest.raises(Refused, match="outside the image in both") as caught:
        frame_by_image(volume, [(BALL.vertices + 400, BALL.faces)], FRAMES)
    assert caught.value.code == "K05"
