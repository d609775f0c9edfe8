"""Lay small studies out in the many ways of labs: names x arrangement x file forms.

Nothing here uses the package's own reading of names. `Layout.write` returns the truth:
which file belongs to which patient, and what is drawn in it.
"""

import json
import shutil
import unicodedata
import zipfile
from dataclasses import dataclass, field

import nibabel
import nrrd
import numpy as np
import SimpleITK as sitk  # noqa: N813 - its usual name
import trimesh
from dicom_base import base, new_uids, save

SHAPE, SPACING = (16, 16, 5), (2.0, 2.0, 4.0)
BONES = {"tibia": 1, "femur": 2, "fibula": 3, "pelvis": 4}
DRAWN = tuple((bone, side) for bone in BONES for side in ("left", "right"))

WORDS = {
    "en": "tibia femur fibula pelvis left right",
    "capital": "Tibia Femur Fibula Pelvis Left Right",
    "caps": "TIBIA FEMUR FIBULA PELVIS LEFT RIGHT",
    "letters": "tibia femur fibula pelvis L R",
    "small": "tibia femur fibula pelvis l r",
    "abbreviations": "tib fem fib pelv lt rt",
    "common": "shinbone thighbone calfbone hipbone left right",
    "german": "Schienbein Oberschenkel Wadenbein Becken links rechts",
    "german short": "Schienbein Femur Fibula Hüftbein li re",
    "french": "tibia fémur péroné bassin gauche droite",
    "french letters": "Tibia Femur Fibula Bassin G D",
    "spanish": "tibia fémur peroné pelvis izquierda derecha",
    "spanish short": "Tibia Femur Perone Cadera izq der",
    "latin": "Tibia Femur Fibula Pelvis sin dex",
}
IDS = {
    "P": lambda n: f"P{n:02d}",
    "knee": lambda n: f"KNEE-{100 + n}",
    "sub": lambda n: f"sub-{n:02d}",
    "patient": lambda n: f"Patient {n}",
    "number": lambda n: f"{n:04d}",
    "hospital": lambda n: f"{47110 + 13 * n}",
    "word": lambda n: ["anna", "bert", "clara", "david", "emma"][n - 1],
    "code": lambda n: f"S{n}-{chr(64 + n)}{n}X",
    "study": lambda n: f"MSK_{n:03d}_2021",
}
NAMES = {
    "id_bone_side": "{id}_{bone}_{side}",
    "id-side-bone": "{id}-{side}-{bone}",
    "side_bone_id": "{side}_{bone}_{id}",
    "seg_dash": "{id}_seg-{bone}-{side}",
    "words": "Segmentation_{id}_{bone}_{side}_label",
    "hemi": "{id}_hemi-{side}_label-{bone}_dseg",
    "dots": "{id}.{bone}.{side}",
    "spaces": "{bone} {side} ({id}) final",
    "camel": "{Side}{Bone}_{id}",
    "glued": "{id}_{Bone}{Side}",
}
OWN_NAMES = {
    "bone_side": "{bone}_{side}",
    "glued": "{Bone}{Side}",
    "side bone": "{side} {bone}",
}
"""Names without the patient, for masks in the patient's folder."""

IMAGES = ("dicom", "nii.gz", "nrrd", "mha", "zip", "mhd", "hdr")
MASKS = ("nii.gz", "nii", "nrrd", "mha", "nhdr", "mhd", "hdr", "mgz")
SEVERAL = ("labelmap", "seg.nrrd")
TABLES = (
    "labels.txt",
    "snap.txt",
    "colours.ctbl",
    "dataset.json",
    "labels.json",
    "dseg.tsv",
)
SURFACES = ("ply", "stl")


@dataclass
class Truth:
    """What init must find."""

    images: dict = field(default_factory=dict)  # file -> number of the patient
    drawn: dict = field(default_factory=dict)
    """(file, value or None) -> (number, structure, side)."""


@dataclass(frozen=True)
class Layout:
    """One way to keep a study."""

    words: str = "letters"
    ids: str = "P"
    name: str = "id_bone_side"
    place: str = "flat"
    image: str = "dicom"
    mask: str = "nii.gz"
    table: str = "labels.txt"
    one_grid: bool = False
    patients: int = 4

    def write(self, study):
        """Write the study; return the truth."""
        truth = Truth()
        for number in range(1, self.patients + 1):
            own = self.write_patient(study, number)
            truth.images |= own.images
            truth.drawn |= own.drawn
        if self.mask == "labelmap":
            write_table(study / self.table)
        return truth

    def write_patient(self, study, number):
        """Write one patient; return the truth about this one."""
        truth = Truth()
        self._write_image(study, number, truth)
        drawn = drawings(number)
        if self.mask in SEVERAL:
            self._write_several(study, number, drawn, truth)
        else:
            for (bone, side), voxels in drawn.items():
                self._write_mask(study, number, (bone, side), voxels, truth)
        return truth

    def patient(self, number):
        """Return the name of a patient."""
        return IDS[self.ids](number)

    def affine(self, number):
        """Return the place of a patient's scan, RAS."""
        away = 0 if self.one_grid else number
        affine = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1])
        affine[:3, 3] = 20 + away, 10 - 2 * away, -100 + 7 * away
        return affine

    def mask_folder(self, number, bone=""):
        """Return where the masks of a patient lie."""
        who = self.patient(number)
        return {
            "flat": "masks",
            "patient": who,
            "patient masks": f"{who}/segmentations",
            "nested": f"labels/{who}",
            "structures": f"Masken/{bone}" if bone else "Masken",
            "beside": who,
            "one folder": "",
            "bids": f"derivatives/labels/{who}/anat",
            "site": f"site{'AB'[number % 2]}/masks",
        }[self.place]

    def image_folder(self, number):
        """Return where the DICOM files or the image of a patient lie, and its name."""
        who = self.patient(number)
        return {
            "flat": ("scans", who),
            "patient": (who, "dicom"),
            "patient masks": (who, "MRI"),
            "nested": (f"images/{who}", "T1 Dixon"),
            "structures": ("MRT", who),
            "beside": (who, ""),
            "one folder": ("", f"{who}_MR"),
            "bids": (f"{who}/anat", f"{who}_T1w"),
            "site": (f"site{'AB'[number % 2]}/scans", who),
        }[self.place]

    def mask_name(self, number, bone, side):
        """Return a mask's name without its ending."""
        words = WORDS[self.words].split()
        bones, sides = dict(zip(BONES, words, strict=False)), words[-2:]
        own, hand = bones[bone], sides[side == "right"]
        template = (OWN_NAMES | NAMES)[self.name]
        up = [text[0].upper() + text[1:] for text in (own, hand)]
        return template.format(
            id=self.patient(number), bone=own, side=hand, Bone=up[0], Side=up[1]
        )

    def _write_image(self, study, number, truth):
        folder, name = self.image_folder(number)
        voxels = pixels(number)
        if self.image in ("dicom", "zip"):
            files = dicom_files(self, number, voxels)
            target = study / folder / name
            if self.image == "zip":
                target = target.with_name(f"{target.name or 'scan'}.zip")
                target.parent.mkdir(parents=True, exist_ok=True)
                loose = study / "loose"
                save(files, loose)
                with zipfile.ZipFile(target, "w") as archive:
                    for file in sorted(loose.iterdir()):
                        archive.write(file, f"scan/{file.name}")
                shutil.rmtree(loose)
            else:
                save(files, target)
        else:
            target = study / folder / f"{name or 'scan'}.{self.image}"
            write_volume(target, voxels.astype(np.int16), self.affine(number))
        truth.images[target.relative_to(study).as_posix()] = number

    def _write_mask(self, study, number, drawn, voxels, truth):
        folder = study / self.mask_folder(number, drawn[0])
        file = folder / f"{self.mask_name(number, *drawn)}.{self.mask}"
        if self.mask in SURFACES:
            file.parent.mkdir(parents=True, exist_ok=True)
            trimesh.creation.box((4, 4, 4)).export(file)
        else:
            write_volume(file, voxels, self.affine(number))
        truth.drawn[file.relative_to(study).as_posix(), None] = (number, *drawn)

    def _write_several(self, study, number, drawn, truth):
        labels = np.zeros(SHAPE, np.uint8)
        names = {}
        for value, ((bone, side), voxels) in enumerate(drawn.items(), start=1):
            labels[voxels > 0] = value
            names[value] = bone, side
        mine = (
            "{id}_labels"
            if self.place in ("flat", "one folder", "site", "structures", "bids")
            else "Segmentation"
        )
        ending = "nii.gz" if self.mask == "labelmap" else "seg.nrrd"
        name = f"{mine.format(id=self.patient(number))}.{ending}"
        file = study / self.mask_folder(number) / name
        if self.mask == "labelmap":
            write_volume(file, labels, self.affine(number))
        else:
            # pynrrd writes headers in ASCII; 3D Slicer exports such names, too.
            segments = {
                v: plain(self.mask_name(number, bone, side))
                for v, (bone, side) in names.items()
            }
            write_segments(file, labels, self.affine(number), segments)
        for value, what in names.items():
            truth.drawn[file.relative_to(study).as_posix(), value] = (number, *what)


def plain(name):
    """Return a name without accents."""
    parts = unicodedata.normalize("NFKD", name)
    return parts.encode("ascii", "ignore").decode()


def pixels(number):
    """Return an image: noise that differs from patient to patient."""
    return np.random.default_rng(number).integers(50, 900, SHAPE)


def drawings(number):
    """Return a box for each bone and side; the patient's right lies at low i."""
    found = {}
    for bone, row in zip(BONES, (1, 4, 8, 12), strict=True):
        for side, column in (("left", 10), ("right", 1)):
            voxels = np.zeros(SHAPE, np.uint8)
            voxels[column : column + 3 + number % 2, row : row + 3, 1:4] = 1
            found[bone, side] = voxels
    return found


def dicom_files(layout, number, voxels):
    """Return the slices of a scan as DICOM datasets."""
    affine = np.diag([-1, -1, 1, 1]) @ layout.affine(number)
    files = base(
        SHAPE[2], size=SHAPE[0], px=SPACING[:2], dz=SPACING[2], uids=new_uids()
    )
    for k, ds in enumerate(files):
        ds.PatientID = ds.PatientName = f"ID{number}"
        place = affine @ [0, 0, k, 1]
        ds.ImagePositionPatient = [float(x) for x in place[:3]]
        ds.PixelData = voxels[:, :, k].T.astype("<u2").tobytes()
    return files


def write_volume(file, voxels, affine):
    """Write voxels, RAS, as the ending says."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.name.endswith((".nii", ".nii.gz")):
        nibabel.save(nibabel.Nifti1Image(voxels, affine), file)
        return
    if file.name.endswith(".mgz"):
        nibabel.save(nibabel.MGHImage(voxels, affine), file)
        return
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.transpose(2, 1, 0)))
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(file))


def write_segments(file, labels, affine, names):
    """Write a segmentation of 3D Slicer."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1, -1, 1, 1]) @ affine
    header = {
        "space": "left-posterior-superior",
        "space directions": lps[:3, :3].T.tolist(),
        "space origin": lps[:3, 3].tolist(),
        "kinds": ["domain"] * 3,
        "encoding": "gzip",
    }
    for n, (value, name) in enumerate(names.items()):
        header |= {
            f"Segment{n}_ID": f"Segment_{value}",
            f"Segment{n}_Name": name,
            f"Segment{n}_Layer": "0",
            f"Segment{n}_LabelValue": str(value),
        }
    nrrd.write(str(file), labels, header)


def write_table(file):
    """Write which value means what, in the form that the name of the file tells."""
    names = {v: f"{bone}_{side}" for v, (bone, side) in enumerate(DRAWN, start=1)}
    plain = "".join(f"{value} {name}\n" for value, name in names.items())
    snap = "".join(f'{v} 255 0 0 1 1 1 "{n}"\n' for v, n in names.items())
    clear = '# ITK-SnaP Label Description File\n0 0 0 0 0 0 0 "Clear Label"\n'
    text = {
        "labels.txt": plain,
        "snap.txt": clear + snap,
        "colours.ctbl": "# Color table\n0 background 0 0 0 0\n"
        + "".join(f"{v} {n} 128 174 {v} 255\n" for v, n in names.items()),
        "dataset.json": json.dumps(
            {"labels": {"background": 0} | {n: v for v, n in names.items()}}
        ),
        "labels.json": json.dumps({str(v): n for v, n in names.items()}),
        "dseg.tsv": "index\tname\n" + "".join(f"{v}\t{n}\n" for v, n in names.items()),
    }[file.name]
    file.write_text(text)


def wrong_rows(rows, truth):
    """Return what rows say wrongly of patients, structures and sides."""
    patient_of = {}
    wrong = []
    for row in rows:
        if row.role == "image":
            number = truth.images.get(row.file)
            patient_of[row.case] = number
            if number is None:
                wrong.append(f"{row.file} is no scan")
    seen = set()
    for row in rows:
        if row.role in ("image", "ignore"):
            continue
        expected = truth.drawn.get((row.file, row.value))
        seen.add((row.file, row.value))
        found = patient_of.get(row.case), row.structure, row.side
        if found != expected:
            wrong.append(f"{row.file} {row.value}: {found}, not {expected}")
    wrong += [f"{one} is not in the table" for one in truth.drawn.keys() - seen]
    wrong += [
        f"no case for {n}"
        for n in set(truth.images.values()) - set(patient_of.values())
    ]
    names = {row.patient for row in rows}
    if len(names) != len(set(truth.images.values())):
        wrong.append(f"the patients are {sorted(names)}")
    return wrong
