"""How well the quality rating of `predict` predicts a low Dice.

    python benchmarks/quality_rating.py predict WORKSPACE WORK
    python benchmarks/quality_rating.py judge WORKSPACE WORK docs/images

WORKSPACE holds the hippocampus study, trained at the smoke budget in five folds of 2d
and 3d_fullres (`nnunet-bridge run`, see CONTRIBUTING). `predict` lets each fold, each
configuration and their mean predict the cases that no training has seen: the four test
patients of the study, and the scans of the Medical Segmentation Decathlon that are not
in the study (a scan is, if one of the study has labels of the same volumes on an array
of the same shape). Each is also degraded in seven ways. `judge` gives each its quality
level, compares it with the Dice, and writes WORK/judged.csv and a picture. The limits
of agreement are set on every other patient and shown on the rest.
"""

import csv
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import SimpleITK
from scipy import ndimage
from scipy.stats import rankdata

from nnunet_bridge.core.quality import MemberAgreement, Quality, QualityLevel
from nnunet_bridge.formats.nifti import read_labelmap
from nnunet_bridge.nnunet.commands import predict_command
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.host import Host
from nnunet_bridge.nnunet.names import FILE_ENDING, Dataset, Workspace
from nnunet_bridge.ops.metrics import bone_scores
from nnunet_bridge.ops.quality import AGREEMENT_LIMITS, judge
from nnunet_bridge.pipeline.models.choose import Model, ModelRequest, choose_model
from nnunet_bridge.pipeline.models.training_range import known_structures

DATASET = "Dataset004_Hippocampus"
CONFIGURATIONS = ("2d", "3d_fullres")
FOLDS = tuple("01234")
DATA = Path(
    os.environ.get("NNUNET_BRIDGE_TEST_DATA")
    or Path(__file__).parents[2] / "shared" / "data"
)
AS_GIVEN = "as given"


def model_of(workspace: Workspace, configuration: str) -> Model:
    """Return the finished model of a configuration."""
    return choose_model(Dataset(workspace, DATASET), ModelRequest((configuration,)))


def noisy(voxels, rng):
    """Return Rician noise of a quarter of the bright tissue."""
    size = 0.25 * np.percentile(voxels, 99)
    real, imaginary = rng.normal(0, size, (2, *voxels.shape))
    return np.hypot(voxels + real, imaginary)


def shaded(voxels, rng):
    """Return the image under a bias field that grows sixfold along one way."""
    way = rng.normal(size=3)
    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in voxels.shape)), -1)
    along = places.swapaxes(0, 1) @ (way / np.abs(way).sum())
    return voxels * np.exp(np.log(6) * (along + 1) / 2)


def cut(voxels, rng):
    """Return the image with its last two fifths along j gone, as if never scanned."""
    del rng
    return voxels[:, : voxels.shape[1] * 3 // 5]


def inverted(voxels, rng):
    """Return the image with dark for bright, as another contrast would have it."""
    del rng
    return voxels.max() - voxels


def coarse(voxels, rng):
    """Return the image as scanned with voxels of 4 mm, brought back to its grid."""
    del rng
    small = ndimage.zoom(ndimage.gaussian_filter(voxels, 1.7), 0.25, order=1)
    factors = [a / b for a, b in zip(voxels.shape, small.shape, strict=True)]
    return ndimage.zoom(small, factors, order=1)


def turned(voxels, rng):
    """Return the image upside down, as a wrong header would have it."""
    del rng
    return voxels[:, :, ::-1]


def moved(voxels, rng):
    """Return the image with the ghosts of a patient who moved."""
    spectrum = np.fft.fftn(voxels)
    lines = rng.permutation(voxels.shape[1])[: voxels.shape[1] // 2]
    phases = np.exp(1j * rng.normal(0, 1.5, len(lines)))
    spectrum[:, lines] *= phases[:, np.newaxis]
    return np.abs(np.fft.ifftn(spectrum))


DEGRADED: dict[str, Callable] = {
    "noise": noisy,
    "bias field": shaded,
    "cut field": cut,
    "inverted": inverted,
    "4 mm voxels": coarse,
    "upside down": turned,
    "motion": moved,
}


def oriented(file):
    """Return an image along the axes of LPS, as `convert` left those of the study."""
    return SimpleITK.DICOMOrient(SimpleITK.ReadImage(str(file)), "LPS")


def counts(labels):
    voxels = SimpleITK.GetArrayFromImage(labels).astype(np.uint8)
    return (*labels.GetSize(), *np.bincount(voxels.ravel(), minlength=3)[1:])


def held_back(workspace):
    """Return case -> image and labels of all cases that no training has seen."""
    raw = Dataset(workspace, DATASET).raw_dir
    cases, known = {}, set()
    for part in ("Tr", "Ts"):
        for file in sorted((raw / f"labels{part}").glob("*.nii.gz")):
            labels = oriented(file)
            known.add(counts(labels))
            if part == "Ts":
                name = file.name.removesuffix(FILE_ENDING)
                image = raw / "imagesTs" / f"{name}_0000{FILE_ENDING}"
                cases[name] = oriented(image), labels
    for part in ("Tr", "Ts"):
        folder = DATA / "train" / "msd_hippocampus"
        for file in sorted((folder / f"labels{part}").glob("*.nii.gz")):
            labels = oriented(file)
            if counts(labels) not in known:
                name = "msd_" + file.name.removesuffix(FILE_ENDING)[-3:]
                cases[name] = oriented(folder / f"images{part}" / file.name), labels
    return cases


def changed(image, labels, way, rng):
    """Return a degraded image and the labels that still lie in it."""
    voxels = SimpleITK.GetArrayFromImage(image).T.astype(np.float64)
    drawn = SimpleITK.GetArrayFromImage(labels).T
    new = np.ascontiguousarray(way(voxels, rng))
    if way is turned:
        drawn = np.ascontiguousarray(drawn[:, :, ::-1])
    if way is cut:
        drawn = np.ascontiguousarray(drawn[:, : new.shape[1]])
    results = []
    for array in (new.astype(np.float32), drawn.astype(np.uint8)):
        result = SimpleITK.GetImageFromArray(array.T)
        result.SetSpacing(image.GetSpacing())
        results.append(result)
    return results


def predict(workspace, work):
    images, references = work / "images", work / "references"
    images.mkdir(parents=True)
    references.mkdir()
    for case, (image, labels) in held_back(workspace).items():
        for name, way in {AS_GIVEN: None, **DEGRADED}.items():
            seed = int.from_bytes(f"{case} {name}".encode()) % 2**32
            rng = np.random.default_rng(seed)
            pair = changed(image, labels, way or (lambda v, _: v), rng)
            file = f"{case}-{name.replace(' ', '_')}"
            SimpleITK.WriteImage(pair[0], str(images / f"{file}_0000{FILE_ENDING}"))
            SimpleITK.WriteImage(pair[1], str(references / f"{file}{FILE_ENDING}"))
    host, dataset = Host(), Dataset(workspace, DATASET)
    resources = host.resources("cpu")
    folders = {
        name: choose_model(dataset, ModelRequest((name,))).states[0].run.model_dir
        for name in CONFIGURATIONS
    }

    def run(out, members):
        command = predict_command(
            members, images, work / out, resources, progress_file=work / "progress"
        )
        process = host.launch(workspace, command, resources, work / "log")
        host.finish(process, f"predict {out}")
        print("done", out, flush=True)

    for folds in (FOLDS, *((fold,) for fold in FOLDS)):
        for configuration, folder in folders.items():
            run(f"{configuration}-{'-'.join(folds)}", {folder: folds})
    run("mean", dict.fromkeys(folders.values(), FOLDS))


@dataclass(frozen=True)
class Judged:
    """One prediction, its quality level, and its Dice with the reference."""

    case: str
    way: str
    quality: Quality
    dice: tuple[float, ...]
    """Of the structures that either side holds."""

    chosen_on: bool
    """Whether the thresholds were chosen on this patient."""

    @property
    def lowest(self):
        """Lowest Dice between members."""
        return self.quality.lowest_agreement

    @property
    def least_dice(self):
        """Lowest Dice with the reference."""
        return min(self.dice)

    @property
    def mean_dice(self):
        """Mean Dice with the reference."""
        return float(np.mean(self.dice))


def dices(one, other):
    """Return label value -> Dice; None where neither holds the structure."""
    return {
        label.value: score.dice
        for label, score in zip(
            one.labels, bone_scores(one, other, case_id=""), strict=True
        )
    }


def mean_of(tables):
    """Return label value -> mean over tables of what is defined."""
    return {
        value: float(np.mean(known)) if known else None
        for value in tables[0]
        for known in [[t[value] for t in tables if t[value] is not None]]
    }


def lowest_of(tables):
    """Return label value -> lowest over tables of what is defined."""
    return {
        value: min((t[value] for t in tables if t[value] is not None), default=None)
        for value in tables[0]
    }


def judged(workspace, work):
    """Return held-back cases, given and degraded, with quality level and Dice."""
    raw = RawDataset.open(Dataset(workspace, DATASET).raw_dir)
    model_dir = (
        choose_model(Dataset(workspace, DATASET), ModelRequest(("2d",)))
        .states[0]
        .run.model_dir
    )
    training = known_structures(Dataset(workspace, DATASET), model_dir)
    files = sorted((work / "references").glob(f"*{FILE_ENDING}"))
    patients = list(dict.fromkeys(file.name.partition("-")[0] for file in files))
    results = []
    for file in files:
        case, _, way = file.name.removesuffix(FILE_ENDING).partition("-")

        def member(name, file=file):
            return read_labelmap(work / name / file.name, raw.labels)

        between_folds = [
            mean_of(
                [
                    dices(one, other)
                    for one, other in combinations(
                        [member(f"{configuration}-{fold}") for fold in FOLDS], 2
                    )
                ]
            )
            for configuration in CONFIGURATIONS
        ]
        whole = [member(f"{name}-{'-'.join(FOLDS)}") for name in CONFIGURATIONS]
        agreement = MemberAgreement(lowest_of(between_folds), dices(*whole))
        prediction = member("mean")
        reference = read_labelmap(file, raw.labels)
        dice = [d for d in dices(prediction, reference).values() if d is not None]
        results.append(
            Judged(
                case,
                way.replace("_", " "),
                judge(prediction, agreement, training),
                tuple(dice),
                patients.index(case) % 2 == 0,
            )
        )
    return results


def validated(workspace):
    """Return the study's own patients, each by the fold that had not seen it.

    One fold a configuration answers, so only 2d and 3d can be compared.
    """
    raw = RawDataset.open(Dataset(workspace, DATASET).raw_dir)
    folders = {
        name: choose_model(Dataset(workspace, DATASET), ModelRequest((name,)))
        .states[0]
        .run.model_dir
        for name in CONFIGURATIONS
    }
    training = known_structures(Dataset(workspace, DATASET), folders["2d"])
    results = []
    for file in sorted(folders["2d"].glob(f"fold_*/validation/*{FILE_ENDING}")):
        place = file.relative_to(folders["2d"])
        one, other = (read_labelmap(f / place, raw.labels) for f in folders.values())
        case = file.name.removesuffix(FILE_ENDING)
        reference = read_labelmap(raw.label_file(case, "Tr"), raw.labels)
        quality = judge(other, MemberAgreement(None, dices(one, other)), training)
        dice = tuple(dices(other, reference).values())
        results.append(Judged(case, "validation", quality, dice, chosen_on=False))
    return results


def spearman(x, y):
    if len(set(x)) < 2 or len(set(y)) < 2:
        return np.nan
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def correlation(results, score, truth):
    """Return Spearman's rho and its 95 % interval; patients are drawn, not images."""
    by_patient = {}
    for one in results:
        if score(one) is not None:
            by_patient.setdefault(one.case, []).append((score(one), truth(one)))
    patients = list(by_patient.values())
    rng = np.random.default_rng(20_260)

    def rho(chosen):
        pairs = [pair for patient in chosen for pair in patient]
        return spearman(*zip(*pairs, strict=True))

    drawn = [
        rho([patients[n] for n in rng.integers(len(patients), size=len(patients))])
        for _ in range(2000)
    ]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return rho(patients), low, high


def said(results, score, truth):
    """Return a correlation in words, or why there is none."""
    pairs = [(score(r), truth(r)) for r in results if score(r) is not None]
    if not pairs or len({one for one, _ in pairs}) == 1:
        return "none, all alike"
    return "{:+.2f} ({:+.2f} to {:+.2f})".format(*correlation(results, score, truth))


def lowest(one):
    return one.lowest


def light(one):
    return -int(one.quality.level)


def percentiles(values, which):
    return "  ".join(f"{value:.2f}" for value in np.percentile(values, which))


def order(one):
    """Return what puts a case further down the page of ratings."""
    light, reds, ambers, doubt = one.quality.rank
    return -(1e6 * light + 1e3 * reds + 10 * ambers + doubt)


def describe(title, results):
    """Print how well the quality level separates good from poor predictions."""
    if not results:
        return
    print(
        f"\n{title}: {len(results)} predictions of "
        f"{len({r.case for r in results})} patients"
    )
    for name, truth in (
        ("lowest Dice", lambda r: r.least_dice),
        ("mean Dice", lambda r: r.mean_dice),
    ):
        for score, words in (
            (lowest, "lowest agreement"),
            (light, "light"),
            (order, "order on the page"),
        ):
            print(f"  {words} ~ {name}: {said(results, score, truth)}")
    for level in reversed(QualityLevel):
        own = [r.least_dice for r in results if r.quality.level is level]
        spread = (
            "  ".join(f"{v:.2f}" for v in np.percentile(own, [0, 50, 100]))
            if own
            else "-"
        )
        print(f"  {level!s:6} {len(own):4}  lowest Dice, least, median, most: {spread}")
    for limit in LOW_DICE:
        low = [r for r in results if r.least_dice < limit]
        fine = [r for r in results if r.least_dice >= limit]
        noticed = sum(r.quality.level > QualityLevel.GREEN for r in low)
        false = sum(r.quality.level > QualityLevel.GREEN for r in fine)
        red = sum(r.quality.level is QualityLevel.RED for r in low)
        false_red = sum(r.quality.level is QualityLevel.RED for r in fine)
        print(
            f"  Dice below {limit}: noticed {noticed} of {len(low)} (red {red}); "
            f"others lit for nothing {false} of {len(fine)} (red {false_red})"
        )


LOW_DICE = (0.7, 0.8)
"""A structure below is called low."""


def calibration(results):
    """Print how good a structure was in truth, by how alike the members saw it."""
    print("\nagreement of a structure: number, and its Dice (10 %, median, 90 %)")
    for kind in AGREEMENT_LIMITS:
        pairs = [
            (reason.value, dice)
            for r in results
            if len(r.dice) == len(STRUCTURES)
            for name, dice in zip(STRUCTURES, r.dice, strict=True)
            for reason in r.quality.reasons
            if (reason.structure, reason.kind) == (name, kind)
        ]
        print(f"  {kind}: Spearman {spearman(*zip(*pairs, strict=True)):+.2f}")
        for low, high in zip(BINS, (*BINS[1:], 1.01), strict=True):
            own = [dice for value, dice in pairs if low <= value < high]
            if own:
                spread = percentiles(own, (10, 50, 90))
                print(f"    {low:.1f} to {min(high, 1):.1f}: {len(own):3}  {spread}")


STRUCTURES = ("anterior", "posterior")
BINS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def unaided(results):
    """Return the same as if one fold of one configuration had answered."""
    return [
        replace(
            r,
            quality=Quality(
                tuple(x for x in r.quality.reasons if x.kind not in AGREEMENT_LIMITS)
            ),
        )
        for r in results
    ]


def by_way(results):
    print(
        "\nway                n  red amber green"
        "  lowest Dice: least median  agreement: median"
    )
    for way in dict.fromkeys(r.way for r in results):
        own = [r for r in results if r.way == way]
        lights = [
            sum(r.quality.level is level for r in own)
            for level in reversed(QualityLevel)
        ]
        least = [r.least_dice for r in own]
        agreed = [r.lowest for r in own if r.lowest is not None]
        print(
            f"{way:16} {len(own):3} {lights[0]:4} {lights[1]:5} {lights[2]:5} "
            f"{min(least):17.2f} {np.median(least):6.2f} {np.median(agreed):18.2f}"
        )


def kinds(results):
    """Print which reasons lit, and how good the structure was in truth."""
    print("\nreason                  amber  red")
    for kind in dict.fromkeys(x.kind for r in results for x in r.quality.reasons):
        own = [x for r in results for x in r.quality.reasons if x.kind == kind]
        print(
            f"{kind:22} {sum(x.level is QualityLevel.AMBER for x in own):6} "
            f"{sum(x.level is QualityLevel.RED for x in own):4}"
        )


def draw(results, file):
    """Draw the lowest Dice of every prediction over its lowest agreement."""
    from matplotlib.figure import Figure

    colours = {
        QualityLevel.GREEN: "#1b6e3c",
        QualityLevel.AMBER: "#d98200",
        QualityLevel.RED: "#b3261e",
    }
    marks = {QualityLevel.GREEN: "o", QualityLevel.AMBER: "^", QualityLevel.RED: "s"}
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    panels = (
        ("as given", [r for r in results if r.way == AS_GIVEN]),
        ("degraded", [r for r in results if r.way != AS_GIVEN]),
    )
    for place, (title, shown) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, 2, place)
        for level, colour in colours.items():
            own = [
                (r.lowest if r.lowest is not None else 0.0, r.least_dice)
                for r in shown
                if r.quality.level is level
            ]
            if own:
                x, y = zip(*own, strict=True)
                axes.scatter(
                    x,
                    y,
                    26,
                    colour,
                    marker=marks[level],
                    alpha=0.75,
                    linewidths=0,
                    label=f"{level} ({len(own)})",
                )
        axes.set(
            xlim=(-0.03, 1),
            ylim=(-0.03, 1),
            title=f"{title}: {len(shown)}",
            xlabel="lowest Dice between members (needs no reference)",
        )
        axes.grid(alpha=0.25)
        axes.legend(loc="lower right", frameon=False)
    figure.axes[0].set_ylabel("lowest Dice with the reference")
    figure.savefig(file, dpi=110)


def report(workspace, work, pictures):
    results = judged(workspace, work)
    given = [r for r in results if r.way == AS_GIVEN]
    degraded = [r for r in results if r.way != AS_GIVEN]
    calibration([r for r in results if r.chosen_on])
    describe("as given, all", given)
    describe("as given, kept to show", [r for r in given if not r.chosen_on])
    describe("degraded, kept to show", [r for r in degraded if not r.chosen_on])
    describe("as given, without members to compare", unaided(given))
    kept = [r for r in degraded if not r.chosen_on]
    describe("degraded, kept to show, without members to compare", unaided(kept))
    describe(
        "the study's own, each by the fold that had not seen it", validated(workspace)
    )
    by_way(results)
    kinds(results)
    with (work / "judged.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(
            [
                "case",
                "way",
                "light",
                "lowest_agreement",
                "least_dice",
                "mean_dice",
                "chosen_on",
                "reasons",
            ]
        )
        for r in results:
            reasons = "; ".join(str(x) for x in r.quality.concerns)
            writer.writerow(
                [
                    r.case,
                    r.way,
                    r.quality.level,
                    r.lowest,
                    r.least_dice,
                    r.mean_dice,
                    r.chosen_on,
                    reasons,
                ]
            )
    draw(results, pictures / "quality-light.png")


if __name__ == "__main__":
    step, place, folder = sys.argv[1:4]
    here = Workspace.at(Path(place), environment={})
    if step == "predict":
        predict(here, Path(folder))
    else:
        report(here, Path(folder), Path(sys.argv[4]))
