"""Pack a trained model into one file, and unpack a file from elsewhere.

Both ways pass the same checks: plans and dataset are compared with what nnU-Net writes,
a pickle is read before it is loaded, and each checkpoint is loaded with torch's list of
harmless types in a process of its own, which writes only what prediction needs to a new
file. So a packed model carries no path, host or person, and an unpacked one nothing
that another machine has pickled.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
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
from nnunet_bridge.core.summary import JsonObject, json_of
from nnunet_bridge.core.units import format_bytes
from nnunet_bridge.core.version import __version__
from nnunet_bridge.formats import files
from nnunet_bridge.formats.archive import Archive, open_archive, write_archive
from nnunet_bridge.formats.folders import put_in_place, work_folder
from nnunet_bridge.nnunet import models as layout
from nnunet_bridge.nnunet.checkpoints import check_checkpoint
from nnunet_bridge.nnunet.commands import checkpoint_command
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.host import ONE_THREAD, Host
from nnunet_bridge.nnunet.names import (
    CHECKPOINT_FINAL,
    Dataset,
    Workspace,
    number_of,
)
from nnunet_bridge.nnunet.runs import ORIGIN_FILE
from nnunet_bridge.nnunet.schemas import refuse
from nnunet_bridge.pipeline.models.choose import Model, ModelRequest, choose_model
from nnunet_bridge.pipeline.models.likeness import known_words
from nnunet_bridge.pipeline.models.training_range import (
    known_structures,
    training_range,
)

_MEANS = ("dice_before", "dice_after", "hd95_before_mm", "hd95_after_mm")
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
_SPACE_FACTOR = 2  # the checkpoints lie on the disk as they came, and as they are kept


@dataclass(frozen=True, slots=True)
class PackSummary:
    """The file that a model was packed into."""

    model: str
    file: Path
    sha256: str
    folds: tuple[str, ...]
    reason: str  # why this model and no other
    cleaning: bool  # whether its tuned cleaning is in it
    exit_code: int = 0

    def as_json(self) -> JsonObject:
        """Return the object that `pack --json` prints."""
        size = self.file.stat().st_size
        return {**json_of(self, "reason", "exit_code"), "bytes": size}

    def as_text(self) -> str:
        """Return the packed model, with the size and hash of the file."""
        size = format_bytes(self.file.stat().st_size)
        cleaning = " and its tuned cleaning" if self.cleaning else ""
        return (
            f"Packed {self.model} ({self.reason}){cleaning}.\n"
            f"{self.file}: {size}, SHA-256 {self.sha256}"
        )


@dataclass(frozen=True, slots=True)
class UnpackSummary:
    """The model that was unpacked."""

    model: str
    folder: Path
    sha256: str  # hash of the packed file
    folds: tuple[str, ...]
    replaced: bool
    exit_code: int = 0

    def as_json(self) -> JsonObject:
        """Return the object that `unpack --json` prints."""
        return json_of(self, "exit_code")

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

    The same model gives the same bytes. By default it is the one with the higher
    validation Dice.

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
    name = layout.ModelFolder.of(packed.states[0].run)
    if name.trainer not in layout.TRAINERS:
        raise InputError(
            f"{packed.name} cannot be packed: a packed model holds no code, and its "
            f"trainer {name.trainer} is not on the list of known trainers. Share both, "
            "the model by `nnUNetv2_export_model_to_zip`."
        )
    packed.check()
    shown.stage(f"pack {name.folder}", len(packed.states) + 1)
    with work_folder(out_file.absolute().parent, "pack") as work:
        checkpoints = _checkpoints_of(packed)
        copies = _copied(host, dataset.workspace, name, checkpoints, work)
        shown.advance(len(copies))
        contents = _contents(packed, copies)
        zipped = work / "model.zip"
        write_archive(
            zipped, {f"{name.path}/{f}": part for f, part in contents.items()}
        )
        with open_archive(zipped) as archive:
            layout.sorted_contents(archive.names)
        sha256 = files.sha256_of(zipped)
        if not out_file.is_file() or files.sha256_of(out_file) != sha256:
            with files.whole_file(out_file) as temporary:
                zipped.rename(temporary)
    facts = name.path, out_file, sha256, tuple(copies), packed.reason
    return PackSummary(*facts, layout.CLEANING_FILE in contents)


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
        contents = layout.sorted_contents(archive.names)
        name = contents.name
        texts = _checked_texts(archive, contents)
        _require_space(host, workspace.results_dir, contents, archive)
        shown.stage(f"unpack {name.folder}", len(contents.checkpoints) + 1)
        with (
            files.only_writer(Dataset(workspace, name.dataset).lock_file, name.dataset),
            work_folder(workspace.results_dir, "unpack") as work,
        ):
            model_dir = _free_place(workspace, name, replace=replace)
            replaced = model_dir.exists()
            _require_usable(texts[layout.DATASET_FILE], work)
            hashes = _unpacked_checkpoints(archive, contents, work / "foreign")
            folds = texts.get(layout.CARD_FILE, {}).get("folds", {})
            packed = {fold: facts["sha256"] for fold, facts in folds.items()}
            if layout.CARD_FILE in texts and packed != hashes:
                refuse(
                    f"its checkpoints are not those that its {layout.CARD_FILE} names",
                    "S08",
                )
            shown.advance(len(hashes))
            foreign = {f: _checkpoint(work / "foreign", f) for f in hashes}
            with _refused_by_torch():
                copies = _copied(host, workspace, name, foreign, work, texts)
            new = work / name.folder
            _write_model(new, texts, copies, hashes, files.sha256_of(file))
            put_in_place(new, model_dir)
    return UnpackSummary(
        name.path, model_dir, files.sha256_of(file), tuple(copies), replaced
    )


def _checkpoints_of(model: Model) -> dict[str, Path]:
    return {str(state.run.fold): state.run.checkpoint_file for state in model.states}


def _hashes(checkpoints: Mapping[str, Path]) -> dict[str, str]:
    return {fold: files.sha256_of(file) for fold, file in checkpoints.items()}


def _contents(model: Model, copies: Mapping[str, Path]) -> dict[str, bytes | Path]:
    """Return the files of the archive, by their names in the model's folder."""
    dataset, model_dir = model.dataset, model.states[0].run.model_dir
    plans = files.read_json(model_dir / layout.PLANS_FILE)
    description = layout.checked_dataset(
        files.read_json(model_dir / layout.DATASET_FILE)
    )
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
        "training_range": seen and _without_foreign_words(seen.model_dump()),
        "training_structures": structures.as_json() if structures else None,
    }
    name = layout.ModelFolder.of(model.states[0].run)
    contents = {
        layout.PLANS_FILE: layout.checked_plans(plans, name),
        layout.DATASET_FILE: description,
        layout.CARD_FILE: layout.checked_card(card),
    }
    tuned = files.readable_object(model_dir / layout.CLEANING_FILE)[0]
    was = _hashes(_checkpoints_of(model)) if tuned else {}
    cleaning = _cleaning_for(tuned, description["labels"], was, now)
    if cleaning:
        contents[layout.CLEANING_FILE] = cleaning
    return {
        **{
            f: f"{json.dumps(c, indent=2, allow_nan=False)}\n".encode()
            for f, c in contents.items()
        },
        **{f"fold_{fold}/{CHECKPOINT_FINAL}": copy for fold, copy in copies.items()},
    }


def _without_foreign_words(seen: JsonObject) -> JsonObject:
    """Return a training range without words of *Image Type* that may hold a name."""
    kinds = {tuple(known_words(kind)) for kind in seen.get("image_types") or ()}
    return {**seen, "image_types": sorted(map(list, kinds))} if kinds else seen


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


def _checked_texts(
    archive: Archive, contents: layout.Contents
) -> dict[str, JsonObject]:
    """Return the checked content of every JSON file of an archive."""
    found = {
        file: layout.parsed(
            archive.read(entry, most_bytes=layout.MOST_JSON_BYTES), file
        )
        for file, entry in contents.texts.items()
    }
    texts = {
        layout.PLANS_FILE: layout.checked_plans(
            found[layout.PLANS_FILE], contents.name
        ),
        layout.DATASET_FILE: layout.checked_dataset(found[layout.DATASET_FILE]),
    }
    if layout.CARD_FILE in found:
        texts[layout.CARD_FILE] = layout.checked_card(found[layout.CARD_FILE])
    return found | texts


def _free_place(
    workspace: Workspace, name: layout.ModelFolder, *, replace: bool
) -> Path:
    """Return the folder of a model; refuse it if that is taken, or in use."""
    here = [workspace.raw_dir, workspace.preprocessed_dir, workspace.results_dir]
    number = f"Dataset{number_of(name.dataset):03d}_"
    for place in (place for folder in here for place in folder.glob(f"{number}*")):
        other = place.name
        if other not in (number, name.dataset):
            raise InputError(
                f"{other} in {place.parent} has the same number as {name.dataset}, "
                "which confuses nnU-Net: unpack into another workspace.",
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
        if files.is_locked(run.lock_file):
            raise EnvironmentFault(
                f"{name.path} {fold.name} is being trained: wait for it to end.",
                code="F08",
            )
    return model_dir


def _require_space(
    host: Host, results: Path, contents: layout.Contents, archive: Archive
) -> None:
    """Refuse a model for which the disk is too small."""
    sizes = {entry.filename: entry.file_size for entry in archive.entries}
    needed = _SPACE_FACTOR * sum(sizes[e] for e in contents.checkpoints.values())
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
    archive: Archive, contents: layout.Contents, target: Path
) -> dict[str, str]:
    """Write the checkpoints below `target` and check them; return their hashes."""
    hashes = {}
    for fold, entry in sorted(contents.checkpoints.items()):
        file = _checkpoint(target, fold)
        file.parent.mkdir(parents=True)
        hashes[fold] = archive.unpack(entry, file)
        check_checkpoint(file)
    return hashes


@contextmanager
def _refused_by_torch() -> Iterator[None]:
    """Refuse the checkpoints that torch refuses to load."""
    try:
        yield
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
    name: layout.ModelFolder,
    checkpoints: Mapping[str, Path],
    work: Path,
    texts: Mapping[str, JsonObject] | None = None,
) -> dict[str, Path]:
    """Copy of each checkpoint what prediction needs, in a process of its own.

    Refuse one that belongs to another model than that of its folder (S02, S09). With
    the checked `texts` of a model from elsewhere, its weights must fit them too.
    """
    fits = (work, name.trainer, name.configuration) if texts else None
    for file in (layout.PLANS_FILE, layout.DATASET_FILE) if texts else ():
        files.write_json(work / file, (texts or {})[file])
    copies = {fold: _checkpoint(work / "copies", fold) for fold in checkpoints}
    for copy in copies.values():
        copy.parent.mkdir(parents=True)
    places = {checkpoints[fold]: copy for fold, copy in copies.items()}
    command = checkpoint_command(places, ONE_THREAD, fits)
    process = host.launch(workspace, command, ONE_THREAD, work / "log")
    host.finish(process, "read the checkpoints")
    for fold, copy in copies.items():
        facts = files.read_json(copy.with_suffix(".json"))
        for what, code in (("trainer", "S09"), ("configuration", "S02")):
            named, own = facts[what], getattr(name, what)
            if named != own:
                it = f"the checkpoint of fold {fold} names the {what} {quoted(named)}"
                refuse(f"{it}, its folder {own}", code)
        if facts["fault"]:
            refuse(f"the checkpoint of fold {fold} {quoted(facts['fault'])}", "S02")
    return copies


def _write_model(
    new: Path,
    texts: Mapping[str, JsonObject],
    copies: Mapping[str, Path],
    hashes: Mapping[str, str],
    archive_sha256: str,
) -> None:
    """Make the folder of a model from what was checked and copied."""
    card = texts.get(layout.CARD_FILE, {})
    carried = "training_range", "training_structures"
    for file in (layout.PLANS_FILE, layout.DATASET_FILE):
        files.write_json(new / file, texts[file])
    for fold, copy in copies.items():
        target = _checkpoint(new, fold)
        with files.clear_os_errors(f"write {target}"):
            target.parent.mkdir(parents=True)
            copy.rename(target)
        origin = {
            "archive_sha256": archive_sha256,
            "mean_dice": card.get("folds", {}).get(fold, {}).get("mean_dice"),
            "budget": card.get("budget"),
            **{key: card.get(key) for key in carried},
        }
        files.write_json(target.with_name(ORIGIN_FILE), origin)
    now = _hashes({fold: _checkpoint(new, fold) for fold in copies})
    labels = texts[layout.DATASET_FILE]["labels"]
    cleaning = _cleaning_for(texts.get(layout.CLEANING_FILE, {}), labels, hashes, now)
    if cleaning:
        files.write_json(new / layout.CLEANING_FILE, cleaning)


def _require_usable(description: JsonObject, work: Path) -> None:
    """Refuse a model that `predict` could not use."""
    copy = work / layout.DATASET_FILE
    files.write_json(copy, description)
    try:
        RawDataset.open(work)
    except InputError as error:
        reason = str(error).replace(str(copy), f"its {layout.DATASET_FILE}")
        raise InputError(f"`predict` could not use this model: {reason}") from error
