"""What a training of ours costs beside plain `nnUNetv2_train`: CPU seconds and wall.

    python benchmarks/training_overhead.py WORKSPACE DATASET [--epochs 5] [--rounds 3]

WORKSPACE holds a dataset that is planned; it is not changed, and everything is done in
a copy of what is needed. Both sides train the same fold of the same plans of a smoke
run with the same trainer (plain nnU-Net finds it through ``nnUNet_extTrainer``), the
same threads and the same environment, in turns. The plain side writes no events, keeps
no checkpoint but nnU-Net's own, and no process watches it.

An epoch goes from its header in nnU-Net's own log to the next, so that checkpoints and
events count. CPU seconds, user and system, are those of the command and all its
processes, read from /proc; the process that watches is not among them. Prints Markdown.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from unittest import mock

FOLD = 0
POLL_S = 0.02
TICKS = os.sysconf("SC_CLK_TCK")
WHO = ("nnUNetv2_train", "nnunet-bridge")
PLAIN = "from nnunetv2.run.run_training import run_training_entry as run; run()"
"""What the script `nnUNetv2_train` does."""


@dataclass(slots=True)
class Course:
    """One command: CPU and wall seconds of its epochs, and of all of it."""

    moments: list[tuple[float, float]] = field(default_factory=list)
    """Wall and CPU seconds at the header of each epoch and at the end of the last."""

    wall_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def epochs(self) -> list[tuple[float, float]]:
        """Wall and CPU seconds of each epoch."""
        pairs = zip(self.moments, self.moments[1:], strict=False)
        return [(b[0] - a[0], b[1] - a[1]) for a, b in pairs]


def main() -> None:
    asked = _arguments()
    if asked.ours:
        train_ours(asked.workspace, asked.dataset, asked.configuration, asked.epochs)
        return
    courses: dict[str, list[Course]] = {who: [] for who in WHO}
    with tempfile.TemporaryDirectory() as folder:
        root = copied(asked.workspace, asked.dataset, Path(folder))
        write_plans(root, asked.dataset, asked.configuration, asked.epochs)
        for number in range(asked.rounds):
            order = WHO if number % 2 == 0 else WHO[::-1]
            for who in order:
                course = measured(who, root, asked)
                courses[who].append(course)
                print(_line(number, who, course), file=sys.stderr, flush=True)
    print(table(courses, asked))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("dataset")
    parser.add_argument("--configuration", default="2d")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ours", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def copied(workspace: Path, dataset: str, root: Path) -> Path:
    """Return a workspace with all that a training reads, and nothing trained."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        shutil.copytree(workspace / name / dataset, root / name / dataset)
    (root / "nnUNet_results").mkdir()
    (root / "runs" / dataset).mkdir(parents=True)
    for file in (workspace / "runs" / dataset).glob("*.json"):
        shutil.copy(file, root / "runs" / dataset)
    hidden = workspace / ".nnunet_bridge"
    if hidden.is_dir():
        shutil.copytree(hidden, root / hidden.name)
    return root


@contextlib.contextmanager
def fewer_epochs(configuration: str, epochs: int) -> Iterator[None]:
    """Let the budget `smoke` have this many epochs in this process."""
    from nnunet_bridge.nnunet.plans import SMOKE_SIZES

    size = SMOKE_SIZES[configuration]
    shorter = replace(size, steps={**size.steps, "epochs": epochs})
    with mock.patch.dict(SMOKE_SIZES, {configuration: shorter}):
        yield


def write_plans(root: Path, dataset: str, configuration: str, epochs: int) -> None:
    """Write the plans that both sides train by."""
    from nnunet_bridge.formats.files import read_json, write_json
    from nnunet_bridge.nnunet.methods import method_of
    from nnunet_bridge.nnunet.names import Dataset, Workspace

    workspace, method = Workspace.at(root, {}), method_of("nnunet", "smoke")
    with fewer_epochs(configuration, epochs):
        stock = read_json(Dataset(workspace, dataset).plans_file(method.stock_plans))
        plans = method.plans_from(stock)
    write_json(Dataset(workspace, dataset).plans_file(method.plans), plans)


def train_ours(root: Path, dataset: str, configuration: str, epochs: int) -> None:
    """Do what `nnunet-bridge train` does, with as many epochs as asked."""
    from nnunet_bridge.nnunet.methods import method_of
    from nnunet_bridge.nnunet.names import Dataset, Workspace
    from nnunet_bridge.nnunet.training_options import TrainingOptions
    from nnunet_bridge.pipeline.training.request import TrainingRequest
    from nnunet_bridge.pipeline.training.train import train_dataset

    with fewer_epochs(configuration, epochs):
        request = TrainingRequest(
            method_of("nnunet", "smoke"),
            (configuration,),
            (str(FOLD),),
            TrainingOptions("cpu", restart=True),
        )
        summary = train_dataset(Dataset(Workspace.at(root, {}), dataset), request)
    sys.exit(summary.exit_code)


def measured(who: str, root: Path, asked: argparse.Namespace) -> Course:
    """Train once, and note when each epoch began."""
    from nnunet_bridge.nnunet.commands import nnunet_environment
    from nnunet_bridge.nnunet.host import Host
    from nnunet_bridge.nnunet.methods import method_of
    from nnunet_bridge.nnunet.names import Dataset, Workspace

    workspace, method = Workspace.at(root, {}), method_of("nnunet", "smoke")
    run = method.run(Dataset(workspace, asked.dataset), asked.configuration, FOLD)
    fold_dir = run.fold_dir
    shutil.rmtree(fold_dir, ignore_errors=True)
    resources = Host().share(1, "cpu")
    environment = nnunet_environment(workspace, resources, os.environ)
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    command = [
        *(sys.executable, __file__, str(root), asked.dataset, "--ours"),
        *("--configuration", asked.configuration, "--epochs", str(asked.epochs)),
    ]
    if who == WHO[0]:
        command = [
            *(sys.executable, "-c", PLAIN, asked.dataset),
            *(asked.configuration, str(FOLD), "-tr", run.trainer, "-p", run.plans),
            *("-device", "cpu"),
        ]
    course, begin = Course(), time.monotonic()
    with (root / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        while process.poll() is None:
            time.sleep(POLL_S)
            headers = _headers(fold_dir)
            if headers > len(course.moments):
                course.moments.append(
                    (time.monotonic() - begin, cpu_seconds(process.pid))
                )
            if headers <= asked.epochs:
                course.cpu_s = cpu_seconds(process.pid)
        course.wall_s = time.monotonic() - begin
    if process.returncode or len(course.moments) != asked.epochs + 1:
        sys.exit((root / "output.txt").read_text() or f"{who} failed")
    return course


def _headers(fold_dir: Path) -> int:
    """Return how many epochs have begun; one more when the training has ended."""
    logs = sorted(fold_dir.glob("training_log_*.txt"))
    if not logs:
        return 0
    text = logs[-1].read_text(errors="replace")
    lines = [line.split(": ", 1)[-1].split() for line in text.splitlines()]
    begun = sum(len(words) == 2 and words[0] == "Epoch" for words in lines)
    return begun + ("Training done." in text)


def cpu_seconds(root: int) -> float:
    """Return user and system seconds of a process, its living and its ended ones."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            text = Path(entry.path, "stat").read_text()
        except OSError:  # it has just ended
            continue
        fields = text.rpartition(")")[2].split()
        parents[int(entry.name)] = int(fields[1])
        ticks[int(entry.name)] = sum(map(int, fields[11:15]))
    total, waiting = 0, [root]
    while waiting:
        process = waiting.pop()
        total += ticks.get(process, 0)
        waiting += [child for child, parent in parents.items() if parent == process]
    return total / TICKS


def _line(number: int, who: str, course: Course) -> str:
    epochs = ", ".join(f"{cpu:.2f}" for _, cpu in course.epochs)
    load = os.getloadavg()[0]
    return (
        f"round {number + 1} {who}: CPU seconds an epoch {epochs}; to the end of the "
        f"last {course.cpu_s:.1f}; whole command {course.wall_s:.1f} s; load {load:.1f}"
    )


def table(courses: dict[str, list[Course]], asked: argparse.Namespace) -> str:
    """Return medians with the smallest and largest, and the ratio of the medians."""
    rows = {
        "CPU s an epoch, without the first": _epochs(courses, 1, cpu=True),
        "wall s an epoch, without the first": _epochs(courses, 1, cpu=False),
        "CPU s, start to the first epoch": {
            who: [course.moments[0][1] for course in found]
            for who, found in courses.items()
        },
        "CPU s, start to the end of the last epoch": {
            who: [course.cpu_s for course in found] for who, found in courses.items()
        },
        "wall s of the whole command, validation included": {
            who: [course.wall_s for course in found] for who, found in courses.items()
        },
    }
    heading = (
        f"{asked.dataset} {asked.configuration}, smoke plan, {asked.epochs} epochs, "
        f"{asked.rounds} interleaved rounds, load {os.getloadavg()[2]:.1f} (15 min)"
    )
    lines = [
        heading,
        "",
        f"| figure | {WHO[0]} | {WHO[1]} | ratio |",
        "| --- | --- | --- | --- |",
    ]
    for name, found in rows.items():
        plain, ours = (found[who] for who in WHO)
        if not plain:  # there is no epoch but the first
            continue
        ratio = median(ours) / median(plain)
        lines.append(f"| {name} | {_spread(plain)} | {_spread(ours)} | {ratio:.3f} |")
    return "\n".join(lines)


def _epochs(
    courses: dict[str, list[Course]], first: int, *, cpu: bool
) -> dict[str, list[float]]:
    return {
        who: [epoch[cpu] for course in found for epoch in course.epochs[first:]]
        for who, found in courses.items()
    }


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} - {max(values):.2f})"


if __name__ == "__main__":
    main()
