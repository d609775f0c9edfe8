"""The events of a training, from what nnU-Net's own files say of it.

A training that nnU-Net's own commands started writes no events of ours. The same facts
are in the checkpoint (figures of every epoch), in ``training_log_*.txt`` (also of
epochs since the checkpoint, and when it validated), in ``debug.json`` (steps of an
epoch, settings) and in ``plans.json``. All are read as data: no trainer is imported.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.events import readable_events
from nnunet_bridge.formats.files import readable_object
from nnunet_bridge.nnunet.names import Run
from nnunet_bridge.nnunet.plans import resolved
from nnunet_bridge.nnunet.resumption import NEWEST_FIRST

ITERATIONS = 250
"""Steps of an epoch of nnU-Net's trainer, where no file names another number."""

_MOST_LOG_BYTES = 64 << 20
_MOST_EPOCHS = 10**6
_LONGEST_WORD = 100
_COUNT = r"\d{1,7}"
_NUMBER = r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?|nan|-?inf"
_LINE = re.compile(
    rf"^(?P<time>\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?): "
    rf"(?:Epoch (?P<epoch>{_COUNT})|train_loss (?P<train_loss>{_NUMBER})"
    rf"|val_loss (?P<val_loss>{_NUMBER})|Pseudo dice \[(?P<pseudo_dice>[^\]\n]*)\]"
    rf"|Epoch time: (?P<seconds>{_NUMBER}) s|This (?:random 80:20 )?split has "
    rf"(?P<training_cases>{_COUNT}) training and (?P<validation_cases>{_COUNT}) "
    r"validation cases\.|(?P<validation>Training done\.)|(?P<end>Validation complete))"
    r"\s*$",
    re.MULTILINE,
)
"""The lines of nnU-Net's log; most groups are named as the keys of our events."""

_VALUE = re.compile(rf"(?:np\.float\d+\()?({_NUMBER})")
_FIGURES = {
    "train_loss": "train_losses",
    "val_loss": "val_losses",
    "pseudo_dice": "dice_per_class_or_region",
    "began": "epoch_start_timestamps",
    "ended": "epoch_end_timestamps",
}
"""Key of an epoch -> name of nnU-Net's figure in a checkpoint."""

_SETTINGS = {
    "epochs": "num_epochs",
    "iterations_per_epoch": "num_iterations_per_epoch",
    "initial_learning_rate": "initial_lr",
    "torch version": "torch_version",
    **{name: name for name in ("batch_size", "optimizer", "device")},
}
"""Setting -> name in ``debug.json``."""


def events_of(run: Run) -> tuple[tuple[JsonObject, ...], str]:
    """Return the events of a training, and a message if the file of ours is damaged.

    They are those that it wrote itself, else those in nnU-Net's files.
    """
    events, damage = readable_events(run.events_file)
    return (events or _logged(run), damage)


def steps_per_epoch(run: Run, events: Sequence[Mapping[str, Any]]) -> int:
    """Return the steps of an epoch, by the events or the plans, else nnU-Net's 250."""
    plans, _ = readable_object(run.model_dir / "plans.json")
    own = plans.get("nnunet_bridge")
    of_plans = own.get(run.configuration) if isinstance(own, dict) else None
    named = [event.get("iterations_per_epoch") for event in reversed(events)]
    named += [of_plans.get("iterations")] if isinstance(of_plans, dict) else []
    return next((n for n in named if isinstance(n, int) and _is_count(n)), ITERATIONS)


def epochs_in_checkpoint(run: Run) -> int | None:
    """Return the epochs that the final checkpoint has behind it; None if unknown."""
    epochs = _facts(run.checkpoint_file).get("current_epoch")
    return (
        epochs
        if isinstance(epochs, int) and (_is_count(epochs) or not epochs)
        else None
    )


def _facts(checkpoint: Path) -> JsonObject:
    from nnunet_bridge.nnunet.checkpoints import training_facts

    return training_facts(checkpoint)


def _logged(run: Run) -> tuple[JsonObject, ...]:
    """Return the events that nnU-Net's files hold; none where there are no files."""
    if not run.fold_dir.is_dir():
        return ()
    files = (run.fold_dir / name for name in NEWEST_FIRST)
    checkpoint = next(filter(Path.is_file, files), None)
    facts = _facts(checkpoint) if checkpoint else {}
    logged, about, moments = _of_log(run.fold_dir)
    epochs = max(_of_checkpoint(facts.get("logging", {})), logged, key=len)
    debug, _ = readable_object(run.fold_dir / "debug.json")
    if not (epochs or about or debug):
        return ()
    start = {"event": "start", **_settings(run, debug), **about}
    if run.checkpoint_file.is_file():  # its trainer may have ended early
        start["epochs"] = len(epochs) or start.get("epochs")
    return (start, *epochs, *moments)


def _of_checkpoint(logging: Mapping[str, Any]) -> list[JsonObject]:
    """Return one event an epoch from nnU-Net's figures in a checkpoint."""
    columns = [_plain(logging.get(name)) for name in _FIGURES.values()]
    rows = zip(*(c if isinstance(c, list) else [] for c in columns), strict=False)
    epochs: list[JsonObject] = []
    for number, row in enumerate(islice(rows, _MOST_EPOCHS)):
        event = dict(zip(_FIGURES, row, strict=True))
        began, ended = event.pop("began"), event.pop("ended")
        if isinstance(began, float) and isinstance(ended, float):
            event["seconds"] = ended - began
        epochs.append({"event": "epoch", "epoch": number, **event})
    return epochs


def _of_log(fold_dir: Path) -> tuple[list[JsonObject], JsonObject, list[JsonObject]]:
    """Return the finished epochs of the logs, what else they say, and its moments.

    A training that was resumed has several logs.
    """
    epochs: dict[int, JsonObject] = {}
    about: JsonObject = {}
    moments: dict[str, JsonObject] = {}
    now: JsonObject = {}
    for line in _LINE.finditer(_text_of(sorted(fold_dir.glob("training_log_*.txt")))):
        found = {key: word for key, word in line.groupdict().items() if word}
        at = found.pop("time")
        key, word = next(iter(found.items()))
        if key == "epoch":
            now = {"event": "epoch", "epoch": int(word)}
        elif key in ("validation", "end"):
            with suppress(ValueError, OverflowError):  # no such day
                moment = datetime.fromisoformat(at).timestamp()
                moments[key] = {"event": key, "time": moment}
        elif key == "training_cases":
            about = {name: int(count) for name, count in found.items()}
        elif now:
            figures = [_plain(value) for value in _VALUE.findall(word)]
            now[key] = figures if key == "pseudo_dice" else figures[0]
            if key == "seconds":
                epochs[now["epoch"]] = now
    return [epochs[number] for number in sorted(epochs)], about, [*moments.values()]


def _text_of(files: Sequence[Path]) -> str:
    parts, left = [], _MOST_LOG_BYTES
    for file in files:
        with suppress(OSError), file.open("rb") as stream:
            parts.append(stream.read(left))
            left -= len(parts[-1])
    return b"\n".join(parts).decode("utf-8", "replace")


def _settings(run: Run, debug: JsonObject) -> JsonObject:
    """Return the settings of a training, by our names."""
    plans, _ = readable_object(run.model_dir / "plans.json")
    try:
        planned = resolved(plans, run.configuration)
        network = str(planned["architecture"]["network_class_name"]).rpartition(".")[2]
    except (KeyError, TypeError, RecursionError):
        planned, network = {}, ""
    return {
        **{key: _plain(planned.get(key)) for key in ("patch_size", "spacing")},
        **{key: _setting(debug.get(name, "")) for key, name in _SETTINGS.items()},
        "architecture": _setting(network),
        "trainer": run.trainer,
        "plans": run.plans,
        "configuration": run.configuration,
    }


def _setting(text: object) -> int | float | str | None:
    """Return a number, or the first word of a text such as ``SGD (...)``."""
    try:
        number = json.loads(str(text))
    except (ValueError, RecursionError):
        number = None
    if type(number) in (int, float):
        return _plain(number) if type(number) is float else int(number)
    word = re.split(r"[\s(]", str(text), maxsplit=1)[0]
    return word if word.isprintable() and 0 < len(word) <= _LONGEST_WORD else None


def _is_count(number: int) -> bool:
    return 0 < number <= _MOST_EPOCHS


def _plain(value: Any, depth: int = 2) -> Any:  # noqa: ANN401 - whatever a checkpoint holds
    """Return numbers as floats, and lists of them; None for anything else."""
    if isinstance(value, list | tuple) and depth:
        return [_plain(part, depth - 1) for part in value]
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
