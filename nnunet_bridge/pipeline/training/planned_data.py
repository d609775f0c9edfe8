"""The planned state of a dataset, and whether it still holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from nnunet_bridge.core.errors import InputError, UsageError
from nnunet_bridge.formats.files import read_json, write_json
from nnunet_bridge.formats.kept import contents_of
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.methods import Method
from nnunet_bridge.nnunet.names import FILE_ENDING, Dataset
from nnunet_bridge.nnunet.planned import (
    Planned,
    identifier_of,
    not_planned,
    preprocessed_now,
    with_previous_stages,
)
from nnunet_bridge.nnunet.plans import (
    CASCADE,
    LOWRES,
    PLANNERS,
    STOCK_PLANS,
    plan_words,
    planner_of,
)

_MOST_NAMES = 3
"""Files that a message names."""


def require_plan(
    dataset: Dataset, configurations: Sequence[str], stock_plans: str = STOCK_PLANS
) -> str:
    """Return the planned state of the dataset; refuse one that is not planned.

    Parameters
    ----------
    stock_plans : str
        Name of the plans of nnU-Net's planner that are needed.

    Raises
    ------
    InputError
        If it was never planned, or changed since (FAULTS N06); or if the preprocessed
        data are damaged (N04).
    UsageError
        If nnU-Net plans no such configuration.
    """
    command = plan_words(dataset.name, stock_plans)
    planner: str = planner_of(stock_plans).word
    known = Planned.read(dataset)
    if known is None:
        raise InputError(f"{dataset} is not planned: run `{command}` first.")
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
        raise InputError(
            f"{dataset} has no plans of the planner {planner}: run `{command}`."
        )
    wanted = {planner: with_previous_stages(tuple(configurations))}
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

    Raises
    ------
    InputError
        If the planner has not written those that they are made from.
    """
    stock = dataset.plans_file(method.stock_plans)
    if not stock.is_file():
        raise InputError(
            f"{dataset} has no {method.stock_plans}: run "
            f"`{plan_words(dataset.name, method.stock_plans)}` first."
        )
    if not method.needs_own_plans:
        return
    plans, file = method.plans_from(read_json(stock)), dataset.plans_file(method.plans)
    if not file.exists() or read_json(file) != plans:
        write_json(file, plans)


def still_planned(dataset: Dataset, known: Planned, state: str) -> bool:
    """Whether what is recorded is there, and for this state of the dataset."""
    plans = [dataset.plans_file(PLANNERS[word].plans) for word in known.planners]
    return (
        known.dataset_state == state
        and bool(plans)
        and all(file.exists() for file in (dataset.splits_file, *plans))
    )


def require_planned(dataset: Dataset, wanted: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse configurations that nnU-Net's plans do not hold.

    Parameters
    ----------
    wanted : mapping
        Word of a planner -> configurations.

    Raises
    ------
    UsageError
        Naming those that there are.
    """
    faults = []
    for word, absent in not_planned(dataset, wanted).items():
        plans = read_json(dataset.plans_file(PLANNERS[word].plans))
        small = ""
        if set(absent) & {LOWRES, CASCADE}:
            small = ", because its images are too small to need a coarser stage"
        faults.append(
            f"nnU-Net plans no {' and '.join(absent)} for {dataset}{small}; with the "
            f"planner {word} it plans {', '.join(plans['configurations'])}."
        )
    if faults:
        raise UsageError("\n".join(faults))


def dataset_state(dataset: Dataset) -> str:
    """Return a hash that changes when the training data do (FAULTS F09, N06)."""
    raw = RawDataset.open(dataset.raw_dir)
    cache = dataset.record_dir / "files.json"
    known = read_json(cache) if cache.exists() else {}
    files = [
        file
        for folder in ("imagesTr", "labelsTr")
        for file in sorted((raw.folder / folder).glob(f"*{FILE_ENDING}"))
    ]
    found = contents_of(files, raw.folder, known)
    if found != known:
        write_json(cache, found)
    hashes = {name: content["sha256"] for name, content in found.items()}
    content = [hashes, read_json(raw.folder / "dataset.json")]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _require_whole(
    dataset: Dataset, known: Planned, plans: str, configurations: Sequence[str]
) -> None:
    """Refuse preprocessed cases that are not as planning left them (FAULTS N04)."""
    for configuration in configurations:
        identifier = identifier_of(dataset, plans, configuration)
        then = known.preprocessed.get(identifier, {})
        now = preprocessed_now(dataset, identifier, then)
        damaged = sorted(
            file
            for file in then
            if file not in now or now[file]["sha256"] != then[file]["sha256"]
        )
        if damaged:
            left = len(damaged) - _MOST_NAMES
            more = f" and {left} more" if left > 0 else ""
            raise InputError(
                f"Preprocessed data of {dataset} {configuration} are missing or "
                f"changed ({', '.join(damaged[:_MOST_NAMES])}{more}): run `"
                f"{plan_words(dataset.name, plans)} --force`.",
                code="N04",
            )
