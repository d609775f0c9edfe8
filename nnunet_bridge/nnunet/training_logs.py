"""The events of a training, from what nnU-Net's own files say of it.

A training that nnU-Net's own commands started writes no events of ours. The same facts
are in the checkpoint (figures of every epoch), in ``training_log_*.txt`` (also of
epochs since the checkpoint, and when it validated), in ``debug.json`` (steps of an
epoch, settings) and in ``plans.json``. All are read as data: no trainer is imported.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.events import readable_events
from nnunet_bridge.formats.files import readable_object
from nnunet_bridge.nnunet.checkpoints import training_facts
from nnunet_bridge.nnunet.names import Run
from nnunet_bridge.nnunet.plans import resolved
from nnunet_bridge.nnunet.resumption import NEWEST_FIRST

ITERATIONS = 250
"""Steps of an epoch of nnU-Net's trainer, where no file names another number."""

_MOST_LOG_BYTES = 64 << 20
_LONGEST_WORD = 100
_NUMBER = r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?|nan|-?inf"
_LINE = re.compile(
    rf"^(?P<time>\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?): "
    rf"(?:Epoch (?P<epoch>\d+)|train_loss (?P<train_loss>{_NUMBER})"
    rf"|val_loss (?P<val_loss>{_NUMBER})|Current learning rate: (?P<rate>{_NUMBER})"
    rf"|Pseudo dice \[(?P<dice>[^\]]*)\]|Epoch time: (?P<seconds>{_NUMBER}) s"
    r"|This (?:random 80:20 )?split has (?P<train>\d+) training and (?P<val>\d+) "
    r"validation cases\.|(?P<trained>Training done\.)|(?P<end>Validation complete))"
    r"\s*$",
    re.MULTILINE,
)
_VALUE = re.compile(rf"(?:np\.float\d+\()?({_NUMBER})")
_OF_EPOCH = {"train_loss": "train_losses", "val_loss": "val_losses"} | {
    "learning_rate": "lrs",
    "pseudo_dice": "dice_per_class_or_region",
}
"""Key of our event -> name of nnU-Net's figure in a checkpoint."""

_NUMBERS = {
    "epochs": "num_epochs",
    "iterations_per_epoch": "num_iterations_per_epoch",
    "initial_learning_rate": "initial_lr",
    "batch_size": "batch_size",
}
"""Setting -> name in ``debug.json``."""


def events_of(run: Run) -> tuple[tuple[JsonObject, ...], str]:
    """Return the events of a training, and a message if the file of ours is damaged.

    They are those that it wrote itself, else those that nnU-Net's files tell.
    """
    events, damage = readable_events(run.events_file)
    return (events or _told(run), damage)


def steps_per_epoch(run: Run, events: Sequence[Mapping[str, Any]]) -> int:
    """Return the steps of an epoch, by the events or the plans, else nnU-Net's 250."""
    plans, _ = readable_object(run.model_dir / "plans.json")
    own = plans.get("nnunet_bridge")
    of_plans = own.get(run.configuration) if isinstance(own, dict) else None
    named = [event.get("iterations_per_epoch") for event in reversed(events)]
    named += [of_plans.get("iterations")] if isinstance(of_plans, dict) else []
    return next((n for n in named if isinstance(n, int) and n > 0), ITERATIONS)


def epochs_in_checkpoint(run: Run) -> int | None:
    """Return the epochs that the final checkpoint has behind it; None if unknown."""
    epochs = training_facts(run.checkpoint_file).get("current_epoch")
    return epochs if isinstance(epochs, int) and epochs >= 0 else None


def _told(run: Run) -> tuple[JsonObject, ...]:
    """Return the events that nnU-Net's files tell; none where there are no files."""
    if not run.fold_dir.is_dir():
        return ()
    files = (run.fold_dir / name for name in NEWEST_FIRST)
    checkpoint = next(filter(Path.is_file, files), None)
    facts = training_facts(checkpoint) if checkpoint else {}
    logged, about = _of_log(_log_text(run.fold_dir))
    kept = list(_of_checkpoint(facts.get("logging", {})))
    epochs = max(kept, logged, key=len)
    debug, _ = readable_object(run.fold_dir / "debug.json")
    if not (epochs or about or debug):
        return ()
    start = {"event": "start", **_settings(run, debug), **_counts(about)}
    if facts.get("parameters"):
        start["parameters"] = facts["parameters"]
    if run.checkpoint_file.is_file():  # nnU-Net's number, or where its trainer ended
        start["epochs"] = len(epochs) or start.get("epochs")
    moments = {"trained": "validation", "end": "end"}
    ends = [{"event": w, "time": about[k]} for k, w in moments.items() if k in about]
    return (start, *epochs, *ends)


def _of_checkpoint(logging: Mapping[str, Any]) -> Iterator[JsonObject]:
    """Yield one event an epoch from nnU-Net's figures in a checkpoint."""
    columns = {key: _plain(logging.get(name)) for key, name in _OF_EPOCH.items()}
    times = [_plain(logging.get(f"epoch_{n}_timestamps")) for n in ("start", "end")]
    known = {k: column for k, column in columns.items() if isinstance(column, list)}
    begun, ended = (column if isinstance(column, list) else [] for column in times)
    for epoch in range(len(known.get("train_loss", ()))):
        event = {k: c[epoch] for k, c in known.items() if epoch < len(c)}
        if epoch < min(len(begun), len(ended)) and None not in (
            begun[epoch],
            ended[epoch],
        ):
            event["seconds"] = ended[epoch] - begun[epoch]
        yield {"event": "epoch", "epoch": epoch, **event}


def _of_log(text: str) -> tuple[list[JsonObject], JsonObject]:
    """Return the finished epochs of a log, and what else it says."""
    epochs: dict[int, JsonObject] = {}
    about: JsonObject = {}
    now: JsonObject = {}
    for line in _LINE.finditer(text):
        found = {key: word for key, word in line.groupdict().items() if word}
        at = datetime.fromisoformat(found.pop("time")).timestamp()
        if "epoch" in found:
            now = {"event": "epoch", "epoch": int(found["epoch"])}
        elif "trained" in found or "end" in found:
            about |= dict.fromkeys(found, at)
        elif "train" in found:
            about |= {key: int(word) for key, word in found.items()}
        elif "dice" in found:
            now["pseudo_dice"] = [_figure(v) for v in _VALUE.findall(found["dice"])]
        elif now:
            ((key, word),) = found.items()
            now["learning_rate" if key == "rate" else key] = _figure(word)
            if key == "seconds":
                epochs[now["epoch"]] = now
    return [epochs[number] for number in sorted(epochs)], about


def _log_text(fold_dir: Path) -> str:
    """Return the logs of a fold; a training that was resumed has several."""
    parts, left = [], _MOST_LOG_BYTES
    for file in sorted(fold_dir.glob("training_log_*.txt")):
        try:
            with file.open("rb") as stream:
                content = stream.read(left)
        except OSError:
            continue
        left -= len(content)
        parts.append(content.decode("utf-8", "replace"))
    return "\n".join(parts)


def _settings(run: Run, debug: JsonObject) -> JsonObject:
    """Return the settings of a training, by our names."""
    plans, _ = readable_object(run.model_dir / "plans.json")
    try:
        planned = resolved(plans, run.configuration)
        network = str(planned["architecture"]["network_class_name"]).rpartition(".")[2]
    except (KeyError, TypeError, RecursionError):
        planned, network = {}, None
    found: JsonObject = {
        key: _json_number(debug.get(name)) for key, name in _NUMBERS.items()
    }
    found |= {
        "optimizer": _word(debug.get("optimizer")),
        "device": _word(debug.get("device")),
        "torch version": _word(debug.get("torch_version")),
        "architecture": _word(network),
        "trainer": run.trainer,
        "plans": run.plans,
        "configuration": run.configuration,
    }
    planned_facts = {key: planned.get(key) for key in ("patch_size", "spacing")}
    return {k: v for k, v in {**planned_facts, **found}.items() if v is not None}


def _counts(about: JsonObject) -> JsonObject:
    names = {"train": "training_cases", "val": "validation_cases"}
    return {ours: about[key] for key, ours in names.items() if key in about}


def _json_number(word: object) -> int | float | None:
    """Return the number that nnU-Net wrote as text."""
    try:
        number = json.loads(str(word))
    except ValueError:
        return None
    return number if type(number) in (int, float) else None


def _word(text: object) -> str | None:
    """Return the first word of a text, such as the class in ``SGD (...)``."""
    words = str(text or "").split()
    word = words[0].partition("(")[0] if words else ""
    return word if word.isprintable() and 0 < len(word) <= _LONGEST_WORD else None


def _figure(word: str) -> float | None:
    number = float(word)
    return number if math.isfinite(number) else None


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever a checkpoint holds
    """Return numbers as floats, and lists of them; None for anything else."""
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
