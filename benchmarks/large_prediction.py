"""A large case predicted by nnU-Net itself and by `predict`: time, memory, equality.

    python benchmarks/large_prediction.py                       501 x 256 x 256, 2d
    python benchmarks/large_prediction.py -c 3d_fullres -f 5    five folds of it
    python benchmarks/large_prediction.py --network full        a default-size network
    python benchmarks/large_prediction.py --quick               does it work?

The image is the synthetic leg with four bones; the model has nnU-Net's planned networks
at the size of a smoke run, fitted to the leg for some seconds, so that its answer has
the shape of a leg. Its grid is coarser than the image's: both ways are resampled. Every
contender is a process of its own, measured whole: imports, reading and writing
included; they take turns, and the median of their rounds counts. Labelmaps of torch
must have equal voxels, and those of OpenVINO all but 1 in 100,000, or the run fails.
Of ``--windows body`` and ``--fast`` the differing voxels are counted.
With ``--air 120`` the leg lies in a field that is so many voxels wider on every side.
Prints Markdown.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume
from nnunet_bridge.formats.nifti import read_array, write_volume
from nnunet_bridge.nnunet.commands import nnunet_environment
from nnunet_bridge.nnunet.estimates import (
    PlannedMember,
    host_bytes,
)
from nnunet_bridge.nnunet.host import Host
from nnunet_bridge.nnunet.machine import this_machine
from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Dataset, Run, Workspace, images_by_case
from nnunet_bridge.nnunet.plans import resolved

DATASET = "Dataset001_Limb"
CASE = "limb"
COARSER = 1.13
"""Spacing of the network's grid by that of the image."""

PLANNED_PATCH = {"2d": [256, 256], "3d_fullres": [128, 112, 112]}
STEPS = 60
HEADS = 5
GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "nnUNetPlans.json"
THEIRS = "nnU-Net's predictor"
ALLOWED_SHARE = {
    "--engine torch": 0.0,
    "--engine openvino": 1e-5,
    "--engine openvino --windows body": 1.0,
    "--engine openvino --fast": 1.0,
    "--engine openvino --windows body --fast": 1.0,
}
"""Options of `predict` -> share of the voxels that may differ from nnU-Net's."""

OURS = tuple(ALLOWED_SHARE)


def main(words: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(words)
    if options.task:
        TASKS[options.task](options)
        return 0
    if options.quick:
        options.shape = (64, 64, 84)
        options.rounds = 1
    ours = [who for who in OURS if ALLOWED_SHARE[who] < 1 or not options.exact]
    with tempfile.TemporaryDirectory() as name:
        options.folder = Path(name)
        _run(_own(options, "prepare"), options)
        rounds = [
            [_measured(who, options) for who in (THEIRS, *ours)]
            for _ in range(options.rounds)
        ]
        found = {who: _different_voxels(options.folder, who) for who in ours}
        planned = _planned_bytes(options)
    print(
        f"{options.configuration}, {options.network} network, {options.folds} fold(s), "
        f"{options.shape}, median of {options.rounds}, load {os.getloadavg()[0]:.1f}:\n"
    )
    print("| who | wall (s) | CPU (s) | by nnU-Net's | peak memory (MiB) |")
    print("| --- | --- | --- | --- | --- |")
    medians = np.median(rounds, axis=0)
    for who, (wall, processor, peak) in zip((THEIRS, *ours), medians, strict=True):
        ratio = processor / medians[0][1]
        print(f"| {who} | {wall:.0f} | {processor:.0f} | {ratio:.2f} | {peak:.0f} |")
    print(f"\nplanned before: {planned >> 20} MiB")
    for who, (different, bone, reference, voxels) in found.items():
        print(
            f"{who}: {different} of {voxels} voxels differ from nnU-Net's, which have "
            f"{bone} of bone; {reference} of them where the reference has bone"
        )
    return int(
        any(d > ALLOWED_SHARE[w] * n or not b for w, (d, b, _, n) in found.items())
    )


def prepare(options: argparse.Namespace) -> None:
    """Write the image and a model that has learnt a little of it."""
    import torch
    from limb import Limb
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    limb = Limb(options.shape)
    _write_in_air(options.folder, limb, options.air)
    spacing_mm = limb.grid.spacing_mm[::-1]
    run, plans = _run_of(options), _plans(spacing_mm, options.network)
    planned = plans["configurations"][options.configuration]
    architecture = planned["architecture"]
    voxels = limb.image.voxels.transpose(2, 1, 0).astype(np.float32)
    voxels = (voxels - voxels.mean()) / voxels.std()
    labels = limb.reference.voxels.transpose(2, 1, 0)
    for fold in range(options.folds):
        torch.manual_seed(fold)
        network = get_network_from_plans(
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
            1,
            HEADS,
            deep_supervision=False,
        )
        _fit(network, voxels, labels, planned["patch_size"], seed=fold)
        fold_dir = replace(run, fold=fold).fold_dir
        (fold_dir / "validation").mkdir(parents=True)
        content = {
            "network_weights": network.state_dict(),
            "trainer_name": run.trainer,
            "init_args": {"configuration": run.configuration},
            "inference_allowed_mirroring_axes": None
            if options.no_mirroring
            else tuple(range(len(planned["patch_size"]))),
        }
        torch.save(content, fold_dir / "checkpoint_final.pth")
        mean = {str(label): {"Dice": 0.9} for label in range(1, HEADS)}
        summary = json.dumps({"mean": mean})
        (fold_dir / "validation" / "summary.json").write_text(summary)
    dataset = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, **{b.name: b.value for b in limb.reference.labels}},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    (fold_dir.parent / "plans.json").write_text(json.dumps(plans))
    (fold_dir.parent / "dataset.json").write_text(json.dumps(dataset))


def _write_in_air(folder: Path, limb, air: int) -> None:
    """Write image and reference, with so many columns and rows of noise around."""
    around, affine = ((air, air), (air, air), (0, 0)), limb.grid.affine.copy()
    affine[:3, 3] -= affine[:3, :2].sum(axis=1) * air
    voxels, bones = (np.pad(one.voxels, around) for one in (limb.image, limb.reference))
    scale = limb.image.voxels.std() / 20
    noise = np.random.default_rng(0).rayleigh(scale, bones.shape)
    inner = slice(air, -air or None)
    noise[inner, inner] = 0
    grid = Grid(bones.shape, affine)
    image = Volume(grid, (voxels + noise).astype(voxels.dtype))
    write_volume(folder / "images" / f"{CASE}_0000.nii.gz", image)
    write_volume(folder / "reference.nii.gz", Volume(grid, bones.astype(np.int16)))


def whole(options: argparse.Namespace) -> None:
    """Predict with nnU-Net's own predictor, one image after the other."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    from nnunet_bridge.nnunet.inside.safety import prepare as prepare_process

    on_gpu = options.device == "cuda"
    prepare_process(0 if on_gpu else this_machine().cores)
    predictor = nnUNetPredictor(
        perform_everything_on_device=on_gpu,
        device=torch.device(options.device),
        allow_tqdm=False,
    )
    model_dir = _run_of(options).model_dir
    folds = tuple(range(options.folds))
    predictor.initialize_from_trained_model_folder(str(model_dir), folds)
    out = options.folder / "whole"
    out.mkdir()
    predictor.predict_from_files_sequential(str(options.folder / "images"), str(out))


TASKS = {"prepare": prepare, "whole": whole}


def _fit(network, voxels, labels, patch, *, seed: int) -> None:
    """Teach a network for some seconds what bone looks like."""
    import torch

    rng = np.random.default_rng(seed)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    depth = (1, *patch) if len(patch) == 2 else tuple(patch)
    missing = [(0, max(0, d - s)) for d, s in zip(depth, voxels.shape, strict=True)]
    voxels, labels = np.pad(voxels, missing), np.pad(labels, missing)
    bone = np.argwhere(labels > 0)
    weights = torch.tensor([0.05, *([1.0] * (HEADS - 1))])
    for _ in range(STEPS):
        inputs, targets = [], []
        for centre in rng.choice(bone, 4 if len(patch) == 2 else 1):
            begin = np.clip(centre - np.array(depth) // 2, 0, None)
            begin = np.minimum(begin, np.array(voxels.shape) - depth)
            box = tuple(slice(b, b + d) for b, d in zip(begin, depth, strict=True))
            inputs.append(voxels[box].reshape(1, *patch))
            targets.append(labels[box].reshape(patch).astype(np.int64))
        answer = network(torch.from_numpy(np.stack(inputs)))
        truth = torch.from_numpy(np.stack(targets))
        loss = torch.nn.functional.cross_entropy(answer, truth, weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _measured(who: str, options: argparse.Namespace) -> tuple[float, float, float]:
    """Return wall seconds, CPU seconds and peak MiB of one contender."""
    if who == THEIRS:
        shutil.rmtree(options.folder / "whole", ignore_errors=True)
        command = _own(options, "whole")
    else:
        command = _command(who, options)
    begin = time.monotonic()
    process = subprocess.Popen(command, env=_environment(options))
    _, status, used = os.wait4(process.pid, 0)
    wall = time.monotonic() - begin
    if status:
        raise SystemExit(f"{who} failed.")
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def _command(who: str, options: argparse.Namespace) -> list[str]:
    folder = options.folder
    command = [sys.executable, "-m", "nnunet_bridge", "predict", DATASET]
    command += [str(folder / "images"), "-w", str(folder), "-o", str(folder / who)]
    command += [*who.split(), "--force", "--budget", options.network]
    return [*command, "-c", options.configuration, "--device", options.device]


def _own(options: argparse.Namespace, task: str) -> list[str]:
    shape = ",".join(str(size) for size in options.shape)
    command = [sys.executable, __file__, "--task", task, "--shape", shape]
    command += ["-c", options.configuration, "-f", str(options.folds)]
    command += ["--device", options.device, "--network", options.network]
    command += ["--air", str(options.air)]
    command += ["--no-mirroring"] if options.no_mirroring else []
    return [*command, "--folder", str(options.folder)]


def _run(command: Sequence[str], options: argparse.Namespace) -> None:
    subprocess.run(command, check=True, env=_environment(options), stdout=sys.stderr)


def _environment(options: argparse.Namespace) -> dict[str, str]:
    machine = this_machine()
    resources = Host(machine).share(1, options.device)
    environment = nnunet_environment(_workspace(options), resources, os.environ)
    environment["nnUNet_def_n_proc"] = str(machine.cores)
    # Such a process searches no modules beside its script.
    places = str(Path(__file__).parent), environment.get("PYTHONPATH", "")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, places))
    return environment


def _workspace(options: argparse.Namespace) -> Workspace:
    return Workspace.at(options.folder, environment={})


def _run_of(options: argparse.Namespace) -> Run:
    dataset = Dataset(_workspace(options), DATASET)
    method = method_of("nnunet", options.network)
    return method.run(dataset, options.configuration, 0)


def _plans(spacing_mm: Sequence[float], budget: str) -> dict:
    """Return plans as for such images, with the networks of a budget."""
    stock = json.loads(GOLDEN.read_text(encoding="utf-8"))
    stock |= {"dataset_name": DATASET, "transpose_forward": [0, 1, 2]}
    stock |= {"transpose_backward": [0, 1, 2]}
    for name, patch in PLANNED_PATCH.items():
        planned = stock["configurations"][name]
        planned["patch_size"] = patch
        planned["spacing"] = [COARSER * float(s) for s in spacing_mm][-len(patch) :]
        strides = planned["architecture"]["arch_kwargs"]["strides"]
        strides[1:] = [
            [1 if edge % 2**stage else 2 for edge in patch]
            for stage in range(1, len(strides))
        ]
    return method_of("nnunet", budget).plans_from(stock)


def _different_voxels(folder: Path, who: str) -> tuple[int, int, int, int]:
    """Count voxels: different ones, nnU-Net's bone, different ones in bone, all."""
    _, theirs = read_array(folder / "whole" / f"{CASE}.nii.gz")
    _, ours = read_array(folder / who / CASE / "labels.nii.gz")
    _, reference = read_array(folder / "reference.nii.gz")
    different = theirs != ours
    counted = different, theirs, different & (reference > 0)
    changed, bone, in_bone = (int(np.count_nonzero(one)) for one in counted)
    return changed, bone, in_bone, theirs.size


def _planned_bytes(options: argparse.Namespace) -> int:
    """Return the memory that the command expects to take."""
    from nnunet_bridge.formats.nifti import read_grid

    model_dir = _run_of(options).model_dir
    checkpoints = model_dir.glob("fold_*/checkpoint_final.pth")
    plans = json.loads((model_dir / "plans.json").read_text())
    member = PlannedMember.of(
        plans,
        json.loads((model_dir / "dataset.json").read_text()),
        resolved(plans, options.configuration),
        folds=options.folds,
        weights_bytes=sum(file.stat().st_size for file in checkpoints),
    )
    (files,) = images_by_case(options.folder / "images").values()
    grid = read_grid(files[0])
    spacing_mm = grid.spacing_mm[::-1].tolist()
    on_gpu = options.device == "cuda"
    return host_bytes([member], grid.shape[::-1], spacing_mm, on_gpu=on_gpu)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small case")
    parser.add_argument("-c", "--configuration", default="2d", choices=PLANNED_PATCH)
    parser.add_argument("--no-mirroring", action="store_true", help="each window once")
    parser.add_argument("-f", "--folds", type=int, default=1)
    parser.add_argument("--network", choices=("smoke", "full"), default="smoke")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--exact", action="store_true", help="only ways with all windows"
    )
    parser.add_argument("--air", type=int, default=0, help="voxels beside the leg")
    parser.add_argument(
        "--shape",
        type=lambda text: tuple(int(size) for size in text.split(",")),
        default=(256, 256, 501),
        help="columns, rows and slices",
    )
    parser.add_argument(
        "--device", default=Host().device("auto")[0], help="cpu or cuda"
    )
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
