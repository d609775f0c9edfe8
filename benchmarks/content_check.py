"""How often the content check (K23) notices planted errors, and how often it errs.

    python benchmarks/content_check.py            # real images, see CONTRIBUTING
    python benchmarks/content_check.py --quick    # the synthetic limb alone

Every case is judged untouched first; then its labels are flipped along each axis of the
array, and moved by 2 to 5 voxels both ways along each axis. Single structures are
flipped and moved in the same way while the others stay. Real images are read where
`NNUNET_BRIDGE_TEST_DATA` says; whole studies are read as `convert` does, and untouched.
"""

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.formats.dicom import read_series
from nnunet_bridge.formats.nifti import read_array
from nnunet_bridge.formats.recipe import read_recipe
from nnunet_bridge.formats.slicer import read_mask, read_segments
from nnunet_bridge.ops.content import content_findings
from nnunet_bridge.ops.phantom import lower_limb
from nnunet_bridge.ops.regrid import placed_on
from nnunet_bridge.pipeline.ingest.cases import assemble_case
from nnunet_bridge.pipeline.ingest.matching import plan_study

DATA = Path(
    os.environ.get("NNUNET_BRIDGE_TEST_DATA")
    or Path(__file__).parents[2] / "shared" / "data"
)
SIZES = (2, 3, 4, 5)


@dataclass(frozen=True)
class Sample:
    """One image and its labels."""

    data_set: str
    name: str
    volume: Volume
    labelmap: Labelmap


def numbered(grid, values) -> Labelmap:
    """Return a labelmap whose values are 1..n, whatever they were."""
    held = np.unique(values[values > 0])
    voxels = np.searchsorted(np.r_[0, held], np.maximum(values, 0)).astype(np.uint8)
    return Labelmap(grid, voxels, LabelTable.from_names([f"value_{n}" for n in held]))


def pairs(data_set, images, labels_of) -> Iterator[Sample]:
    for file in sorted(images):
        labels = labels_of(file)
        if labels.is_file():
            grid, voxels = read_array(file)
            drawn = read_array(labels)[1]
            yield Sample(
                data_set, labels.name, Volume(grid, voxels), numbered(grid, drawn)
            )


def of_study(name) -> Iterator[Sample]:
    recipe = read_recipe(name)
    for plan in plan_study(DATA / f"study_{name}", recipe).cases:
        case = assemble_case(plan, recipe).case
        if case.reference is not None:
            yield Sample(f"study_{name}", case.case_id, case.images[0], case.reference)


def on(grid, masks) -> Labelmap:
    values = np.zeros(grid.shape, np.int64)
    for number, mask in enumerate(masks, start=1):
        placed = placed_on(grid, mask.grid, mask.voxels, name=mask.file)
        values[placed.voxels] = number
    return numbered(grid, values)


def phantoms() -> Iterator[Sample]:
    for seed in range(1, 7):
        limb = lower_limb(seed, shape=(96, 48, 64), spacing_mm=(4.0, 4.0, 12.0))
        values = np.zeros(limb.volume.grid.shape, np.int64)
        bones = sorted({bone for bone, _ in limb.masks})
        for (bone, _), mask in limb.masks.items():
            values[mask] = bones.index(bone) + 1
        drawn = numbered(limb.volume.grid, values)
        yield Sample("synthetic limb", str(seed), limb.volume, drawn)


def real() -> Iterator[Sample]:
    for name in ("msd_hippocampus", "spine_vb_2mm"):
        folder = DATA / "train" / name
        yield from pairs(
            name,
            folder.glob("images*/*.nii.gz"),
            lambda f: (
                f.parents[1]
                / f.parent.name.replace("images", "labels")
                / f.name.replace("_0000", "")
            ),
        )
    yield from of_study("hippocampus")
    yield from of_study("spine")
    folder = DATA / "seg" / "totalseg_mr"
    for name in ("example_seg_mr", "example_seg_roi_subset_mr"):
        labels = folder / f"{name}.nii.gz"
        yield from pairs(
            "seg", [folder / "example_mr_sm.nii.gz"], lambda _, file=labels: file
        )
    folder = DATA / "seg" / "tptbox_mri_vertebra" / "sample_mri"
    for kind in ("subreg", "vert"):
        labels = folder / f"sub-mri_seg-{kind}_label-6_msk.nii.gz"
        image = folder / "sub-mri_label-6_T2w.nii.gz"
        yield from pairs("seg", [image], lambda _, file=labels: file)
    yield from slicer_and_dicom()


def slicer_and_dicom() -> Iterator[Sample]:
    import nrrd

    folder = DATA / "seg" / "slicerio"
    voxels, header = nrrd.read(str(folder / "CTChest4.nrrd"))
    affine = np.eye(4)
    affine[:3, :3] = np.array(header["space directions"]).T
    affine[:3, 3] = header["space origin"]
    grid = Grid(voxels.shape, affine)
    for name in ("Segmentation.seg.nrrd", "SegmentationOverlapping.seg.nrrd"):
        drawn = on(grid, read_segments(folder / name))
        yield Sample("seg", name, Volume(grid, voxels), drawn)
    folder = DATA / "dicom_seg" / "totalseg_ct_j2k"
    volume = read_series(folder / "dcm").volume
    grid, values = read_array(folder / "seg_multiclass.nii.gz")
    placed = np.zeros(volume.grid.shape, np.int64)
    for value in np.unique(values[values > 0]):
        one = placed_on(volume.grid, grid, values == value, name="mask")
        placed[one.voxels] = value
    yield Sample("dicom_seg", folder.name, volume, numbered(volume.grid, placed))
    folder = DATA / "dicom_seg" / "dcmqi_ct3"
    volume = read_series(folder / "dcm").volume
    for name in ("heart_seg", "liver_seg", "spine_seg"):
        drawn = on(volume.grid, [read_mask(folder / f"{name}.nrrd", name=name)])
        yield Sample("dicom_seg", name, volume, drawn)


def moved(voxels, axis, by):
    """Return the labels moved by whole voxels; what leaves the array is lost."""
    result = np.zeros_like(voxels)
    into, out_of = [slice(None)] * 3, [slice(None)] * 3
    into[axis] = slice(max(by, 0), voxels.shape[axis] + min(by, 0))
    out_of[axis] = slice(max(-by, 0), voxels.shape[axis] - max(by, 0))
    result[tuple(into)] = voxels[tuple(out_of)]
    return result


def errors(shape=(99, 99, 99)) -> Iterator[tuple[str, Callable]]:
    """Go through the errors that leave half of the slices in the image."""
    for axis in range(3):
        yield f"flip {'ijk'[axis]}", lambda v, a=axis: np.flip(v, a).copy()
    for axis in range(3):
        for size in (size for size in SIZES if 2 * size < shape[axis]):
            for by in (-size, size):
                name = f"{'ijk'[axis]} by {size}"
                yield name, lambda v, a=axis, b=by: moved(v, a, b)


def one_alone(error, voxels, value):
    """Return the labels with one structure in the wrong place."""
    result = np.where(voxels == value, 0, voxels).astype(voxels.dtype)
    result[error((voxels == value).astype(np.uint8)) > 0] = value
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    samples = list(phantoms())[:1] if quick else [*real(), *phantoms()]
    hits: dict = defaultdict(list)
    alone: dict = defaultdict(list)
    alarms, spent_s, calls = [], 0.0, 0
    for sample in samples:
        started = time.process_time()
        found, fit = content_findings(sample.volume, sample.labelmap)
        spent_s, calls = spent_s + time.process_time() - started, calls + 1
        alarms += [f"{sample.data_set} {sample.name}: {each}" for each in found]
        hits[sample.data_set, "untouched"].append(bool(found))
        hits[sample.data_set, "judged"].append(fit.judged)
        if sample.data_set.startswith("study_"):
            continue  # the images of the two training sets again
        planted = list(errors(sample.labelmap.grid.shape))
        for name, error in planted:
            wrong = sample.labelmap.with_voxels(error(sample.labelmap.voxels))
            said = bool(content_findings(sample.volume, wrong)[0])
            hits[sample.data_set, name].append(said)
        for name, error in planted if len(sample.labelmap.labels) > 1 else []:
            if name not in ("flip i", "flip j", "flip k", "i by 3", "j by 3", "k by 3"):
                continue
            value = sample.labelmap.labels.labels[calls % len(sample.labelmap.labels)]
            voxels = one_alone(error, sample.labelmap.voxels, value.value)
            wrong = sample.labelmap.with_voxels(voxels)
            said = bool(content_findings(sample.volume, wrong)[0])
            alone[sample.data_set, name].append(said)
    show(hits, alone, alarms, spent_s / calls)


def percent(hits) -> str:
    return f"{100 * np.mean(hits):.0f}" if hits else "-"


def show(hits, alone, alarms, seconds) -> None:
    names = list(dict.fromkeys(data_set for data_set, _ in hits))
    kinds = list(dict.fromkeys(name for name, _ in errors()))
    print("| data set | cases | judged | false alarms | " + " | ".join(kinds) + " |")
    print("|---" * (len(kinds) + 4) + "|")
    for name in names:
        untouched = hits[name, "untouched"]
        cells = [percent(hits[name, kind]) for kind in kinds]
        judged = sum(hits[name, "judged"])
        begin = f"| {name} | {len(untouched)} | {judged} | {sum(untouched)} | "
        print(begin + " | ".join(cells) + " |")
    print("\nOne structure in the wrong place, the others right:\n")
    kinds = list(dict.fromkeys(kind for _, kind in alone))
    print("| data set | " + " | ".join(kinds) + " |")
    print("|---" * (len(kinds) + 1) + "|")
    for name in names:
        cells = [percent(alone[name, kind]) for kind in kinds]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print(f"\n{1000 * seconds:.0f} ms of CPU time a case. False alarms: {len(alarms)}.")
    print("\n".join(alarms))


if __name__ == "__main__":
    main()
