"""Settings, costs and versions of finished trainings as rows of a table.

Known facts are shown in a fixed order under plain names, all others after them, so
that no recorded fact is missing from the page.
"""

from collections.abc import Callable, Mapping, Sequence

from nnunet_bridge.core.comparison import ModelCost, Setting
from nnunet_bridge.core.units import format_bytes, format_duration
from nnunet_bridge.pipeline.models.run_facts import ModelRun, facts_of

_COSTS = (
    *("seconds", "parameters", "peak_memory_bytes", "peak_gpu_memory_bytes"),
    *("prediction_s", "predicted_cases"),
)
"""Facts that are costs, not settings."""

_SETTINGS = (
    *("architecture", "trainer", "plans", "configuration", "budget", "epochs"),
    *("iterations_per_epoch", "loss", "optimizer", "initial_learning_rate"),
    *("batch_size", "patch_size", "spacing", "augmentation", "patients"),
    *("training_cases", "validation_cases", "seed", "device", "processor"),
    *("cores", "gpus", "gpu_driver", "threads"),
)
"""Facts that are settings, in the order of the page."""

_NAMES = {"optimizer": "optimiser", "spacing": "spacing (mm)"}
_NAMES |= {"gpus": "GPUs", "gpu_driver": "GPU driver"}
"""Settings whose names on the page differ."""

_NOT_SHOWN = (
    *("event", "time", "fold", "epoch", "first_epoch", "run_id", "command", "folder"),
    *("state", "started", "ended", "dataset", "exit", "reason", "job", "attempts"),
)
_VERSION_ENDINGS = ("version", "sha256", "hash", "commit", "python", "dataset_state")


def cost_table(
    costs: Sequence[ModelCost], quality: Sequence[Setting] = ()
) -> tuple[Setting, ...]:
    """Return quality and costs side by side, one column a model."""
    a_case = [_cell(c.prediction_s_per_case, format_duration) for c in costs]
    columns = {
        "training": [_training(c) for c in costs],
        "prediction of a case": a_case,
        "peak memory": [_cell(c.peak_memory_bytes, format_bytes) for c in costs],
        "peak GPU memory": [
            _cell(c.peak_gpu_memory_bytes, format_bytes) for c in costs
        ],
        "parameters": [
            _cell(c.parameters, lambda n: f"{n / 1e6:.1f} million") for c in costs
        ],
    }
    rows = [Setting(name, tuple(cells)) for name, cells in columns.items()]
    return _without_empty([*quality, *rows])


def _training(cost: ModelCost) -> str:
    total = _cell(cost.training_s, format_duration)
    return f"{total}, {cost.trainings} folds" if total and cost.trainings > 1 else total


def _cell(value: float | None, words: Callable[[float], str]) -> str:
    return "" if value is None else words(value)


def settings_of(runs: Sequence[ModelRun]) -> tuple[Setting, ...]:
    """Return the known settings in their order, then every other fact by its name."""
    facts = _facts_by_model(runs)
    hidden = {*_NOT_SHOWN, *_COSTS}
    others = [
        k for found in facts for k in found if not (k in hidden or _is_version(k))
    ]
    keys = dict.fromkeys([*_SETTINGS, *others])
    return _without_empty([_setting(key, facts) for key in keys])


def versions_of(runs: Sequence[ModelRun]) -> tuple[Setting, ...]:
    """Return versions, hashes and commits."""
    facts = _facts_by_model(runs)
    keys = dict.fromkeys(key for found in facts for key in found if _is_version(key))
    return _without_empty([_setting(key, facts) for key in keys])


def _setting(key: str, facts: Sequence[Mapping[str, Sequence[str]]]) -> Setting:
    values = tuple(", ".join(found.get(key, ())) for found in facts)
    return Setting(_NAMES.get(key) or key.replace("_", " "), values)


def _facts_by_model(runs: Sequence[ModelRun]) -> list[dict[str, list[str]]]:
    """Return, for each model, every fact with its different values over the folds."""
    collected = []
    for run in runs:
        found: dict[str, list[str]] = {}
        for fold in run.folds:
            for key, value in facts_of(fold).items():
                words = _words(value)
                if words and words not in found.setdefault(key, []):
                    found[key].append(words)
        collected.append(found)
    return collected


def _words(value: object) -> str:
    """Return a number, a word or a list of them as text; empty for anything else."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int | str):
        return str(value)
    if isinstance(value, list | tuple) and value:
        between = ", " if isinstance(value[0], str) else " \u00d7 "
        return between.join(_words(part) for part in value)
    return ""


def _is_version(key: str) -> bool:
    return key.endswith(_VERSION_ENDINGS)


def _without_empty(rows: Sequence[Setting]) -> tuple[Setting, ...]:
    return tuple(row for row in rows if any(row.values))
