"""Race every stage against the source report's way and the best other tools.

    make bench                               every stage, five rounds
    python benchmarks/run.py --quick         one round of a small limb: does it work?
    python benchmarks/run.py --only mesh     the stages whose name holds a word

Prints Markdown. `race` says what is measured and how; `stages` holds a module for
every kind of work; `limb` makes the volumes.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from limb import Limb
from race import Outcome, race
from stages import STAGES

FULL, QUICK, TINY = (256, 256, 501), (80, 80, 100), (64, 64, 84)
ROUNDS = 5
LIBRARIES = (
    "numpy",
    "scipy",
    "pydicom",
    "nibabel",
    "isal",
    "SimpleITK",
    "scikit-image",
    "surface-distance",
    "trimesh",
    "python-gdcm",
    "dcm2niix",
    "deflate",
    "numexpr",
    "connected-components-3d",
    "edt",
    "PyMCubes",
    "zmesh",
    "plyfile",
)


def main(words: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(words)
    chosen = [stage for stage in STAGES if options.only.lower() in stage.name.lower()]
    limb, tiny = Limb(QUICK if options.quick else FULL), Limb(TINY)
    rounds = 1 if options.quick else options.rounds
    print(_machine(), flush=True)
    outcomes = []
    for number, stage in enumerate(chosen, start=1):
        print(f"{number}/{len(chosen)} {stage.name}", file=sys.stderr, flush=True)
        outcomes.append(race(stage, limb, tiny, rounds=rounds))
    print(
        f"\nCPU seconds (user and system, children included): median (smallest - "
        f"largest) of interleaved rounds; {' x '.join(map(str, limb.shape))} voxels.\n"
    )
    print(_table(_rows(outcomes)))
    print("\nEverybody:\n")
    print(_table(_everybody(outcomes)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round, small volumes")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N")
    parser.add_argument("--only", default="", metavar="WORD", help="stages named so")
    return parser


def _rows(outcomes: Iterable[Outcome]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        (
            "stage",
            "rounds",
            "baseline (s)",
            "ours (s)",
            "ratio",
            "target",
            "",
            "best other tool: ratio",
            "remark",
        )
    ]
    for outcome in outcomes:
        stage, best = outcome.stage, outcome.best_other
        ratio = outcome.ratio(stage.ours)
        facts = [outcome.facts[one.name] for one in (stage.baseline, stage.ours)]
        rows.append(
            (
                stage.name,
                str(len(outcome.times[stage.ours.name].seconds)),
                str(outcome.times[stage.baseline.name]),
                str(outcome.times[stage.ours.name]),
                f"**{ratio:.3f}**",
                f"{stage.target:g}",
                "met" if ratio <= stage.target else "missed",
                f"{best.name}: {outcome.ratio(best):.3f}" if best else "none installed",
                stage.remark(*facts),
            )
        )
    return rows


def _everybody(outcomes: Iterable[Outcome]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("stage", "who", "CPU (s)", "ratio", "answer")]
    for outcome in outcomes:
        for one in outcome.stage.contenders:
            if one.name not in outcome.times:
                rows.append((outcome.stage.name, one.name, "not installed", "", ""))
                continue
            first = one is outcome.stage.baseline
            rows.append(
                (
                    outcome.stage.name,
                    one.name,
                    str(outcome.times[one.name]),
                    f"{outcome.ratio(one):.3f}",
                    "the baseline" if first else one.differs or "the same",
                )
            )
    return rows


def _table(rows: Sequence[Sequence[str]]) -> str:
    header, *others = rows
    lines = [header, ["---"] * len(header), *others]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _machine() -> str:
    """Return processor and versions; nothing that tells whose machine it is."""
    found = []
    for library in LIBRARIES:
        try:
            found.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            found.append(f"{library} not installed")
    return (
        f"{time.strftime('%B %Y')}; {_processor()}, {len(os.sched_getaffinity(0))} "
        f"cores, {platform.system()}, Python {platform.python_version()}; "
        f"{', '.join(found)}."
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
