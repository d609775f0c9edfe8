"""Time to a Dice of 0.80 with the budget smoke, beside another version of the code.

    python benchmarks/smoke_training.py BEFORE [--trainings 5]

BEFORE is a checkout of that version (`git worktree add BEFORE COMMIT`). Both train 2d
and 3d_fullres, fold 0, of the hippocampus study side by side on the CPU, in turns;
training n of both has the same random numbers, as `train --repeat n` has. Run it on a
quiet machine. For each configuration: seconds from the start of the command to the end
of the first epoch with a mean pseudo-Dice of 0.80, seconds to the end of the training,
and the mean Dice of the held-out cases; and the seconds and CPU seconds of the command.
The differences are paired by training, with Student's 95 % intervals. Prints Markdown.

Data: the 30 training cases of the hippocampus in NNUNET_BRIDGE_TEST_DATA.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from partial_labels import DATASET, bridge, in_words, prepare

CONFIGURATIONS = ("2d", "3d_fullres")
ENOUGH = 0.80


def measured(tree, work, number):
    """Return the figures of a training with the code of a checkout."""
    words = f"p.Path({str(work)!r}), {CONFIGURATIONS}, {number}"
    code = f"import partial_labels as p; p.train_nth({words})"
    here = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tree), here))}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start, started = time.time(), time.monotonic()
    command = [sys.executable, "-c", code]
    # Python looks for modules in the current folder first: it must not be a checkout.
    subprocess.run(
        command, cwd=work, env=environment, check=True, stdout=subprocess.DEVNULL
    )
    wall, after = (
        time.monotonic() - started,
        resource.getrusage(resource.RUSAGE_CHILDREN),
    )
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    figures = {"command, s": wall, "command, CPU s": cpu}
    for configuration in CONFIGURATIONS:
        runs = work.glob(f"**/runs/{DATASET}/*__{configuration}/*/events.jsonl")
        (newest,) = (file for file in runs if file.stat().st_mtime > start)
        lines = map(json.loads, newest.read_text().splitlines())
        epochs = [one for one in lines if one["event"] == "epoch"]
        enough = [one for one in epochs if np.mean(one["pseudo_dice"]) >= ENOUGH]
        reached = enough[0]["time"] if enough else np.nan
        figures[f"{configuration}, s to Dice {ENOUGH:.2f}"] = reached - start
        figures[f"{configuration}, s to the last epoch"] = epochs[-1]["time"] - start
        summaries = work.glob(f"**/*__{configuration}/fold_0/validation/summary.json")
        (scores,) = (file for file in summaries if file.stat().st_mtime > start)
        dice = json.loads(scores.read_text())["foreground_mean"]["Dice"]
        figures[f"{configuration}, Dice"] = dice
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("--trainings", type=int, default=5)
    asked = parser.parse_args()
    trees = {"before": asked.before, "now": Path(__file__).parents[1]}
    found = {name: [] for name in trees}
    with tempfile.TemporaryDirectory() as folder:
        for name in trees:
            work = Path(folder, name)
            prepare("hippocampus", "all complete", work, "2d")
            splits = ("--splits", str(work / "study" / "splits.json"))
            bridge(work, "plan", "1", "-c", "3d_fullres", *splits)
        for number in range(1, asked.trainings + 1):
            order = list(trees) if number % 2 else list(trees)[::-1]
            for name in order:
                figures = measured(trees[name].resolve(), Path(folder, name), number)
                found[name].append(figures)
                shown = ", ".join(f"{k} {v:.3f}" for k, v in figures.items())
                load = os.getloadavg()[0]
                print(f"{name} {number}: {shown}; load {load:.1f}", file=sys.stderr)
    print("| median | before | now | ratio | now minus before (95 %) |")
    print("|---|---|---|---|---|")
    for key in found["now"][0]:
        before, now = (np.array([one[key] for one in found[name]]) for name in trees)
        ratio = f"{np.median(now / before):.2f}"
        middle = " | ".join(f"{np.median(one):.3f}" for one in (before, now))
        print(f"| {key} | {middle} | {ratio} | {in_words(now - before)} |")


if __name__ == "__main__":
    main()
