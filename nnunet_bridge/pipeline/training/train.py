"""Train one run for every configuration and fold that is not done yet."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nnunet_bridge.core.errors import BridgeError
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.words import RunStatus
from nnunet_bridge.formats.files import refuse_links
from nnunet_bridge.nnunet.commands import Resources
from nnunet_bridge.nnunet.host import Host
from nnunet_bridge.nnunet.models import check_planned
from nnunet_bridge.nnunet.names import NOT_IN_PLACE, Dataset, Run
from nnunet_bridge.nnunet.runs import known_runs, run_state, write_record
from nnunet_bridge.pipeline.comparison.run_page import write_run_pages
from nnunet_bridge.pipeline.training.batch import Batch
from nnunet_bridge.pipeline.training.memory import (
    Consent,
    announce_cpu_time,
    require_memory_for_training,
)
from nnunet_bridge.pipeline.training.planned_data import require_plan, write_plans
from nnunet_bridge.pipeline.training.record import (
    origins_of,
    require_own_folders,
    require_same_origin,
)
from nnunet_bridge.pipeline.training.request import (
    TrainingRequest,
    requested_runs,
    require_gpus,
    require_patches,
    require_previous_stages,
)
from nnunet_bridge.pipeline.training.status import TrainSummary
from nnunet_bridge.pipeline.training.weights import load_initial_weights


@dataclass(frozen=True, slots=True)
class SelectedRuns:
    """The runs that a request means."""

    runs: tuple[Run, ...]  # all of them, those that others build upon first
    todo: tuple[Run, ...]  # the runs that are not done
    dataset_state: str  # hash of the training data


def train_dataset(
    dataset: Dataset,
    request: TrainingRequest,
    *,
    progress: Progress | None = None,
    host: Host | None = None,
    consent: Consent | None = None,
) -> TrainSummary:
    """Train and validate every configuration and fold that is not done yet.

    Every run gets its page when it ends; a page that cannot be written is a warning,
    not a failure. Without a GPU, the time of the budget ``full`` is shown first; above
    a day, `consent` is asked.

    Raises
    ------
    InputError
        If the dataset is not planned, or has changed since; if a run that is to be
        kept was trained on another state of it; or if an unpacked model lies where
        this training would write.
    EnvironmentFault
        If there is no GPU where one is requested, memory does not suffice, or a run is
        in use.
    Interrupted
        If the user stops it; what is written stays, and the next call resumes.
    """
    shown, host = progress or Silent(), host or Host()
    request.check()
    options = request.options
    device, warning = host.device(options.device)
    require_gpus(options.gpus, device, host.machine)
    selected = _selected_or_reported(dataset, request)
    weights = load_initial_weights(dataset, request, selected.todo, host)
    if not options.restart:
        require_same_origin(dict.fromkeys(selected.runs, weights.origin))
    failures: list[str] = []
    warnings = [warning] if warning else []
    if selected.todo:
        require_patches(options.gpus, selected.todo)
        shares = _shares(request, selected.todo, host, device, warnings)
        if device == "cpu":
            what = selected.todo, request.method, host.machine
            announce_cpu_time(*what, shown, consent)
        state, rows = selected.dataset_state, selected.runs
        batch = Batch(dataset, request, state, weights, *shares, rows, host, shown)
        for warning in warnings:
            shown.say(warning)
        batch.train_in_stages(selected.todo)
        failures, warnings = batch.failures, [*warnings, *batch.warnings]
    done_before = [run_state(run) for run in selected.runs if run not in selected.todo]
    warnings += write_run_pages(done_before, shown)
    states, caveat = tuple(map(run_state, selected.runs)), request.method.budget.caveat
    return TrainSummary(dataset.name, states, tuple(failures), tuple(warnings), caveat)


def _selected_or_reported(dataset: Dataset, request: TrainingRequest) -> SelectedRuns:
    """Select the runs; if that fails, record why for those that wait for a job."""
    try:
        selected = select_runs(dataset, request)
        require_previous_stages(selected.todo)
    except BridgeError as error:
        for state in known_runs(dataset):
            run, waits = state.run, state.state == RunStatus.QUEUED
            asked = run.configuration in request.configurations
            if waits and asked and str(run.fold) in request.folds:
                write_record(run, state=RunStatus.FAILED, reason=str(error))
        raise
    return selected


def select_runs(dataset: Dataset, request: TrainingRequest) -> SelectedRuns:
    """Return the runs that a request means, and those that are not done.

    The plans of the method are written, if they are not there.
    """
    method, options = request.method, request.options
    state = require_plan(dataset, request.configurations, method.stock_plans)
    write_plans(dataset, method)
    runs = todo = requested_runs(dataset, request)
    if not options.restart:
        require_same_origin(origins_of(runs, state, options))
        todo = [run for run in runs if not run_state(run).can_predict]
    require_own_folders(todo)
    for run in todo:
        check_planned(run)
        refuse_links(run.model_dir, run.run_dir, but=NOT_IN_PLACE)
    return SelectedRuns(tuple(runs), tuple(todo), state)


def _shares(
    request: TrainingRequest,
    todo: Sequence[Run],
    host: Host,
    device: str,
    warnings: list[str],
) -> tuple[Resources, int]:
    """Return the resources of each run, and the number of runs side by side.

    Refuse runs of which a single one does not fit into memory (F10); add to `warnings`
    those that may not.
    """
    machine, gpus = host.machine, max(1, request.options.gpus)
    one = replace(host.share(gpus, device), gpus=gpus)
    needed = max(
        require_memory_for_training(run, request.method, machine, one, warnings)
        for run in {run.configuration: run for run in todo}.values()
    )
    side_by_side = machine.cores if device == "cpu" else 1
    if device == "cuda":
        side_by_side = max(1, len(host.visible(gpus)))
    if needed:
        side_by_side = min(side_by_side, machine.free_memory_bytes // needed)
    side_by_side = max(1, min(len(todo), side_by_side))
    return replace(host.share(side_by_side * gpus, device), gpus=gpus), side_by_side
