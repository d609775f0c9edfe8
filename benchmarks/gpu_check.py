"""Check on a GPU all that a study needs, and how fast it is.

    python benchmarks/gpu_check.py                  one GPU, about twelve minutes
    python benchmarks/gpu_check.py --device cpu --tiny    does the script work?
    python benchmarks/gpu_check.py --list           what to carry to it

It makes synthetic patients, plans them, trains nnU-Net's full-size networks for some
steps beside plain nnU-Net, interrupts and resumes, fills the card, and predicts beside
nnU-Net's own predictor. Nothing is downloaded. Prints a table in Markdown, a line a
check: its figures and a verdict. Exit code 1 if a check fails.
"""

import argparse
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nnunet_bridge.core.errors import BridgeError, NnUNetError
from nnunet_bridge.core.units import format_bytes
from nnunet_bridge.formats.events import readable_events
from nnunet_bridge.formats.files import read_json, write_json
from nnunet_bridge.formats.nifti import read_array
from nnunet_bridge.formats.recipe import read_recipe
from nnunet_bridge.nnunet.commands import (
    NnUNetProcess,
    Resources,
    nnunet_environment,
    predict_command,
    train_command,
    trainers_dir,
)
from nnunet_bridge.nnunet.estimates import training_memory
from nnunet_bridge.nnunet.host import Host
from nnunet_bridge.nnunet.machine import compilation_fault
from nnunet_bridge.nnunet.names import Dataset, Run, Workspace
from nnunet_bridge.nnunet.runs import can_resume
from nnunet_bridge.pipeline.ingest.convert import convert_study
from nnunet_bridge.pipeline.ingest.phantom_study import (
    PhantomParameters,
    write_phantom_study,
)
from nnunet_bridge.pipeline.training.plan import PlanningOptions, plan_dataset

STOCK, PLANS, TRAINER = "nnUNetPlans", "GpuCheckPlans", "GpuCheckTrainer"
PLAIN = "from nnunetv2.run.run_training import run_training_entry as run; run()"
EPOCHS = 3
SLOWER = 1.15
"""An epoch of ours may take this much longer than plain nnU-Net's."""

DIFFERENT = 1e-4
"""Share of the voxels that may differ between a GPU and a CPU."""

CARRIED = """Carry to the computer with the GPU:
- this repository, and Python 3.11 or newer;
- the packages of constraints.txt as wheels (pip download -r constraints.txt -d wheels;
  there: pip install --no-index --find-links wheels -e .), with a torch for its driver
  (docs/how-to/train-on-a-gpu.md);
- gcc and the headers of Python, for torch.compile.
No image, no weights and no connection are needed."""

TRAINER_FILE = f"""
import os
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

class {TRAINER}(nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json,
                 device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.save_every = {EPOCHS}, 1
        self.num_iterations_per_epoch = int(os.environ["GPU_CHECK_STEPS"])
        self.num_val_iterations_per_epoch = 1
"""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    check: str
    figures: str
    verdict: str = "ok"


@dataclass
class Bench:
    """A planned dataset, and the processes that work on it."""

    workspace: Workspace
    dataset: Dataset
    resources: Resources
    folder: Path
    tiny: bool
    images: Path = field(init=False)

    def __post_init__(self) -> None:
        """Write the trainer, the plans and the images to predict."""
        trainers = self.folder / "trainers"
        trainers.mkdir(exist_ok=True)
        (trainers / "gpu_check.py").write_text(TRAINER_FILE)
        plans = read_json(self.dataset.plans_file(STOCK)) | {"plans_name": PLANS}
        for planned in plans["configurations"].values():
            if self.tiny and "architecture" in planned:
                shrink(planned)
        write_json(self.dataset.plans_file(PLANS), plans)
        self.images = self.folder / "images"
        self.images.mkdir(exist_ok=True)
        for file in sorted(self.dataset.raw_dir.glob("imagesTr/*.nii.gz"))[:1]:
            shutil.copy(file, self.images)

    def run(self, configuration: str, fold: int = 0) -> Run:
        """Return the training of a fold."""
        return Run(self.dataset, configuration, fold, TRAINER, PLANS)

    def environment(self, resources: Resources, **more: str) -> dict[str, str]:
        """Return ours, with the trainer of the check."""
        own = nnunet_environment(self.workspace, resources, os.environ)
        own["nnUNet_extTrainer"] = f"{trainers_dir()}:{self.folder / 'trainers'}"
        return own | {"GPU_CHECK_STEPS": "2" if self.tiny else "50"} | more

    def start(self, run: Run, *, resume: bool = False, **more: str) -> NnUNetProcess:
        """Start a training as the package does."""
        command = train_command(run, self.resources, resume=resume)
        environment = self.environment(self.resources, **more)
        run.run_dir.mkdir(parents=True, exist_ok=True)
        return NnUNetProcess(command, environment, run.run_dir / "train.log")

    def plain(self, run: Run) -> list[float]:
        """Train with nnU-Net's own command; return the seconds of each epoch."""
        results = self.folder / "plain"
        words = [run.dataset.name, run.configuration, str(run.fold), "-tr", TRAINER]
        words += ["-p", PLANS, "-device", self.resources.device]
        environment = self.environment(self.resources, nnUNet_results=str(results))
        command = [sys.executable, "-c", PLAIN, *words]
        with NnUNetProcess(command, environment, results / "log") as process:
            wait(process, "plain nnU-Net")
        return epoch_seconds(
            results / run.fold_dir.relative_to(self.workspace.results_dir)
        )

    def with_known_trainer(self, run: Run) -> Path:
        """Return the model under the name of nnU-Net's trainer; ours refuses others."""
        name = f"nnUNetTrainer__{PLANS}__{run.configuration}"
        place = self.folder / run.dataset.name / name
        place.parent.mkdir(exist_ok=True)
        if not place.exists():
            place.symlink_to(run.model_dir)
        return place

    def predicted(self, who: str, run: Run, device: str, out: Path) -> dict[str, list]:
        """Predict with 1 and 5 folds in one process; return its facts of each."""
        resources = replace(self.resources, device=device)
        model = self.with_known_trainer(run)
        members = [(model, list(range(folds))) for folds in (1, 5)]
        words: list[object] = ["--task", who, "--out", out, "--device", device]
        for number, member in enumerate(members):
            command = predict_command(
                dict([member]),
                self.images,
                out / str(number),
                resources,
                progress_file=out / "progress",
            )
            words += ["--call", json.dumps(command[command.index("predict") :])]
        out.mkdir(parents=True)
        process = subprocess.run(
            [sys.executable, __file__, *map(str, words)],
            env=self.environment(resources),
            check=True,
            stdout=subprocess.DEVNULL,
        )
        assert process.returncode == 0  # noqa: S101 - `check` has seen to it
        return read_json(out / "facts.json")


def shrink(planned: dict) -> None:
    """Make a network of three small stages, for a test of this script."""
    network = planned["architecture"]["arch_kwargs"]
    network |= {"n_stages": 3, "features_per_stage": [4, 8, 8]}
    network |= {"n_conv_per_stage": [1, 1, 1], "n_conv_per_stage_decoder": [1, 1]}
    network |= {key: network[key][:3] for key in ("kernel_sizes", "strides")}
    planned["patch_size"] = [16] * len(planned["patch_size"])


def wait(process: NnUNetProcess, task: str) -> None:
    while not process.ended:
        time.sleep(0.1)
    process.check(task)


def epoch_seconds(fold_dir: Path) -> list[float]:
    """Return the seconds of each epoch in nnU-Net's own logs."""
    text = "".join(f.read_text() for f in sorted(fold_dir.glob("training_log_*.txt")))
    return [float(s) for s in re.findall(r"Epoch time: ([0-9.]+) s", text)]


def peak_of(run: Run) -> int | None:
    events, _ = readable_events(run.events_file)
    return max((e.get("peak_gpu_memory_bytes") or 0 for e in events), default=0) or None


def check_gpu(bench: Bench) -> Iterator[Row]:
    host, device = Host(), bench.resources.device
    names = ", ".join(gpu.name for gpu in host.machine.accelerators) or "none"
    torch, lacking = host.torch(), compilation_fault(os.environ)
    figures = f"{names}; torch {torch.version}, CUDA {torch.cuda or 'none'}"
    usable = host.device("auto")[0] == "cuda" or device == "cpu"
    yield Row("GPU", f"{figures}; runs on {device}", "ok" if usable else "FAILED")
    yield Row("compiler", lacking or "found", "slower" if lacking else "ok")


def check_training(bench: Bench) -> Iterator[Row]:
    """Train, interrupt, resume; compare with plain nnU-Net and with the estimate."""
    for configuration in ("2d",) if bench.tiny else ("2d", "3d_fullres"):
        run = bench.run(configuration)
        with bench.start(run) as process:
            while not process.ended and not can_resume(run):
                time.sleep(0.1)
            process.stop()
        stopped = len(epochs_of(run))
        with bench.start(run, resume=True) as process:
            wait(process, f"train {configuration}")
        events, _ = readable_events(run.events_file)
        resumed = [e["first_epoch"] for e in events if e["event"] == "start"][-1]
        kept = 0 < resumed <= stopped
        figures = f"stopped after epoch {stopped}, resumed at {resumed}"
        verdict = "ok" if kept and run.checkpoint_file.exists() else "FAILED"
        yield Row(f"{configuration}: interrupt and resume", figures, verdict)
        ours, plain = min(epoch_seconds(run.fold_dir)), min(bench.plain(run))
        figures = f"{ours:.2f} s, plain nnU-Net {plain:.2f} s"
        slow = ours > SLOWER * plain and not bench.tiny
        yield Row(f"{configuration}: epoch", figures, "SLOWER" if slow else "ok")
        yield estimate(bench, run)


def epochs_of(run: Run) -> list[dict]:
    events, _ = readable_events(run.events_file)
    return [event for event in events if event["event"] == "epoch"]


def estimate(bench: Bench, run: Run) -> Row:
    """Compare the peak of a training with what was estimated before it."""
    plans = read_json(run.plans_file)
    classes = len(read_json(bench.dataset.raw_dir / "dataset.json")["labels"])
    need = training_memory(plans, run.configuration, classes)
    check, peak = f"{run.configuration}: GPU memory of the training", peak_of(run)
    if need is None or peak is None:
        return Row(check, "not measured without a GPU", "-")
    share = peak / need.gpu_bytes
    figures = f"{format_bytes(peak)}, estimated {format_bytes(need.gpu_bytes)}"
    good = 1 / 1.3 <= share <= 1.0
    return Row(check, f"{figures} ({share:.2f})", "ok" if good else "ESTIMATE OFF")


def check_compilation(bench: Bench) -> Iterator[Row]:
    check = "epoch without compilation"
    if bench.resources.device != "cuda":
        yield Row(check, "nothing is compiled on a CPU", "-")
        return
    run = bench.run("2d", fold=1)
    with bench.start(run, nnUNet_compile="false") as process:
        wait(process, "train without compilation")
    with_it = min(epoch_seconds(bench.run("2d").fold_dir))
    without = min(epoch_seconds(run.fold_dir))
    yield Row(f"2d: {check}", f"{without:.2f} s, compiled {with_it:.2f} s")


def check_smoke(bench: Bench) -> Iterator[Row]:
    """Train the budget `smoke` by our command, from start to validation."""
    if bench.tiny:
        yield Row("smoke run", "left out of the tiny form", "-")
        return
    begin = time.monotonic()
    words = ["train", bench.dataset.name, "-c", "2d", "--budget", "smoke", "--json"]
    words += ["-w", str(bench.workspace.raw_dir.parent)]
    words += ["--device", bench.resources.device]
    command = [sys.executable, "-m", "nnunet_bridge", *words]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    figures = f"{time.monotonic() - begin:.0f} s, validation included"
    good = answer.returncode == 0
    yield Row(
        "smoke run", figures if good else answer.stdout, "ok" if good else "FAILED"
    )


def check_full_card(bench: Bench) -> Iterator[Row]:
    """Train while another program fills the card: the failure must say so."""
    check = "another program fills the GPU"
    if bench.resources.device != "cuda":
        yield Row(check, "needs a GPU", "-")
        return
    words = [sys.executable, __file__, "--task", "fill"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        try:
            with bench.start(bench.run("2d", fold=2)) as process:
                wait(process, "train")
            yield Row(check, "the training did not fail", "FAILED")
        except NnUNetError as error:
            good = "The memory of the GPU was full" in str(error)
            yield Row(check, str(error)[:160], "ok" if good else "FAILED")
        other.kill()


def check_prediction(bench: Bench) -> Iterator[Row]:
    """Predict as nnU-Net does, and on the CPU."""
    device = bench.resources.device
    for configuration in ("2d",) if bench.tiny else ("2d", "3d_fullres"):
        run, out = bench.run(configuration), bench.folder / configuration
        found = {
            who: bench.predicted(who, run, device, out / who)
            for who in ("ours", "nnU-Net")
        }
        for number, folds in enumerate((1, 5)):
            different = difference(out / "ours", out / "nnU-Net", number)
            figures = [figures_of(who, found[who], number) for who in found]
            figures.append(f"{different:.1e} of the voxels differ")
            good = different == 0 if device == "cpu" else different < DIFFERENT
            name = f"{configuration}: prediction, {folds} fold{'s' * (folds > 1)}"
            yield Row(name, "; ".join(figures), "ok" if good else "FAILED")
        if configuration == "2d" and device != "cpu":
            bench.predicted("ours", run, "cpu", out / "cpu")
            different = difference(out / "ours", out / "cpu", 0)
            figures = [f"{different:.1e} of the voxels differ"]
            verdict = "ok" if different < DIFFERENT else "FAILED"
            yield Row("2d: GPU and CPU", figures[0], verdict)


def figures_of(who: str, facts: dict[str, list], number: int) -> str:
    seconds, host, gpu = (facts[key][number] for key in ("seconds", "host", "gpu"))
    on_gpu = f", {format_bytes(gpu)} of GPU memory" if gpu else ""
    return f"{who} {seconds:.1f} s, {format_bytes(host)}{on_gpu}"


def difference(one: Path, other: Path, number: int) -> float:
    """Return the share of the voxels in which two predictions differ."""
    (file,) = (one / str(number)).glob("*.nii.gz")
    _, first = read_array(file)
    _, second = read_array(other / str(number) / file.name)
    return float((first != second).mean())


CHECKS: tuple[Callable[[Bench], Iterator[Row]], ...] = (
    check_gpu,
    check_training,
    check_compilation,
    check_smoke,
    check_full_card,
    check_prediction,
)


def rows_of(bench: Bench) -> Iterator[Row]:
    for check in CHECKS:
        try:
            yield from check(bench)
        except (BridgeError, subprocess.CalledProcessError) as error:
            yield Row(check.__name__.replace("_", " "), str(error), "FAILED")


def main(words: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(words)
    if asked.list:
        print(CARRIED)
        return 0
    if asked.task:
        TASKS[asked.task](asked)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder, failed, begin = Path(name), 0, time.monotonic()
        print("| check | figures | verdict |\n| --- | --- | --- |", flush=True)
        for row in rows_of(_bench(asked, folder)):
            failed += row.verdict == "FAILED"
            figures = " ".join(row.figures.split())
            print(f"| {row.check} | {figures} | {row.verdict} |", flush=True)
    print(f"\n{time.monotonic() - begin:.0f} s; failed: {failed}")
    return int(failed > 0)


def _bench(asked: argparse.Namespace, folder: Path) -> Bench:
    host = Host()
    device, warning = host.device(asked.device)
    if warning:
        print(warning, file=sys.stderr)
    work = asked.workspace or folder / "work"
    work.mkdir(exist_ok=True)
    workspace = Workspace.at(work, environment={})
    if not asked.workspace:
        shape = (96, 48, 64) if asked.tiny else (192, 160, 160)
        parameters = PhantomParameters(5, 1, shape=shape)
        study = write_phantom_study(folder / "study", parameters)
        convert_study(study.folder, read_recipe(study.recipe_file), workspace.raw_dir)
    (raw,) = workspace.raw_dir.glob("Dataset*")
    dataset = Dataset(workspace, raw.name)
    if not asked.workspace:
        plan_dataset(dataset, PlanningOptions(("2d", "3d_fullres")), host=host)
    return Bench(workspace, dataset, host.share(1, device), folder, asked.tiny)


def ours(asked: argparse.Namespace) -> None:
    """Predict as the package does."""
    from nnunet_bridge.nnunet.launch import main as launch

    words = json.loads(asked.call[0])
    _add_folds(Path(words[words.index("--member") + 1]))
    _measure(asked, launch)


def theirs(asked: argparse.Namespace) -> None:
    """Predict with nnU-Net's own predictor, one image after the other."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    from nnunet_bridge.nnunet.inside.safety import load_only_what_is_allowed

    load_only_what_is_allowed()

    def predict(words: list[str]) -> None:
        images, out = (words[words.index(f"--{n}") + 1] for n in ("images", "out"))
        model, *folds = words[words.index("--member") + 1 :]
        on_gpu = asked.device == "cuda"
        predictor = nnUNetPredictor(
            perform_everything_on_device=on_gpu,
            device=torch.device(asked.device),
            allow_tqdm=False,
        )
        predictor.initialize_from_trained_model_folder(model, tuple(map(int, folds)))
        Path(out).mkdir()
        files = [[str(file)] for file in sorted(Path(images).glob("*.nii.gz"))]
        names = [f"{out}/{Path(file).name[:-12]}" for (file,) in files]
        predictor.predict_from_files_sequential(files, names)

    _measure(asked, predict)


def _measure(asked: argparse.Namespace, predict: Callable[[list[str]], None]) -> None:
    """Call the predictions of a process; write seconds and peaks of memory."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    assert nnUNetPredictor  # noqa: S101 - imported before the clock starts
    on_gpu = torch.cuda.is_available()
    facts: dict[str, list[float]] = {"seconds": [], "host": [], "gpu": []}
    for call in asked.call:
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        begin = time.monotonic()
        predict(json.loads(call))
        facts["seconds"].append(time.monotonic() - begin)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        facts["host"].append(peak)
        facts["gpu"].append(torch.cuda.max_memory_reserved() if on_gpu else 0)
    write_json(asked.out / "facts.json", facts)


def fill(_asked: argparse.Namespace) -> None:
    """Hold all but 300 MiB of the card until this process is killed."""
    import torch

    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(free - (300 << 20), dtype=torch.uint8, device="cuda")
    print(held.numel(), flush=True)
    signal.pause()


def _add_folds(model_dir: Path) -> None:
    """Write four folds beside the first, their weights 1 % apart."""
    import torch

    from nnunet_bridge.nnunet.inside.safety import load_only_what_is_allowed

    load_only_what_is_allowed()
    first = model_dir / "fold_0" / "checkpoint_final.pth"
    content = torch.load(first, map_location="cpu", weights_only=True)
    for fold in range(1, 5):
        torch.manual_seed(fold)
        other = model_dir / f"fold_{fold}" / first.name
        other.parent.mkdir(exist_ok=True)
        weights = {
            name: value * (1 + 0.01 * torch.randn_like(value))
            for name, value in content["network_weights"].items()
        }
        torch.save(content | {"network_weights": weights}, other)


TASKS = {"ours": ours, "nnU-Net": theirs, "fill": fill}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu")
    parser.add_argument("--tiny", action="store_true", help="small networks, few steps")
    parser.add_argument("--workspace", type=Path, help="one that is planned already")
    parser.add_argument("--list", action="store_true", help="what must be carried")
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--call", action="append", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
