"""Pack a trained model into one file, and unpack a file from elsewhere.

Both ways pass the same checks: plans and dataset are compared with what nnU-Net writes,
a pickle is read before it is loaded, and each checkpoint is loaded with torch's list of
harmless types in a process of its own, which writes only what prediction needs to a new
file. So a packed model carries no path, host or person, and an unpacked one nothing
that another machine has pickled.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
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
    readable_object,
    sha256_of,
    whole_file,
    write_json,
)
from nnunet_bridge.formats.folders import put_in_place, work_folder
from nnunet_bridge.formats.labels_file import read_label_table
from nnunet_bridge.nnunet.checkpoints import check_checkpoint
from nnunet_bridge.nnunet.commands import checkpoint_command
from nnunet_bridge.nnunet.host import ONE_THREAD, Host
from nnunet_bridge.nnunet.models import (
    CARD_FILE,
    CLEANING_FILE,
    DATASET_FILE,
    MOST_JSON_BYTES,
    PLANS_FILE,
    Contents,
    ModelFolder,
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
    Dataset,
    Workspace,
    number_of,
)
from nnunet_bridge.nnunet.runs import ORIGIN_FILE
from nnunet_bridge.nnunet.schemas import refuse
from nnunet_bridge.pipeline.models.choose import Model, ModelRequest, choose_model
from nnunet_bridge.pipeline.models.training_range import training_range
from nnunet_bridge.pipeline.models.training_structures import known_structures

_MEANS = ("dice_before", "dice_after", "hd95_before_mm", "hd95_after_mm")
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
_SPACE_FACTOR = 2
"""The checkpoints lie on the disk as they came, and as they are kept."""


@dataclass(frozen=True, slots=True)
class PackSummary:
    """The file that a model was packed into."""

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
        """Return the packed model, with the size and hash of the file."""
        size = format_bytes(self.file.stat().st_size)
        cleaning = " and its tuned cleaning" if self.with_cleaning else ""
        return (
            f"Packed {self.model} ({self.reason}){cleaning}.\n"
            f"{self.file}: {size}, SHA-256 {self.sha256}"
        )


@dataclass(frozen=True, slots=True)
class UnpackSummary:
    """The model that was unpacked."""

    model: str
    folder: Path
    sha256: str
    """Hash of the packed file."""

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
        """Return the place of the model, and how to predict with it."""
        number = number_of(self.folder.parent.name)
        before = ", replacing the previous one" if self.replaced else ""
        return (
            f"Unpacked {self.model}, fold {', '.join(self.folds)}{before}.\n"
            f"SHA-256 of the file: {self.sha256}\n"
            f"Predict with it: nnunet-bridge predict {number} INPUT -o OUT"
        )


def pack_model(
    dataset: Dataset,
    out_file: Path,
    request: ModelRequest | None = None,
    *,
    progress: Progress | None = None,
    host: Host | None = None,
) -> PackSummary:
    """Write a finished model to one zip, without paths, names or identities.

    The same model gives the same bytes.

    Parameters
    ----------
    request : ModelRequest, optional
        By default the one with the higher validation Dice.

    Raises
    ------
    InputError
        If no such model has finished.
    SecurityError
        If the model holds what `unpack` would refuse.
    EnvironmentFault
        If the disk refuses.
    """
    shown, host = progress or Silent(), host or Host()
    packed = choose_model(dataset, request)
    packed.check()
    name = ModelFolder.of(packed.states[0].run)
    shown.stage(f"pack {name.folder}", len(packed.states) + 1)
    with work_folder(out_file.absolute().parent, "pack") as work:
        checkpoints = _checkpoints_of(packed)
        copies = _copied(host, dataset.workspace, name, checkpoints, work)
        shown.advance(len(copies))
        contents = _contents(packed, copies)
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
    with_cleaning = CLEANING_FILE in contents
    return PackSummary(
        name.path, out_file, sha256, tuple(copies), packed.reason, with_cleaning
    )


def unpack_model(
    workspace: Workspace,
    file: Path,
    *,
    replace: bool = False,
    progress: Progress | None = None,
    host: Host | None = None,
) -> UnpackSummary:
    """Put a packed model among the results, if nothing in it can do harm.

    Nothing of the model runs before all of it has passed; if it is refused, the results
    stay as they were.

    Raises
    ------
    SecurityError
        With the id of the fault (S01-S10), among them S05: there is such a model, and
        `replace` is not set.
    InputError
        If `predict` could not use the model: it has regions, or reads other files than
        ours, or its number belongs to another dataset here.
    EnvironmentFault
        If the disk refuses, or a training works in the same place.
    """
    shown, host = progress or Silent(), host or Host()
    with open_archive(file) as archive:
        contents = sorted_contents(archive.names)
        name = contents.name
        texts = _checked_texts(archive, contents)
        _require_space(host, workspace, contents, archive)
        shown.stage(f"unpack {name.folder}", len(contents.checkpoints) + 1)
        with (
            only_writer(Dataset(workspace, name.dataset).lock_file, name.dataset),
            work_folder(workspace.results_dir, "unpack") as work,
        ):
            model_dir = _free_place(workspace, name, replace=replace)
            replaced = model_dir.exists()
            _require_usable(texts[DATASET_FILE], work)
            hashes = _unpacked_checkpoints(archive, contents, work / "foreign")
            _require_hashes(texts.get(CARD_FILE), hashes)
            shown.advance(len(hashes))
            foreign = {f: _checkpoint(work / "foreign", f) for f in hashes}
            copies = _copied_from_elsewhere(host, workspace, name, foreign, work)
            new = work / name.folder
            _write_model(new, texts, copies, hashes, sha256_of(file))
            put_in_place(new, model_dir)
    return UnpackSummary(name.path, model_dir, sha256_of(file), tuple(copies), replaced)


def _checkpoints_of(model: Model) -> dict[str, Path]:
    return {str(state.run.fold): state.run.checkpoint_file for state in model.states}


def _hashes(checkpoints: Mapping[str, Path]) -> dict[str, str]:
    return {fold: sha256_of(file) for fold, file in checkpoints.items()}


def _contents(model: Model, copies: Mapping[str, Path]) -> dict[str, bytes | Path]:
    """Return the files of the archive, by their names in the model's folder."""
    dataset, model_dir = model.dataset, model.states[0].run.model_dir
    plans = read_json(model_dir / PLANS_FILE)
    description = checked_dataset(read_json(model_dir / DATASET_FILE))
    now = _hashes(copies)
    seen = training_range(model_dir, dataset.raw_dir)
    structures = known_structures(dataset, model_dir)
    card = {
        "format": 1,
        "software": f"nnunet-bridge {__version__}",
        "budget": model.budget,
        "folds": {
            fold: {"mean_dice": state.mean_dice, "sha256": now[fold]}
            for fold, state in zip(copies, model.states, strict=True)
        },
        "training_range": seen and seen.model_dump(),
        "training_structures": structures.as_json() if structures else None,
    }
    name = ModelFolder.of(model.states[0].run)
    contents: dict[str, bytes | Path] = {
        PLANS_FILE: _as_bytes(checked_plans(plans, name)),
        DATASET_FILE: _as_bytes(description),
        CARD_FILE: _as_bytes(checked_card(card)),
        **{f"fold_{fold}/{CHECKPOINT_FINAL}": copy for fold, copy in copies.items()},
    }
    tuned = readable_object(model_dir / CLEANING_FILE)[0]
    was = _hashes(_checkpoints_of(model)) if tuned else {}
    cleaning = _cleaning_for(tuned, description["labels"], was, now)
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

    None if there is none, it was tuned on others, or is damaged. `was` and `now` are
    the SHA-256 of the checkpoint of each fold before and after it was copied.
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
    """Return the checked content of every JSON file of an archive."""
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
    return found | texts


def _free_place(workspace: Workspace, name: ModelFolder, *, replace: bool) -> Path:
    """Return the folder of a model; refuse it if that is taken, or in use."""
    here = [workspace.raw_dir, workspace.preprocessed_dir, workspace.results_dir]
    for folder in [place for place in here if place.is_dir()]:
        for other in sorted(entry.name for entry in folder.iterdir()):
            if (
                DATASET_FOLDER.fullmatch(other)
                and other != name.dataset
                and number_of(other) == number_of(name.dataset)
            ):
                raise InputError(
                    f"{other} in {folder} has the same number as {name.dataset}, which "
                    "confuses nnU-Net: unpack into another workspace.",
                    code="N07",
                )
    model_dir = workspace.results_dir / name.path
    if model_dir.exists() and not replace:
        raise SecurityError(
            f"There is a model in {model_dir} already: unpack into another workspace, "
            "or replace it with --replace.",
            code="S05",
        )
    records = (Dataset(workspace, name.dataset).record_dir / name.folder).glob("fold_*")
    for fold in records:
        run = name.run(workspace, fold.name.removeprefix("fold_"))
        if is_locked(run.lock_file):
            raise EnvironmentFault(
                f"{name.path} {fold.name} is being trained: wait for it to end.",
                code="F08",
            )
    return model_dir


def _require_space(
    host: Host, workspace: Workspace, contents: Contents, archive: Archive
) -> None:
    """Refuse a model for which the disk is too small."""
    sizes = {entry.filename: entry.file_size for entry in archive.entries}
    needed = _SPACE_FACTOR * sum(sizes[e] for e in contents.checkpoints.values())
    results = workspace.results_dir
    place = next(place for place in (results, *results.parents) if place.exists())
    free = host.free_bytes(place)
    if needed > free:
        raise EnvironmentFault(
            f"Unpacking needs {format_bytes(needed)} in {results}, but only "
            f"{format_bytes(free)} are free: free some space.",
            code="F06",
        )


def _checkpoint(parent: Path, fold: str) -> Path:
    return parent / f"fold_{fold}" / CHECKPOINT_FINAL


def _unpacked_checkpoints(
    archive: Archive, contents: Contents, target: Path
) -> dict[str, str]:
    """Write the checkpoints below `target` and check them; return their hashes."""
    hashes = {}
    for fold, entry in sorted(contents.checkpoints.items()):
        file = _checkpoint(target, fold)
        file.parent.mkdir(parents=True)
        hashes[fold] = archive.unpack(entry, file)
        check_checkpoint(file)
    return hashes


def _require_hashes(card: JsonObject | None, hashes: Mapping[str, str]) -> None:
    """Refuse checkpoints other than those that were packed."""
    if card is None:
        return
    packed = {fold: facts["sha256"] for fold, facts in card["folds"].items()}
    if packed != hashes:
        refuse(f"its checkpoints are not those that its {CARD_FILE} names", "S08")


def _copied_from_elsewhere(
    host: Host,
    workspace: Workspace,
    name: ModelFolder,
    foreign: Mapping[str, Path],
    work: Path,
) -> dict[str, Path]:
    """Copy foreign checkpoints; refuse those that torch refuses."""
    try:
        return _copied(host, workspace, name, foreign, work)
    except NnUNetError as error:
        reason = str(error).partition(" The whole log:")[0].partition("): ")[2]
        raise SecurityError(
            "The model is refused: a checkpoint holds more than weights and plain "
            f"values ({quoted(reason[:200])}).",
            code="S01",
        ) from error


def _copied(
    host: Host,
    workspace: Workspace,
    name: ModelFolder,
    checkpoints: Mapping[str, Path],
    work: Path,
) -> dict[str, Path]:
    """Copy of each checkpoint what prediction needs, in a process of its own.

    Raises
    ------
    NnUNetError
        If one of them cannot be loaded.
    SecurityError
        S02, S09: if one belongs to another model than that of its folder.
    """
    copies = {fold: _checkpoint(work / "copies", fold) for fold in checkpoints}
    for copy in copies.values():
        copy.parent.mkdir(parents=True)
    command = checkpoint_command(
        {checkpoints[fold]: copy for fold, copy in copies.items()}, ONE_THREAD
    )
    process = host.launch(workspace, command, ONE_THREAD, work / "log")
    host.finish(process, "read the checkpoints")
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
    """Make the folder of a model from what was checked and copied."""
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
    now = _hashes({fold: _checkpoint(new, fold) for fold in copies})
    labels = texts[DATASET_FILE]["labels"]
    cleaning = _cleaning_for(texts.get(CLEANING_FILE, {}), labels, hashes, now)
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
