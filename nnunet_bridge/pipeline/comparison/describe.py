"""A methods paragraph about a dataset and its trainings, from their files alone.

Every sentence states what a file says; what no file says is listed as missing, for the
author to add. `describe` reads the manifest, the splits, the records of finished runs
and, if there is one, ``comparison.json``.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from nnunet_bridge.core.cases import findings_in
from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.findings import Outcome
from nnunet_bridge.core.summary import JsonObject, json_of
from nnunet_bridge.core.units import counted, format_duration
from nnunet_bridge.formats.files import read_json
from nnunet_bridge.formats.manifest import CaseRecord, patients_of, read_manifest
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.names import Dataset
from nnunet_bridge.nnunet.runs import RunState, known_runs
from nnunet_bridge.nnunet.splits import cases_of, splits_in
from nnunet_bridge.pipeline.comparison.facts import settings_of, versions_of
from nnunet_bridge.pipeline.models.run_facts import ModelRun, facts_of, fold_run

_NOT_IN_FILES = (
    "ethics approval, scanner and sequence, field strength, and who drew the masks"
)
_SAID_OR_OF_NO_USE = (
    *("configuration", "budget", "model", "patients", "system", "threads"),
    *("workers", "loaders"),
)
_MEASURES = {"dice": "Dice", "hd95_mm": "HD95 (mm)", "assd_mm": "ASSD (mm)"}


@dataclass(frozen=True, slots=True)
class Description:
    """The paragraph, sentence by sentence, and what the files do not say."""

    dataset: str
    sentences: tuple[str, ...]
    missing: tuple[str, ...]
    exit_code: int = 0

    def as_json(self) -> JsonObject:
        """Return the object that `describe --json` prints."""
        return json_of(self, "exit_code")

    def as_text(self) -> str:
        """Return the paragraph, then what to add."""
        return f"{' '.join(self.sentences)}\n\nAdd: {'; '.join(self.missing)}."


def describe_dataset(dataset: Dataset, comparison: Path | None = None) -> Description:
    """Describe data, splits, trainings, versions and results of a dataset.

    `comparison` is a folder that `compare` wrote for this dataset.

    Raises `InputError` if it is of another dataset.
    """
    raw = RawDataset.open(dataset.raw_dir, regions=True)
    records = read_manifest(raw.folder).by_case()
    training, testing = raw.training_cases(), raw.test_cases()
    patients = patients_of(raw.folder, training) if records else {}
    sentences = [*_data(raw, training, testing, records)]
    sentences += _splits(dataset, patients)
    missing = [_NOT_IN_FILES] + ([] if records else ["patients, voxels, corrections"])
    runs = _finished(dataset)
    for run in runs:
        sentences += _training(run)
    sentences += _versions(runs)
    missing += [] if runs else ["training: no run is finished"]
    if comparison is None:
        missing.append("results: name the folder of `compare` with --comparison")
    else:
        sentences += _results(dataset, comparison)
    return Description(dataset.name, tuple(sentences), tuple(missing))


def _data(
    raw: RawDataset,
    training: Sequence[str],
    testing: Sequence[str],
    records: Mapping[str, CaseRecord],
) -> Iterator[str]:
    held = [records[case] for case in (*training, *testing) if case in records]
    people = {record.person or record.patient for record in held} - {""}
    of_people = f" of {counted(len(people), 'patient')}" if people else ""
    known = (r.contrast.modality for r in held if r.contrast)
    kinds = sorted({kind for kind in known if kind})
    images = f"{' and '.join(kinds)} images" if kinds else "images"
    yield (
        f"The dataset holds {counted(len(training) + len(testing), 'case')}"
        f"{of_people}: {len(training)} for training and {len(testing)} for testing, "
        f"{images} of {counted(len(raw.channels), 'channel')} "
        f"({', '.join(raw.channels)})."
    )
    names = [label.name for label in raw.labels]
    yield f"The {counted(len(names), 'structure')} are {', '.join(names)}."
    grids = [record.geometry for record in held if record.geometry]
    if grids:
        spacing = [_range([g.spacing_mm[axis] for g in grids]) for axis in range(3)]
        slices = _range([float(g.shape[2]) for g in grids])
        yield f"Voxels measure {' x '.join(spacing)} mm, with {slices} slices a case."
    refused = sum(record.outcome == str(Outcome.REFUSED) for record in records.values())
    if refused:
        yield f"{counted(refused, 'case')} could not be used and were left out."
    fixed = Counter(
        code
        for record in held
        for code in {f.code for f in findings_in(_plain(record)) if f.code}
    )
    if fixed:
        codes = ", ".join(f"{code} in {n}" for code, n in sorted(fixed.items()))
        yield f"Conversion corrected or warned of: {codes} (codes of nnunet_bridge)."


def _plain(record: CaseRecord) -> list[dict[str, str]]:
    return [finding.as_json() for finding in record.findings]


def _range(values: Sequence[float]) -> str:
    """Return the only value, or median and range."""
    low, high = min(values), max(values)
    if low == high:
        return f"{low:g}"
    return f"{median(values):g} (median; {low:g} to {high:g})"


def _splits(dataset: Dataset, patients: Mapping[str, str]) -> Iterator[str]:
    splits = splits_in(dataset.splits_file)
    if not splits:
        return
    sizes = _range([float(len(fold["val"])) for fold in splits])
    text = f"Cross-validation has {counted(len(splits), 'fold')} with {sizes} held out"
    known = patients.keys() >= cases_of(splits)
    shared = [
        person
        for fold in splits
        for person in {patients.get(c) for c in fold["train"]}
        & {patients.get(c) for c in fold["val"]}
    ]
    together = known and not shared
    yield f"{text}{'; no patient is on both sides of a fold' if together else ''}."


def _finished(dataset: Dataset) -> list[ModelRun]:
    """Return the finished trainings by model, configuration and budget."""
    groups: dict[str, list[RunState]] = {}
    for state in known_runs(dataset):
        if state.done:
            name = f"{state.model} {state.run.configuration}, budget {state.budget}"
            groups.setdefault(name, []).append(state)
    return [
        ModelRun(name, states[0].run.configuration, tuple(map(fold_run, states)))
        for name, states in groups.items()
    ]


def _training(run: ModelRun) -> Iterator[str]:
    named = {one.name: one.values[0] for one in settings_of([run]) if one.values[0]}
    for known in _SAID_OR_OF_NO_USE:
        named.pop(known, None)
    settings = "; ".join(f"{name} {value}" for name, value in named.items())
    folds = ", ".join(run.fold_names)
    yield f"Model {run.name} was trained on fold {folds}: {settings}."
    if "budget smoke" in run.name:
        yield "This training is a smoke test; its scores are not results."
    seconds = [facts_of(fold).get("seconds") for fold in run.folds]
    known_s = [s for s in seconds if isinstance(s, int | float)]
    if known_s and len(known_s) == len(seconds):
        yield f"It took {format_duration(sum(known_s))} in total."


def _versions(runs: Sequence[ModelRun]) -> Iterator[str]:
    found = {
        one.name.removesuffix(" version"): ", ".join(
            dict.fromkeys(filter(None, one.values))
        )
        for one in versions_of(runs)
        if one.name.endswith(" version") or one.name == "python"
    }
    if found:
        yield f"Software: {', '.join(f'{name} {v}' for name, v in found.items())}."


def _results(dataset: Dataset, folder: Path) -> Iterator[str]:
    content: dict[str, Any] = read_json(folder / "comparison.json")
    if content.get("dataset") != dataset.name:
        raise InputError(
            f"{folder} compares {content.get('dataset') or 'other tables'}, not "
            f"{dataset}: name the folder of `compare {dataset}`."
        )
    methods = content.get("methods") or {}
    yield (
        f"{' and '.join(content['models'])} were compared on "
        f"{counted(len(content['cases']), 'case')} of "
        f"{counted(int(content['patients']), 'patient')}."
    )
    if methods:
        yield f"{'; '.join(f'{word}: {method}' for word, method in methods.items())}."
    for row in content["results"]:
        if row["metric"] in _MEASURES and row["structure"] == "all structures":
            yield _difference(row)
    yield from content["verdict"]["sentences"]


def _difference(row: Mapping[str, Any]) -> str:
    """Return a row of the comparison in words; a figure that is null is left out."""
    name, interval = _MEASURES[row["metric"]], row["interval_95"]
    parts = [
        f"mean {row['mean_first']:.3f} and {row['mean_second']:.3f}"
        if None not in (row["mean_first"], row["mean_second"])
        else "",
        _figure("median difference", row["median_difference"]),
        f"95 % interval {interval[0]:.3f} to {interval[1]:.3f}"
        if interval and None not in interval
        else "",
        _figure("p", row["p"]),
        _figure("p (Holm)", row["p_holm"]),
        f"n = {row['n']}",
    ]
    figures = ", ".join(filter(None, parts))
    return f"{name}, {row['first']} and {row['second']}: {figures}."


def _figure(name: str, value: float | None) -> str:
    return "" if value is None else f"{name} {value:.3f}"
