"""How memory and time grow with the number of slices, up to a full body.

    python benchmarks/growth.py              125, 250, 501 and 1015 slices of 512 x 512
    python benchmarks/growth.py --quick      two small limbs: does it work?

Every point is a process of its own, so that its peak (VmHWM: the most memory it ever
held, its imports included) is that of one case from file to file. CPU seconds are those
of the work, without imports. Prints Markdown.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

FULL, QUICK = (512, (125, 250, 501, 1015)), (64, (84, 168))
"""Columns and rows, and the numbers of slices."""

LIMIT_MIB = {"convert": 2560, "clean": 2048, "score": 2048, "mesh": 2048}
_PREPARE = "prepare"


class ClosingSummary(Protocol):
    """What every pipeline returns."""

    @property
    def exit_code(self) -> int:
        """0 if every case came through."""

    def as_text(self) -> str:
        """Return what happened, in words."""


def convert(folder: Path) -> None:
    """Turn DICOM and four masks into a raw dataset, as the command does."""
    from limb import BONES

    from nnunet_bridge.formats.recipe import recipe_from
    from nnunet_bridge.pipeline.ingest.convert import convert_study

    recipe = recipe_from(
        {
            "dataset": {"id": 1, "name": "Limb", "case": "limb_{index:03d}"},
            "scans": {"folder": "scans"},
            "masks": {"folder": "masks"},
            "labels": {label.name: label.value for label in BONES},
        }
    )
    _must_succeed(convert_study(folder / "study", recipe, folder / "nnUNet_raw"))


def clean(folder: Path) -> None:
    """Clean a speckled prediction, slice by slice."""
    from nnunet_bridge.pipeline.labels.clean import clean_labels

    _must_succeed(clean_labels(folder / "speckled.nii.gz", folder / "cleaned.nii.gz"))


def score(folder: Path) -> None:
    """Score a prediction against its reference, every measure."""
    from nnunet_bridge.pipeline.labels.score import score_folders

    prediction, reference = folder / "prediction", folder / "reference"
    _must_succeed(score_folders(prediction, reference, folder / "scores"))


def mesh(folder: Path) -> None:
    """Write the surfaces of a prediction as PLY."""
    from nnunet_bridge.pipeline.labels.mesh import mesh_labels

    _must_succeed(mesh_labels(folder / "prediction", folder / "meshes"))


WORK: dict[str, Callable[[Path], None]] = {
    one.__name__: one for one in (convert, clean, score, mesh)
}


def prepare(folder: Path, shape: tuple[int, int, int]) -> None:
    """Write the inputs of one limb; in a process of its own as well."""
    from limb import BONES, Limb

    from nnunet_bridge.core.image import Volume
    from nnunet_bridge.formats.dicom import write_series
    from nnunet_bridge.formats.nifti import write_labelmap, write_volume

    limb = Limb(shape)
    write_labelmap(folder / "speckled.nii.gz", limb.speckled)
    for name in ("prediction", "reference"):
        (folder / name).mkdir()
        write_labelmap(folder / name / "case.nii.gz", getattr(limb, name))
    for label in BONES:
        mask = Volume(limb.grid, limb.reference.mask(label).astype("u1"))
        write_volume(folder / "study" / "masks" / f"1_{label.name}_1A.nii.gz", mask)
    scan_dir = folder / "study" / "scans" / "1_WATER_1A"
    write_series(scan_dir, limb.image, patient_id="NOBODY", description="water")


def main(words: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(words)
    if options.point:
        return _point(*options.point)
    across, slices = QUICK if options.quick else FULL
    points: dict[tuple[str, int], dict[str, float]] = {}
    for count in slices:
        with tempfile.TemporaryDirectory() as name:
            print(f"{count} slices", file=sys.stderr, flush=True)
            _run(_PREPARE, name, f"{across},{across},{count}")
            for stage in WORK:
                points[stage, count] = json.loads(_run(stage, name, ""))
    print(f"Slices of {across} x {across}; four bones.\n")
    for row in _rows(points, slices):
        print(f"| {' | '.join(row)} |")
    return 0


def _must_succeed(summary: ClosingSummary) -> None:
    """Stop if a case was refused: its time would mean nothing."""
    if summary.exit_code:
        raise RuntimeError(summary.as_text())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two small limbs")
    parser.add_argument("--point", nargs=3, help=argparse.SUPPRESS)
    return parser


def _run(stage: str, folder: str, shape: str) -> str:
    """Do one thing in a new process; return what it prints."""
    command = [sys.executable, __file__, "--point", stage, folder, shape]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _point(stage: str, folder: str, shape: str) -> int:
    if stage == _PREPARE:
        columns, rows, slices = map(int, shape.split(","))
        prepare(Path(folder), (columns, rows, slices))
        return 0
    import nnunet_bridge.pipeline.labels.score  # noqa: F401 - imports are not the work

    before = time.process_time()
    WORK[stage](Path(folder))
    seconds = time.process_time() - before
    print(json.dumps({"seconds": seconds, "peak_mib": _peak_mib()}))
    return 0


def _peak_mib() -> float:
    """Return the most memory that this process ever held, in MiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmHWM")


def _rows(
    points: dict[tuple[str, int], dict[str, float]], slices: Sequence[int]
) -> list[list[str]]:
    """Return a row a stage: peak and time at every size, and growth per slice."""
    rows = [
        ["stage", *(f"{n} slices" for n in slices), "growth per slice", "peak limit"],
        ["---"] * (len(slices) + 3),
    ]
    for stage in WORK:
        line = [points[stage, count] for count in slices]
        cells = [f"{p['peak_mib']:.0f} MiB, {p['seconds']:.2f} s" for p in line]
        growth = [
            f"{(after['peak_mib'] - before['peak_mib']) / (n - m):.2f} MiB, "
            f"{1000 * (after['seconds'] - before['seconds']) / (n - m):.1f} ms"
            for (before, after, m, n) in _last_and_first_steps(line, slices)
        ]
        limit = LIMIT_MIB[stage]
        verdict = "met" if line[-1]["peak_mib"] <= limit else "missed"
        rows.append([stage, *cells, " then ".join(growth), f"{limit} MiB: {verdict}"])
    return rows


def _last_and_first_steps(
    line: Sequence[dict[str, float]], slices: Sequence[int]
) -> list[tuple[dict[str, float], dict[str, float], int, int]]:
    """Return the first and the last step; the same growth in both is linear growth."""
    steps = list(zip(line, line[1:], slices, slices[1:], strict=False))
    return [steps[0], steps[-1]]


if __name__ == "__main__":
    sys.exit(main())
