"""The planned state of a dataset, and whether it still holds."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_bridge.core.errors import InputError, UsageError
from nnunet_bridge.core.units import some_of
from nnunet_bridge.formats.files import read_json, readable_object, write_json
from nnunet_bridge.formats.kept import contents_of
from nnunet_bridge.nnunet import planned, plans
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.methods import METHODS, Method
from nnunet_bridge.nnunet.names import Dataset
from nnunet_bridge.nnunet.pickles import load_data


def require_plan(
    dataset: Dataset,
    configurations: Sequence[str],
    stock_plans: str = plans.STOCK_PLANS,
) -> str:
    """Return the planned state of the dataset; refuse one that is not planned.

    `stock_plans` names the plans of nnU-Net's planner that are needed.

    Raises `InputError` if it was never planned, or changed since (FAULTS N06), or the
    preprocessed data are damaged (N04); `UsageError` if nnU-Net plans no such
    configuration.
    """
    command = plans.plan_words(dataset.name, stock_plans)
    planner: str = plans.planner_of(stock_plans).word
    known = planned.Planned.read(dataset)
    if known is None:
        raise InputError(
            f"{dataset} is not planned: run `{command}` first. It adopts plans, data "
            "and splits that are there, and changes none of them."
        )
    if not known.planners and known.failure:
        raise InputError(
            f"{dataset} is not planned, the last attempt failed: {known.failure} Then "
            f"run `{command}` again."
        )
    state = dataset_state(dataset)
    if not still_planned(dataset, known, state):
        raise InputError(
            f"{dataset} has changed since it was planned: run `{command}` again.",
            code="N06",
        )
    if planner not in known.planners:
        missing = f"{dataset} has no plans of the planner {planner}"
        raise InputError(f"{missing}: run `{command}`.")
    wanted = {planner: planned.with_previous_stages(tuple(configurations))}
    require_planned(dataset, wanted)
    lacking = known.lacks(wanted).get(planner)
    if lacking:
        named = " ".join(f"-c {name}" for name in lacking)
        raise InputError(
            f"{dataset} is not planned for {' and '.join(lacking)}: run "
            f"`{command} {named}`.",
            code="N06",
        )
    _require_whole(dataset, known, stock_plans, wanted[planner])
    return state


def write_plans(dataset: Dataset, method: Method) -> None:
    """Write the plans of a method beside nnU-Net's, if they are not there.

    Raises an `InputError` if the planner has not written those that they are made from,
    or others of the name are there (N11).
    """
    stock = dataset.plans_file(method.stock_plans)
    if not stock.is_file():
        command = plans.plan_words(dataset.name, method.stock_plans)
        raise InputError(f"{dataset} has no {stock.stem}: run `{command}` first.")
    if not method.needs_own_plans:
        return
    wanted, file = method.plans_from(read_json(stock)), dataset.plans_file(method.plans)
    if not file.exists():
        write_json(file, wanted)
    elif readable_object(file)[0] != wanted:
        raise InputError(
            f"{file} is not what the budget {method.budget.name} makes of "
            f"{stock.name}: it was edited, or belongs to an earlier version. Move it "
            "away, and `train` writes it again.",
            code="N11",
        )


def own_method_plans(dataset: Dataset) -> list[Path]:
    """Return the plans of methods that are exactly what `write_plans` writes."""
    own = []
    for method in filter(lambda one: one.needs_own_plans, METHODS.values()):
        file = dataset.plans_file(method.plans)
        stock, _ = readable_object(dataset.plans_file(method.stock_plans))
        if stock and file.exists() and _is_made_from(file, method, stock):
            own.append(file)
    return own


def _is_made_from(file: Path, method: Method, stock: plans.Plans) -> bool:
    try:
        return readable_object(file)[0] == method.plans_from(stock)
    except (KeyError, TypeError, AttributeError):  # the stock plans were edited
        return False


def still_planned(dataset: Dataset, known: planned.Planned, state: str) -> bool:
    """Whether what is recorded is there, and for this state of the dataset."""
    stock = [plans.PLANNERS[word].plans for word in known.planners]
    files = [dataset.splits_file, *map(dataset.plans_file, stock)]
    there = bool(stock) and all(file.exists() for file in files)
    return there and known.dataset_state == state


def require_planned(dataset: Dataset, wanted: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse configurations that nnU-Net's plans do not hold; name those they do.

    `wanted` maps the word of a planner to configurations.
    """
    faults = []
    for word, absent in planned.not_planned(dataset, wanted).items():
        there = read_json(dataset.plans_file(plans.PLANNERS[word].plans))
        small = ""
        if set(absent) & {plans.LOWRES, plans.CASCADE}:
            small = ", because its images are too small to need a coarser stage"
        faults.append(
            f"nnU-Net plans no {' and '.join(absent)} for {dataset}{small}; with the "
            f"planner {word} it plans {', '.join(there['configurations'])}."
        )
    if faults:
        raise UsageError("\n".join(faults))


def dataset_state(dataset: Dataset) -> str:
    """Return a hash that changes when the training data do (FAULTS F09, N06)."""
    raw = RawDataset.open(dataset.raw_dir)
    cache = dataset.record_dir / "files.json"
    known, _ = readable_object(cache)  # a damaged one is made anew
    found = contents_of(raw.training_files(), raw.folder, known)
    if found != known:
        write_json(cache, found)
    hashes = {name: content["sha256"] for name, content in found.items()}
    content = [hashes, read_json(raw.folder / "dataset.json")]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _require_whole(
    dataset: Dataset,
    known: planned.Planned,
    stock_plans: str,
    configurations: Sequence[str],
) -> None:
    """Refuse preprocessed cases that are not as planning left them (FAULTS N04).

    The hashes detect damage, not intent: the content of each pickle is checked (S12),
    and once more when nnU-Net reads it.
    """
    for configuration in configurations:
        identifier = planned.identifier_of(dataset, stock_plans, configuration)
        then = known.preprocessed.get(identifier, {})
        now = planned.preprocessed_now(dataset, identifier, then)
        hashes = {file: content["sha256"] for file, content in now.items()}
        damaged = sorted(f for f in then if hashes.get(f) != then[f]["sha256"])
        if damaged:
            command = plans.plan_words(dataset.name, stock_plans)
            raise InputError(
                f"Preprocessed data of {dataset} {configuration} are missing or "
                f"changed ({some_of(damaged)}). Restore them; or remove the folder "
                f"{dataset.planned_dir / identifier} and run `{command}`, which makes "
                "it again and keeps plans and splits.",
                code="N04",
            )
        for pickled in (file for file in now if file.endswith(".pkl")):
            load_data(dataset.planned_dir / pickled)
