"""A trained model as one file, and a file from elsewhere as a model.

Both ways go through the same gate: the words and numbers of plans and dataset are
compared with what nnU-Net writes, a pickle is read before it is loaded, and each
checkpoint is loaded by torch's list of harmless types in a process of its own, which
writes only what prediction needs to a new file. So a packed model carries no path, host
or person, and an unpacked one nothing that somebody else's machine has pickled.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.cleaning import CleaningRule
from nnunet_bridge.core.errors import (
    EnvironmentFault,
    InputError,
    NnUNetError,
    SecurityError,
)
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.quality import TrainingStructures
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.units import format_bytes
from nnunet_bridge.core.version import __version__
from nnunet_bridge.formats.archive import Archive, open_archive, write_archive
from nnunet_bridge.formats.files import (
    clear_os_errors,
    is_locked,
    only_writer,
    read_json,
    sha256_of,
    whole_file,
    write_json,
)
from nnunet_bridge.formats.folders import put_in_place, work_folder
from nnunet_bridge.formats.labels_file import read_label_table
from nnunet_bridge.nnunet.checkpoints import check_checkpoint
from nnunet_bridge.nnunet.commands import (
    Resources,
    checkpoint_command,
    nnunet_environment,
    run_to_end,
)
from nnunet_bridge.nnunet.models import (
    CARD_FILE,
    CLEANING_FILE,
    DATASET_FILE,
    MOST_JSON_BYTES,
    PLANS_FILE,
    Contents,
    ModelName,
    check_model_folder,
    checked_card,
    checked_dataset,
    checked_plans,
    parsed,
    sorted_contents,
)
from nnunet_bridge.nnunet.names import (
    CHECKPOINT_FINAL,
    DATASET_FOLDER,
    FILE_ENDING,
    Workspace,
    number_of,
)
from nnunet_bridge.nnunet.runs import ORIGIN_FILE
from nnunet_bridge.nnunet.schemas import TrainingRange, refuse
from nnunet_bridge.pipeline.models.choose import Model, choose_model
from nnunet_bridge.pipeline.models.training_range import training_range
from nnunet_bridge.pipeline.models.training_structures import known_structures

_ONE_THREAD = Resources("cpu", threads=1, workers=1, loaders=0)
_MEANS = ("dice_before", "dice_after", "hd95_before_mm", "hd95_after_mm")
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
_SPACE_FACTOR = 2
"""The checkpoints lie on the disk as they came, and as they are kept."""


@dataclass(frozen=True, slots=True)
class PackSummary:
    """The file that a model became."""

    model: str
    file: Path
    sha256: str
    folds: tuple[str, ...]
    reason: str
    """Why this model and no other."""

    with_cleaning: bool
    exit_code: int = 0

    def as_json(self) -> JsonObject:
        """Return the object that `pack --json` prints."""
        return {
            "model": self.model,
            "sha256": self.sha256,
            "file": str(self.file),
            "bytes": self.file.stat().st_size,
            "folds": list(self.folds),
            "cleaning": self.with_cleaning,
        }

    def as_text(self) -> str:
        """Return what was packed, and how a receiver can tell that it is whole."""
        size = format_bytes(self.file.stat().st_size)
        cleaning = " and its tuned cleaning" if self.with_cleaning else ""
        return (
            f"Packed {self.model} ({self.reason}){cleaning}.\n"
            f"{self.file}: {size}, SHA-256 {self.sha256}"
        )


@dataclass(frozen=True, slots=True)
class UnpackSummary:
    """The model that a file became."""

    model: str
    folder: Path
    sha256: str
    """Of the file."""

    folds: tuple[str, ...]
    replaced: bool
    exit_code: int = 0

    def as_json(self) -> JsonObject:
        """Return the object that `unpack --json` prints."""
        return {
            "model": self.model,
            "sha256": self.sha256,
            "folder": str(self.folder),
            "folds": list(self.folds),
            "replaced": self.replaced,
        }

    def as_text(self) -> str:
        """Return where the model lies, and how to use it."""
        number = number_of(self.folder.parent.name)
        before = ", in place of the one that was there" if self.replaced else ""
        return (
            f"Unpacked {self.model}, fold {', '.join(self.folds)}{before}.\n"
            f"SHA-256 of the file: {self.sha256}\n"
            f"Predict with it: nnunet-bridge predict {number} INPUT -o OUT"
        )


def pack_model(  # noqa: PLR0913 - each is a word of the command
    workspace: Workspace,
    dataset: str,
    out_file: Path,
    *,
    configuration: str | None = None,
    folds: Sequence[str] = (),
    budget: str | None = None,
    model: str | None = None,
    progress: Progress | None = None,
) -> PackSummary:
    """Write a finished model to one zip, without anything that tells whose it is.

    The same model gives the same bytes. By default the model that `predict` would take.

    Raises
    ------
    InputError
        If no such model has finished.
    SecurityError
        If the model holds what `unpack` would refuse.
    EnvironmentFault
        If the disk refuses.
    """
    shown = progress or Silent()
    asked = [configuration] if configuration else []
    packed = choose_model(workspace, dataset, asked, folds, budget, kind=model)
    name = ModelName.of(packed.states[0].run)
    model_dir = packed.states[0].run.model_dir
    checkpoints = {
        str(state.run.fold): state.run.checkpoint_file for state in packed.states
    }
    check_model_folder(model_dir, [state.run.fold for state in packed.states])
    shown.stage(f"pack {name.folder}", len(checkpoints) + 1)
    with work_folder(out_file.absolute().parent, "pack") as work:
        copies = _copied(workspace, name, checkpoints, work)
        shown.advance(len(checkpoints))
        structures = known_structures(workspace, name.dataset, model_dir)
        seen = training_range(model_dir, workspace.dataset_dir(dataset))
        card = _card(packed, _hashes(copies), seen, structures)
        contents = _contents(model_dir, name, card, checkpoints, copies)
        zipped = work / "model.zip"
        write_archive(
            zipped, {f"{name.path}/{file}": part for file, part in contents.items()}
        )
        with open_archive(zipped) as archive:
            sorted_contents(archive.names)
        sha256 = sha256_of(zipped)
        if not out_file.is_file() or sha256_of(out_file) != sha256:
            with whole_file(out_file) as temporary:
                zipped.rename(temporary)
    return PackSummary(
        name.path,
        out_file,
        sha256,
        tuple(checkpoints),
        packed.reason,
        CLEANING_FILE in contents,
    )


def unpack_model(
    workspace: Workspace,
    file: Path,
    *,
    replace: bool = False,
    progress: Progress | None = None,
) -> UnpackSummary:
    """Put a packed model among the results, if nothing in it could do harm.

    Nothing of the model runs before all of it has passed, and the results are as they
    were if it does not.

    Raises
    ------
    SecurityError
        With the id of the fault (S01-S10); among them a model that is already there,
        unless `replace`.
    InputError
        If `predict` could not use the model: it has regions, or reads other files than
        ours, or its number belongs to another dataset here.
    EnvironmentFault
        If the disk refuses, or a training works in the same place.
    """
    shown = progress or Silent()
    with open_archive(file) as archive:
        contents = sorted_contents(archive.names)
        name = contents.name
        texts = _checked_texts(archive, contents)
        _require_space(workspace, contents, archive)
        shown.stage(f"unpack {name.folder}", len(contents.checkpoints) + 1)
        with (
            only_writer(workspace.dataset_lock(name.dataset), name.dataset),
            work_folder(workspace.results_dir, "unpack") as work,
        ):
            model_dir = _free_place(workspace, name, replace=replace)
            replaced = model_dir.exists()
            _require_usable(texts[DATASET_FILE], work)
            hashes = _unpacked_checkpoints(archive, contents, work / "foreign")
            _require_hashes(texts.get(CARD_FILE), hashes)
            shown.advance(len(hashes))
            foreign = {f: _checkpoint(work / "foreign", f) for f in hashes}
            copies = _copied_from_elsewhere(workspace, name, foreign, work)
            new = work / name.folder
            _write_model(new, texts, copies, hashes, sha256_of(file))
            put_in_place(new, model_dir)
    return UnpackSummary(name.path, model_dir, sha256_of(file), tuple(copies), replaced)


def _card(
    model: Model,
    hashes: Mapping[str, str],
    seen: TrainingRange | None,
    structures: TrainingStructures | None,
) -> JsonObject:
    """Return what a packed model says of itself."""
    return {
        "format": 1,
        "software": f"nnunet-bridge {__version__}",
        "budget": model.budget,
        "folds": {
            str(state.run.fold): {
                "mean_dice": state.mean_dice,
                "sha256": hashes[str(state.run.fold)],
            }
            for state in model.states
        },
        "training_range": seen and seen.model_dump(),
        "training_structures": structures.as_json() if structures else None,
    }


def _hashes(copies: Mapping[str, Path]) -> dict[str, str]:
    return {fold: sha256_of(copy) for fold, copy in copies.items()}


def _contents(
    model_dir: Path,
    name: ModelName,
    card: JsonObject,
    checkpoints: Mapping[str, Path],
    copies: Mapping[str, Path],
) -> dict[str, bytes | Path]:
    """Return the files of the archive, by their names in the model's folder."""
    plans = checked_plans(read_json(model_dir / PLANS_FILE), name)
    contents: dict[str, bytes | Path] = {
        PLANS_FILE: _as_bytes(plans),
        DATASET_FILE: _as_bytes(checked_dataset(read_json(model_dir / DATASET_FILE))),
        CARD_FILE: _as_bytes(checked_card(card)),
        **{f"fold_{fold}/{CHECKPOINT_FINAL}": copy for fold, copy in copies.items()},
    }
    cleaning_file = model_dir / CLEANING_FILE
    if cleaning_file.is_file():
        was = {fold: sha256_of(file) for fold, file in checkpoints.items()}
        labels = checked_dataset(read_json(model_dir / DATASET_FILE))["labels"]
        now = _hashes(copies)
        cleaning = _cleaning_for(read_json(cleaning_file), labels, was, now)
        if cleaning:
            contents[CLEANING_FILE] = _as_bytes(cleaning)
    return contents


def _as_bytes(content: JsonObject) -> bytes:
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def _cleaning_for(
    content: JsonObject,
    labels: Collection[str],
    was: Mapping[str, str],
    now: Mapping[str, str],
) -> JsonObject | None:
    """Return the tuned cleaning for checkpoints that were copied, without its cases.

    None if it was tuned on others, or is none.

    Parameters
    ----------
    content : dict
        Of a ``cleaning.json``.
    labels : collection of str
        The structures that the model knows.
    was, now : mapping
        Fold to the SHA-256 of its checkpoint before and after it was copied.
    """
    try:
        tuned_on = content["checkpoints"]
        if not all(tuned_on.get(fold) == sha256 for fold, sha256 in was.items()):
            return None
        structures = {
            structure: {
                **CleaningRule.from_json(row).as_json(),
                **{key: float(row[key]) for key in _MEANS if row.get(key) is not None},
            }
            for structure, row in content["structures"].items()
            if structure in labels
        }
    except (*_MALFORMED, InputError):
        return None
    return {"checkpoints": dict(now), "structures": structures}


def _checked_texts(archive: Archive, contents: Contents) -> dict[str, JsonObject]:
    """Return the judged content of every JSON file of an archive."""
    found = {
        file: parsed(archive.read(entry, most_bytes=MOST_JSON_BYTES), file)
        for file, entry in contents.texts.items()
    }
    texts = {
        PLANS_FILE: checked_plans(found[PLANS_FILE], contents.name),
        DATASET_FILE: checked_dataset(found[DATASET_FILE]),
    }
    if CARD_FILE in found:
        texts[CARD_FILE] = checked_card(found[CARD_FILE])
    if CLEANING_FILE in found:
        texts[CLEANING_FILE] = found[CLEANING_FILE]
    return texts


def _free_place(workspace: Workspace, name: ModelName, *, replace: bool) -> Path:
    """Return where a model belongs; refuse it if that place is taken, or in use."""
    here = [workspace.raw_dir, workspace.preprocessed_dir, workspace.results_dir]
    for folder in [place for place in here if place.is_dir()]:
        for other in sorted(entry.name for entry in folder.iterdir()):
            if (
                DATASET_FOLDER.fullmatch(other)
                and other != name.dataset
                and number_of(other) == number_of(name.dataset)
            ):
                raise InputError(
                    f"{other} in {folder} bears the same number as {name.dataset}, "
                    "which confuses nnU-Net: unpack into another workspace.",
                    code="N07",
                )
    model_dir = workspace.results_dir / name.path
    if model_dir.exists() and not replace:
        raise SecurityError(
            f"There is a model in {model_dir} already: unpack into another workspace, "
            "or put this one in its place with --replace.",
            code="S05",
        )
    records = (workspace.record_dir(name.dataset) / name.folder).glob("fold_*")
    for fold in records:
        run = name.run(workspace, fold.name.removeprefix("fold_"))
        if is_locked(run.lock_file):
            raise EnvironmentFault(
                f"{name.path} {fold.name} is in training: wait for it to end.",
                code="F08",
            )
    return model_dir


def _require_space(workspace: Workspace, contents: Contents, archive: Archive) -> None:
    """Refuse before the disk does."""
    sizes = {entry.filename: entry.file_size for entry in archive.entries}
    needed = _SPACE_FACTOR * sum(sizes[e] for e in contents.checkpoints.values())
    results = workspace.results_dir
    place = next(place for place in (results, *results.parents) if place.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise EnvironmentFault(
            f"Unpacking needs {format_bytes(needed)} in {results}, but "
            f"{format_bytes(free)} are free: free some space.",
            code="F06",
        )


def _checkpoint(parent: Path, fold: str) -> Path:
    return parent / f"fold_{fold}" / CHECKPOINT_FINAL


def _unpacked_checkpoints(
    archive: Archive, contents: Contents, target: Path
) -> dict[str, str]:
    """Write the checkpoints below `target` and judge them; return their hashes."""
    hashes = {}
    for fold, entry in sorted(contents.checkpoints.items()):
        file = _checkpoint(target, fold)
        file.parent.mkdir(parents=True)
        hashes[fold] = archive.unpack(entry, file)
        check_checkpoint(file)
    return hashes


def _require_hashes(card: JsonObject | None, hashes: Mapping[str, str]) -> None:
    """Refuse checkpoints that are not those that were packed."""
    if card is None:
        return
    packed = {fold: facts["sha256"] for fold, facts in card["folds"].items()}
    if packed != hashes:
        refuse(f"its checkpoints are not those that its {CARD_FILE} names", "S08")


def _copied_from_elsewhere(
    workspace: Workspace, name: ModelName, foreign: Mapping[str, Path], work: Path
) -> dict[str, Path]:
    """Copy foreign checkpoints; whatever torch refuses is refused."""
    try:
        return _copied(workspace, name, foreign, work)
    except NnUNetError as error:
        reason = str(error).partition(" The whole log:")[0].partition("): ")[2]
        raise SecurityError(
            "The model is refused: a checkpoint holds more than weights and plain "
            f"values ({quoted(reason[:200])}).",
            code="S01",
        ) from error


def _copied(
    workspace: Workspace, name: ModelName, checkpoints: Mapping[str, Path], work: Path
) -> dict[str, Path]:
    """Copy of each checkpoint what prediction needs, in a process of its own.

    Raises
    ------
    NnUNetError
        If one of them cannot be loaded.
    SecurityError
        S02, S09: if one belongs to another model than its folder says.
    """
    copies = {fold: _checkpoint(work / "copies", fold) for fold in checkpoints}
    for copy in copies.values():
        copy.parent.mkdir(parents=True)
    command = checkpoint_command(
        {checkpoints[fold]: copy for fold, copy in copies.items()}, _ONE_THREAD
    )
    environment = nnunet_environment(workspace, _ONE_THREAD, os.environ)
    for _ in run_to_end(command, environment, work / "log", "read the checkpoints"):
        pass
    for fold, copy in copies.items():
        facts = read_json(copy.with_suffix(".json"))
        for what, code in (("trainer", "S09"), ("configuration", "S02")):
            if facts[what] != getattr(name, what):
                refuse(
                    f"the checkpoint of fold {fold} names the {what} "
                    f"{quoted(facts[what])}, its folder {getattr(name, what)}",
                    code,
                )
    return copies


def _write_model(
    new: Path,
    texts: Mapping[str, JsonObject],
    copies: Mapping[str, Path],
    hashes: Mapping[str, str],
    archive_sha256: str,
) -> None:
    """Make the folder of a model from what was judged and copied."""
    card = texts.get(CARD_FILE, {})
    for file in (PLANS_FILE, DATASET_FILE):
        write_json(new / file, texts[file])
    for fold, copy in copies.items():
        target = _checkpoint(new, fold)
        with clear_os_errors(f"write {target}"):
            target.parent.mkdir(parents=True)
            copy.rename(target)
        origin = {
            "archive_sha256": archive_sha256,
            "mean_dice": card.get("folds", {}).get(fold, {}).get("mean_dice"),
            "training_range": card.get("training_range"),
            "training_structures": card.get("training_structures"),
        }
        write_json(target.with_name(ORIGIN_FILE), origin)
    if CLEANING_FILE in texts:
        now = {fold: sha256_of(_checkpoint(new, fold)) for fold in copies}
        labels = texts[DATASET_FILE]["labels"]
        cleaning = _cleaning_for(texts[CLEANING_FILE], labels, hashes, now)
        if cleaning:
            write_json(new / CLEANING_FILE, cleaning)


def _require_usable(description: JsonObject, work: Path) -> None:
    """Refuse a model that `predict` could not use."""
    copy = work / DATASET_FILE
    write_json(copy, description)
    try:
        read_label_table(copy)
    except InputError as error:
        reason = str(error).replace(str(copy), f"its {DATASET_FILE}")
        raise InputError(f"`predict` could not use this model: {reason}") from error
    ending = description["file_ending"]
    if ending != FILE_ENDING:
        raise InputError(
            f"The model reads {ending} files, and `predict` writes {FILE_ENDING}: use "
            "nnU-Net's own commands with it."
        )
