"""Logits to a labelmap in the grid of the image: nnU-Net's own export and `predict`'s.

    python benchmarks/export.py                     20 classes, 512 x 512 x 500
    python benchmarks/export.py --spacing 1 1 1 --planned 1.5 1.5 1.5
    python benchmarks/export.py --only ours         if nnU-Net's needs too much memory
    python benchmarks/export.py --quick             does it work?

Both read smooth random logits with a little noise from a file: nnU-Net's export as a
whole, as its prediction hands them over, ours plane by plane, as the windows do. Each
is a process of its own, measured whole; they take turns, and the median counts. Any
voxel that differs fails the run. Prints Markdown.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.ndimage import zoom

from nnunet_bridge.formats.nifti import read_array

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "nnUNetPlans.json"
NAMES = {"theirs": "nnU-Net's export", "ours": "the export of `predict`"}
COARSE = (16, 8, 8)  # the grid from which the fields are interpolated
BACKGROUND_LOGIT, DEVIATION, NOISE = 11.0, 8.0, 0.05


def main() -> int:
    options = _parser().parse_args()
    if options.quick:
        options.shape, options.classes, options.rounds = (64, 64, 20), 4, 1
    sizes = zip(options.shape, options.spacing, options.planned, strict=True)
    options.seen = tuple(round(n * here / there) for n, here, there in sizes)[::-1]
    if options.task:
        TASKS[options.task](options)
        return 0
    who = [options.only] if options.only else list(NAMES)
    with tempfile.TemporaryDirectory() as name:
        _measured("prepare", name)
        rounds = [[_measured(one, name) for one in who] for _ in range(options.rounds)]
        found = [read_array(Path(name, f"{one}.nii.gz"))[1] for one in who]
    print(
        f"{options.classes} classes, {options.shape} voxels of {options.spacing} mm, "
        f"logits at {options.planned} mm, median of {options.rounds}, load "
        f"{os.getloadavg()[0]:.1f}, {(found[0] == 0).mean():.0%} background:\n\n"
        "| tool | wall (s) | CPU (s) | by nnU-Net's | peak memory (MiB) | by nnU-Net's "
        "| different voxels |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    different = [int(np.count_nonzero(one != found[0])) for one in found]
    for one, figures, count in zip(who, np.median(rounds, 0), different, strict=True):
        (wall, cpu, peak), shares = figures, figures / np.median(rounds, 0)[0]
        row = f"{wall:.0f} | {cpu:.0f} | {shares[1]:.2f} | {peak:.0f} | {shares[2]:.2f}"
        print(f"| {NAMES[one]} | {row} | {count} |")
    return int(any(different))


def prepare(options: argparse.Namespace) -> None:
    """Write (classes, Z, Y, X) half logits on the grid of the network."""
    rng, size = np.random.default_rng(0), np.divide(options.seen, COARSE)
    with (options.folder / "logits").open("wb") as file:
        for label in range(options.classes):
            field = np.full(options.seen, BACKGROUND_LOGIT, np.float32)
            if label:
                coarse = rng.standard_normal(COARSE, dtype=np.float32) * DEVIATION
                field = zoom(coarse, size, order=1, mode="nearest", grid_mode=True)
            field += NOISE * rng.standard_normal(options.seen, dtype=np.float32)
            field.astype(np.float16).tofile(file)


def theirs(options: argparse.Namespace) -> None:
    from nnunetv2.inference.export_prediction import export_prediction_from_logits

    plans, planned, properties = _image(options)
    logits = np.fromfile(options.folder / "logits", np.float16)
    logits = logits.reshape(options.classes, *options.seen)
    labels = {f"class {n}" if n else "background": n for n in range(options.classes)}
    dataset = {"labels": labels, "file_ending": ".nii.gz", "channel_names": {"0": "A"}}
    inputs = logits, properties, planned, plans, dataset, str(options.folder / "theirs")
    export_prediction_from_logits(*inputs, num_threads_torch=os.cpu_count())


def ours(options: argparse.Namespace) -> None:
    from nnunet_bridge.nnunet.inside.member import Cropped
    from nnunet_bridge.nnunet.inside.resampling import Resampling

    plans, planned, properties = _image(options)
    shape, box = tuple(options.shape[::-1]), properties["bbox_used_for_cropping"]
    spacings = options.planned[::-1], options.spacing[::-1]
    way = Resampling(planned.resampling_fn_probabilities, shape, *spacings)
    labels = way.labels(_planes(options), options.seen)
    labelmap = Cropped(shape, box, (0, 1, 2)).put_back(labels)
    file = str(options.folder / "ours.nii.gz")
    plans.image_reader_writer_class().write_seg(labelmap, file, properties)


TASKS = {"prepare": prepare, "theirs": theirs, "ours": ours}


def _planes(options: argparse.Namespace) -> Iterator:
    """Yield the (classes, Y, X) planes of the file, one after the other."""
    import torch

    depth, *plane = options.seen
    with (options.folder / "logits").open("rb") as file:
        for at in range(depth):
            logits = np.empty((options.classes, *plane), np.float16)
            for label in range(options.classes):
                file.seek((label * depth + at) * logits[label].nbytes)
                file.readinto(logits[label])
            yield torch.from_numpy(logits)


def _image(options: argparse.Namespace) -> tuple:
    """Return plans, their configuration, and what nnU-Net knows of such an image."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    content = json.loads(GOLDEN.read_text(encoding="utf-8"))
    content["configurations"]["3d_fullres"]["spacing"] = list(options.planned[::-1])
    plans = PlansManager(content)
    shape = tuple(options.shape[::-1])
    itk = {"spacing": options.spacing, "origin": (0.0,) * 3}
    properties = {
        "sitk_stuff": itk | {"direction": tuple(np.eye(3).ravel())},
        "spacing": options.spacing[::-1],
        "bbox_used_for_cropping": [[0, size] for size in shape],
        "shape_before_cropping": shape,
        "shape_after_cropping_and_before_resampling": shape,
    }
    return plans, plans.get_configuration("3d_fullres"), properties


def _measured(task: str, folder: str) -> tuple[float, float, float]:
    """Return wall seconds, CPU seconds and peak MiB of one task in its own process."""
    command = [sys.executable, *sys.argv, "--task", task, "--folder", folder]
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=sys.stderr)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.monotonic() - begin
    if status:
        raise SystemExit(f"{task} failed.")
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="a small case")
    add("--only", choices=NAMES, help="one contender")
    add("--classes", type=int, default=20, help="background included")
    add("--rounds", type=int, default=3)
    xyz = {"nargs": 3, "metavar": ("X", "Y", "Z")}
    add("--shape", type=int, default=(512, 512, 500), help="of the image", **xyz)
    add("--spacing", type=float, default=(0.4, 0.4, 3.0), help="its, in mm", **xyz)
    add("--planned", type=float, default=(0.8, 0.8, 3.0), help="the logits'", **xyz)
    add("--task", choices=TASKS, help=argparse.SUPPRESS)
    add("--folder", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
