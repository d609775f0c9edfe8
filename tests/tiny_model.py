"""A finished model on the disk, made without training: what tests pack and attack."""

import io
import json
import pickle
import warnings
import zipfile
from copy import deepcopy
from pathlib import Path

from nnunet_bridge.core.errors import SecurityError
from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Dataset, Workspace

DATASET = "Dataset011_Leg"
LABELS = {"background": 0, "tibia": 1, "femur": 2}
DATASET_JSON = {
    "channel_names": {"0": "MRI"},
    "labels": LABELS,
    "numTraining": 6,
    "file_ending": ".nii.gz",
}
NOWHERE = Workspace(*map(Path, ("raw", "preprocessed", "results", "runs")))
"""For the names of files that an archive holds."""

GOLDEN = Path(__file__).parent / "golden"


def refusal_of(judge, *arguments):
    """Return the code of the refusal that a call ends with, or None."""
    try:
        judge(*arguments)
    except SecurityError as error:
        return error.code
    return None


def golden_plans(name="nnUNetPlans"):
    """Return plans as nnU-Net's own planner wrote them."""
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def tiny_plans(budget="smoke"):
    """Return real plans of a budget, with networks of a few thousand weights."""
    plans = method_of("nnunet", budget).plans_from(golden_plans())
    for configuration in plans["configurations"].values():
        if "architecture" not in configuration:
            continue
        network = configuration["architecture"]["arch_kwargs"]
        network |= {"n_stages": 2, "features_per_stage": [4, 8]}
        network |= {"n_conv_per_stage": [1, 1], "n_conv_per_stage_decoder": [1]}
        network |= {key: network[key][:2] for key in ("kernel_sizes", "strides")}
        configuration["patch_size"] = [16] * len(configuration["patch_size"])
    return plans


def run_of(workspace, fold=0, budget="smoke", configuration="2d"):
    dataset = Dataset(workspace, DATASET)
    return method_of("nnunet", budget).run(dataset, configuration, fold)


def pickled_checkpoint(content, *, protocol=2, **entries):
    """Return a checkpoint as torch lays it out, around any pickle; torch not needed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(content, protocol=protocol))
        archive.writestr("archive/version", "3\n")
        for name, part in entries.items():
            archive.writestr(name, part)
    return stream.getvalue()


HARMLESS = pickled_checkpoint({"current_epoch": 3})
"""Nothing that a checkpoint may not hold; no model either."""


def untrained_network(plans, configuration):
    """Return nnU-Net's network of these plans, one channel in and three classes out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

        planned = plans["configurations"][configuration]["architecture"]
        torch.manual_seed(7)
        return get_network_from_plans(
            planned["network_class_name"],
            planned["arch_kwargs"],
            planned["_kw_requires_import"],
            1,
            3,
        )


def untrained_checkpoint(run, plans):
    """Return a checkpoint with which nnU-Net predicts, although nobody trained it."""
    import torch

    stream = io.BytesIO()
    torch.save(
        {
            "network_weights": untrained_network(plans, run.configuration).state_dict(),
            "init_args": {"configuration": run.configuration},
            "trainer_name": run.trainer,
            "inference_allowed_mirroring_axes": (0, 1),
        },
        stream,
    )
    return stream.getvalue()


def write_model(run, checkpoint, *, plans=None, dataset=None, dice=0.9):
    """Write one finished fold as nnU-Net leaves it."""
    fold_dir = run.fold_dir
    (fold_dir / "validation").mkdir(parents=True)
    (fold_dir / "checkpoint_final.pth").write_bytes(checkpoint)
    summary = {"mean": {"1": {"Dice": dice}, "2": {"Dice": dice}}}
    (fold_dir / "validation" / "summary.json").write_text(json.dumps(summary))
    for name, content in (
        ("plans.json", plans or tiny_plans()),
        ("dataset.json", dataset or DATASET_JSON),
    ):
        (fold_dir.parent / name).write_text(json.dumps(content))
    return fold_dir


def zipped(contents, *, compression=zipfile.ZIP_DEFLATED):
    """Return a zip of names and bytes; a name may be a whole `ZipInfo`."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in contents:
            archive.writestr(name, content)
    return stream.getvalue()


def exported(run=None, *, plans=None, dataset=None, checkpoint=HARMLESS):
    """Return the entries of a model as nnU-Net itself exports it."""
    chosen = run or run_of(NOWHERE)
    folder = f"{DATASET}/{chosen.model_dir.name}"
    return [
        (f"{folder}/plans.json", json.dumps(plans or tiny_plans())),
        (f"{folder}/dataset.json", json.dumps(dataset or DATASET_JSON)),
        (f"{folder}/fold_{chosen.fold}/checkpoint_final.pth", checkpoint),
    ]


def changed(content, *path_and_value):
    """Return a copy of nested dicts and lists with one value set."""
    *path, last, value = path_and_value
    copy = deepcopy(content)
    place = copy
    for key in path:
        place = place[key]
    place[last] = value
    return copy
