"""What partly drawn cases teach: `missing = "partial"` against leaving them out.

    python benchmarks/partial_labels.py train WORK [--minutes 5] [--trainings 5]
    python benchmarks/partial_labels.py report

One structure of two real studies is hidden in 70 % of the training cases of fold 0, by
the state `unlabelled` of the case table alone. Four datasets are made of each study: of
the complete cases only, with `"ignore"`, with `"partial"`, and with everything drawn.
All have the same cases for validation, and those are complete.

`train` converts, plans and trains them in turn (2d, or 3d_fullres with --configuration;
budget smoke; fold 0). Training n of every dataset has the same random numbers. The mean
Dice of the validation cases, computed by its definition, goes into partial_labels.csv
beside this script, with one row for each training. After so many minutes it starts no
further training; called again, it goes on with those that have no row. `report` prints
the means, and the differences of `"partial"` from the others, paired by training, with
Student's 95 % intervals.

Data: the 30 training cases of the hippocampus and all ten spines in the folder `train`
of NNUNET_BRIDGE_TEST_DATA.
"""

import argparse
import csv
import json
import shutil
import time
from itertools import product
from pathlib import Path
from unittest import mock

import nibabel as nib
import numpy as np
from audit import STUDIES, bridge, files_of
from scipy import stats

from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.nnunet.training_options import TrainingOptions
from nnunet_bridge.pipeline.training import train as training
from nnunet_bridge.pipeline.training.request import TrainingRequest, requested_runs

HIDDEN = {"hippocampus": "posterior", "spine": "L3"}
WAYS = ("complete cases only", "ignore", "partial", "all complete")
DATASET = "Dataset001_Partial"
SHARE, FOLDS = 0.7, 5
RESULTS = Path(__file__).with_suffix(".csv")
RESULT_COLUMNS = (
    *("configuration", "study", "way", "training"),
    *("hidden_dice", "others_dice"),
)
COLUMNS = ("case", "patient", "role", "structure", "value", "state", "file")


def split(study):
    """Return training cases, those with a hidden structure, and cases held out."""
    cases = sorted(files_of(study))
    order = np.random.default_rng(len(cases)).permutation(cases).tolist()
    held_out = round(len(cases) / FOLDS)
    training = order[held_out:]
    return (
        sorted(training),
        set(training[: round(SHARE * len(training))]),
        order[:held_out],
    )


def rows_of(study, way, hidden):
    """Yield the rows of the case table."""
    names = STUDIES[study][2]
    for case in sorted(files_of(study)):
        image, labels = f"{case}_image.nii.gz", f"{case}_labels.nii.gz"
        left_out = case in hidden and way == "complete cases only"
        if left_out:
            yield from ((case, case, "ignore", "", "", "", f) for f in (image, labels))
            continue
        yield case, case, "image", "", "", "", image
        for value, name in enumerate(names, start=1):
            hides = case in hidden and name == HIDDEN[study] and way != "all complete"
            state = "unlabelled" if hides else "drawn"
            yield case, case, "labelmap", name, value, state, labels


def prepare(study, way, work, configuration):
    """Convert and plan one of the datasets."""
    training, hidden, held_out = split(study)
    folder = work / "study"
    folder.mkdir(parents=True)
    for case, (image, labels) in files_of(study).items():
        shutil.copy(image, folder / f"{case}_image.nii.gz")
        shutil.copy(labels, folder / f"{case}_labels.nii.gz")
    with (folder / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows_of(study, way, hidden)])
    names = "\n".join(f"{n} = {v}" for v, n in enumerate(STUDIES[study][2], start=1))
    missing = f'[merge]\nmissing = "{way}"\n' if way in ("ignore", "partial") else ""
    dataset = '[dataset]\nid = 1\nname = "Partial"\ntable = "cases.csv"\n'
    (folder / "dataset.toml").write_text(f"{dataset}[labels]\n{names}\n{missing}")
    if way == "complete cases only":
        training = [case for case in training if case not in hidden]
    folds = [{"train": training, "val": sorted(held_out)}]
    (folder / "splits.json").write_text(json.dumps(folds))
    bridge(work, "convert", str(folder), "-r", str(folder / "dataset.toml"))
    splits = ("--splits", str(folder / "splits.json"))
    bridge(work, "plan", "1", "-c", configuration, *splits)
    (work / "planned").touch()


def predictions(work, number):
    """Return the validation predictions of a training; none if it has not ended."""
    results = "nnUNet_results"
    if number > 1:
        results = f"runs/{DATASET}/*/fold_0_seed_{number - 1}/results"
    places = work.glob(f"{results}/{DATASET}/*/fold_0/validation")
    return [
        file
        for place in places
        if (place / "summary.json").is_file()
        for file in sorted(place.glob("*.nii.gz"))
    ]


def train(study, way, number, kept, configuration):
    """Train once more; the dataset is made first where there is none."""
    work = kept / configuration / f"{study}_{way.replace(' ', '_')}"
    if number in measured(study, configuration).get(way, {}):
        return
    if not (work / "planned").exists():
        shutil.rmtree(work, ignore_errors=True)
        prepare(study, way, work, configuration)

    train_nth(work, (configuration,), number)
    keep(study, way, number, kept, configuration)


def train_nth(work, configurations, number):
    """Train fold 0 for the nth time, without the trainings before it.

    Another machine may have measured those.
    """

    def this_one(dataset, request):
        many = requested_runs(dataset, request)
        return [run for run in many if number == 1 or seed in str(run.fold_dir)]

    options, method = TrainingOptions(device="cpu"), method_of("nnunet", "smoke")
    seed = f"fold_0_seed_{number - 1}"
    request = TrainingRequest(method, configurations, ("0",), options, repeat=number)
    dataset = Dataset.find(Workspace.at(work), "1")
    with mock.patch.object(training, "requested_runs", this_one):
        training.train_dataset(dataset, request)


def dice(study, file):
    """Return the Dice of each structure in a prediction, by its definition."""
    found = np.asarray(nib.load(file).dataobj)
    drawn = np.asarray(
        nib.load(files_of(study)[file.name.removesuffix(".nii.gz")][1]).dataobj
    )
    values = range(1, 1 + len(STUDIES[study][2]))
    pairs = ((found == value, drawn == value) for value in values)
    return [2 * (p & d).sum() / (p.sum() + d.sum()) for p, d in pairs]


def keep(study, way, number, kept, configuration):
    """Add the row of a training; none if it has not ended."""
    work = kept / configuration / f"{study}_{way.replace(' ', '_')}"
    if not (files := predictions(work, number)):
        return
    hidden = STUDIES[study][2].index(HIDDEN[study])
    means = np.mean([dice(study, file) for file in files], axis=0)
    others = np.delete(means, hidden).mean()
    is_new = not RESULTS.is_file()
    with RESULTS.open("a", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        if is_new:
            rows.writerow(RESULT_COLUMNS)
        scores = f"{means[hidden]:.6f}", f"{others:.6f}"
        rows.writerow((configuration, study, way, number, *scores))


def measured(study, configuration):
    """Return way -> training -> mean Dice of the hidden structure and of the others."""
    scores = {}
    if RESULTS.is_file():
        with RESULTS.open(newline="") as file:
            for row in csv.DictReader(file):
                if (row["study"], row["configuration"]) == (study, configuration):
                    pair = float(row["hidden_dice"]), float(row["others_dice"])
                    scores.setdefault(row["way"], {})[int(row["training"])] = pair
    return scores


def in_words(values):
    """Return a mean with Student's 95 % interval."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:+.3f} (one training)"
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"


def report(configuration):
    columns = ("study", f"{configuration}, trained on", "trainings", "hidden: Dice")
    columns += ("others: Dice", "hidden: partial minus this", "others: likewise")
    print(f"| {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|---|")
    for study in STUDIES:
        scores = measured(study, configuration)
        partial = scores.get("partial", {})
        for way, own in scores.items():
            both = sorted(own.keys() & partial.keys())
            cells = [f"{np.mean([own[n][part] for n in own]):.3f}" for part in (0, 1)]
            for part in (0, 1):
                away = [partial[n][part] - own[n][part] for n in both]
                cells.append(in_words(away) if way != "partial" and away else "")
            name = f"{study} ({HIDDEN[study]} hidden)"
            print(f"| {name} | {way} | {len(own)} | {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("train", "report"))
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--trainings", type=int, default=5)
    parser.add_argument("--configuration", default="2d")
    parser.add_argument("--study", choices=tuple(STUDIES), help="default: both")
    asked = parser.parse_args()
    if asked.what == "report":
        report(asked.configuration)
        return
    asked.work.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * asked.minutes
    numbers = range(1, asked.trainings + 1)
    studies = [asked.study] if asked.study else list(STUDIES)
    for number, study, way in product(numbers, studies, WAYS):
        if time.monotonic() > until:
            return
        start = time.monotonic()
        train(study, way, number, asked.work, asked.configuration)
        took = time.monotonic() - start
        print(f"{study}, {way}, training {number}: {took:.0f} s", flush=True)


if __name__ == "__main__":
    main()
