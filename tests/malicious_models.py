"""Every way that was thought of to abuse a model: one file each, made by its recipe.

`MALICIOUS` lists the row of the table of faults, what is wrong, and a function from the
path of a marker file to the bytes of the model. Where something could run, it would
create the marker.
"""

import io
import json
import os
import pickle
import stat
import struct
import warnings
import zipfile

from tiny_model import (
    DATASET,
    DATASET_JSON,
    HARMLESS,
    NOWHERE,
    changed,
    exported,
    pickled_checkpoint,
    run_of,
    tiny_plans,
    zipped,
)

SMOKE_2D = "BridgeSmokeTrainer__nnUNetPlansSmoke__2d"
MODEL = f"{DATASET}/{SMOKE_2D}"
PLANS = tiny_plans()
NETWORK = ("configurations", "2d", "architecture", "arch_kwargs")


class Runs:
    """An object that writes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def model_with(checkpoint=HARMLESS, plans=None, dataset=None, more=(), run=None):
    entries = exported(run, plans=plans, dataset=dataset, checkpoint=checkpoint)
    return zipped([*entries, *more])


def plans_with(*path_and_value):
    return model_with(plans=changed(PLANS, *path_and_value))


def text_of(file, text):
    """Return the model with one of its JSON files replaced by a text."""
    return zipped(
        [
            (name, text if name.endswith(file) else content)
            for name, content in exported()
        ]
    )


def entry(name, mode=0, content=b"x"):
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = mode << 16
    return info, content


def encrypted():
    """Set the flag that says so in every header of a harmless model."""
    content = bytearray(model_with())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(signature)
        while at >= 0:
            content[at + offset] |= 1
            at = content.find(signature, at + 4)
    return bytes(content)


def overlapping():
    """Let the listing name the bytes of one large entry many times."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stream = io.BytesIO()
        noise = os.urandom(6 << 20)
        with zipfile.ZipFile(stream, "w") as archive:
            for name, content in exported():
                archive.writestr(name, content)
            archive.writestr(f"{MODEL}/fold_1/checkpoint_best.pth", noise)
            large = archive.filelist[-1]
            for fold in range(2, 8):
                twin = zipfile.ZipInfo(f"{MODEL}/fold_{fold}/checkpoint_best.pth")
                twin.header_offset = large.header_offset
                twin.file_size = twin.compress_size = large.file_size
                twin.CRC = large.CRC
                archive.filelist.append(twin)
                archive.NameToInfo[twin.filename] = twin
        return stream.getvalue()


def long_listing():
    """Claim an enormous listing in the last record of the zip."""
    content = bytearray(model_with())
    struct.pack_into("<HHL", content, len(content) - 14, 60, 60, 1 << 30)
    return bytes(content)


def legacy(marker):
    """Return a checkpoint as torch wrote it before 1.6: pickles without a zip."""
    return pickle.dumps(Runs(marker), protocol=2)


def torchscript(marker):
    return pickled_checkpoint({}, **{"archive/code/run.py": f"touch {marker}"})


def at_the_end_of_a_zip(marker):
    """A zip listing may begin anywhere: hide a pickle before it."""
    return pickle.dumps(Runs(marker), protocol=2) + HARMLESS


def inst_opcode(marker):
    """Call a function by an instruction that names it without GLOBAL."""
    program = b"(S'touch " + str(marker).encode() + b"'\nios\nsystem\n."
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", program)
    return stream.getvalue()


def in_plans(word, **arguments):
    """Let plans call something when the network is built."""

    def build(marker):
        plans = changed(PLANS, *NETWORK, "nonlin", word)
        filled = {
            key: [str(marker) if part == "MARKER" else part for part in value]
            for key, value in arguments.items()
        }
        return model_with(plans=changed(plans, *NETWORK, "nonlin_kwargs", filled))

    return build


def duplicated(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model_with(more=[entry(name)])


def renamed(folder, *, dataset=DATASET):
    return zipped(
        [
            (f"{dataset}/{folder}/{name.split('/', 2)[2]}", content)
            for name, content in exported()
        ]
    )


def declared(size):
    """Let the listing say that a stored entry has `size` bytes."""
    content = bytearray(zipped(exported(), compression=zipfile.ZIP_STORED))
    at = content.rfind(b"PK\x01\x02")
    struct.pack_into("<LL", content, at + 20, 0xFFFFFFFF, 0xFFFFFFFF)
    extra = struct.pack("<HHQQ", 1, 16, size, size)
    name_length = struct.unpack_from("<H", content, at + 28)[0]
    struct.pack_into("<H", content, at + 30, len(extra))
    content[at + 46 + name_length : at + 46 + name_length] = extra
    end = content.rfind(b"PK\x05\x06")
    listed = struct.unpack_from("<L", content, end + 12)[0]
    struct.pack_into("<L", content, end + 12, listed + len(extra))
    return bytes(content)


def flipped():
    """Change one byte of the stored plans."""
    content = bytearray(zipped(exported(), compression=zipfile.ZIP_STORED))
    content[content.find(b"Dataset011_Leg", 100) + 3] ^= 1
    return bytes(content)


def two_end_records():
    """Let a large zip's locator name another end record than the one before it."""
    content = bytearray(HARMLESS)
    at = content.rfind(b"PK\x05\x06")
    count, size, begin = struct.unpack_from("<HLL", content, at + 10)
    record = b"PK\x06\x06" + struct.pack(
        "<QHHLLQQQQ", 44, 45, 45, 0, 0, count, count, size, begin
    )
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, at, 1)
    return bytes(content[:at] + record + record + locator + content[at:])


DEEP = "[" * 100_000 + "]" * 100_000
UNET = "dynamic_network_architectures.architectures.unet"

MALICIOUS = [
    # row, what, a function from the marker's path to the bytes of the file
    (
        "S01",
        "checkpoint calls os.system",
        lambda m: model_with(pickled_checkpoint(Runs(m))),
    ),
    (
        "S01",
        "the same in pickle protocol 4",
        lambda m: model_with(pickled_checkpoint(Runs(m), protocol=4)),
    ),
    ("S01", "the same by the instruction INST", lambda m: model_with(inst_opcode(m))),
    (
        "S01",
        "deep inside the optimiser's state",
        lambda m: model_with(pickled_checkpoint({"optimizer_state": [{"x": Runs(m)}]})),
    ),
    ("S01", "builtins.eval", lambda _m: model_with(pickled_checkpoint({"x": eval}))),
    ("S01", "TorchScript beside the pickle", lambda m: model_with(torchscript(m))),
    (
        "S01",
        "two checkpoints in one",
        lambda _m: model_with(pickled_checkpoint({}, **{"other/data.pkl": b"."})),
    ),
    (
        "S01",
        "compressed tensors",
        lambda _m: model_with(
            zipped([("archive/data.pkl", pickle.dumps({}, protocol=2))])
        ),
    ),
    ("S08", "checkpoint in torch's old format", lambda m: model_with(legacy(m))),
    (
        "S08",
        "checkpoint cut in half",
        lambda _m: model_with(HARMLESS[: len(HARMLESS) // 2]),
    ),
    (
        "S01",
        "pickle that ends early",
        lambda _m: model_with(
            zipped([("archive/data.pkl", b"\x80\x02}")], compression=0)
        ),
    ),
    (
        "S04",
        "a pickle before the zip of the checkpoint",
        lambda m: model_with(at_the_end_of_a_zip(m)),
    ),
    (
        "S04",
        "a checkpoint before the checkpoint",
        lambda m: model_with(pickled_checkpoint(Runs(m)) + HARMLESS),
    ),
    ("S04", "a model before the model", lambda _m: model_with() + model_with()),
    ("S04", "a script before the model", lambda _m: b"#!/bin/sh\n" + model_with()),
    ("S08", "two end records", lambda _m: model_with(two_end_records())),
    (
        "S02",
        "a way back of the axes that is not the way there",
        lambda _m: plans_with("transpose_forward", [1, 2, 0]),
    ),
    (
        "S02",
        "nonlin = subprocess.Popen with args",
        in_plans("subprocess.Popen", args=["touch", "MARKER"]),
    ),
    ("S02", "nonlin = os.system", in_plans("os.system", command=["MARKER"])),
    (
        "S02",
        "network class = builtins.exec",
        lambda _m: plans_with(
            "configurations",
            "2d",
            "architecture",
            "network_class_name",
            "builtins.exec",
        ),
    ),
    (
        "S02",
        "network class reached through nnU-Net's module",
        lambda _m: plans_with(
            "configurations",
            "2d",
            "architecture",
            "network_class_name",
            f"{UNET}.torch.hub.load",
        ),
    ),
    (
        "S02",
        "conv_op = torch.load",
        lambda _m: plans_with(*NETWORK, "conv_op", "torch.load"),
    ),
    (
        "S02",
        "norm_op = pickle.load",
        lambda _m: plans_with(*NETWORK, "norm_op", "pickle.load"),
    ),
    (
        "S02",
        "dropout_op = shutil.rmtree",
        lambda _m: plans_with(*NETWORK, "dropout_op", "shutil.rmtree"),
    ),
    (
        "S02",
        "another argument is imported too",
        lambda _m: plans_with(
            "configurations",
            "2d",
            "architecture",
            "_kw_requires_import",
            ["conv_op", "norm_op", "dropout_op", "nonlin", "block"],
        ),
    ),
    (
        "S02",
        "an unknown argument of the network",
        lambda _m: plans_with(*NETWORK, "block", "os.system"),
    ),
    ("S02", "an unknown key", lambda _m: plans_with("on_load", "touch x")),
    (
        "S02",
        "preprocessor of another name",
        lambda _m: plans_with("configurations", "2d", "preprocessor_name", "Evil"),
    ),
    (
        "S02",
        "reader of another name",
        lambda _m: plans_with("image_reader_writer", "os.system"),
    ),
    (
        "S02",
        "label manager of another name",
        lambda _m: plans_with("label_manager", "Evil"),
    ),
    (
        "S02",
        "resampling of another name",
        lambda _m: plans_with(
            "configurations", "3d_fullres", "resampling_fn_data", "system"
        ),
    ),
    (
        "S02",
        "harm in a configuration that is not asked for",
        lambda _m: plans_with(
            "configurations",
            "3d_fullres",
            "architecture",
            "arch_kwargs",
            "nonlin",
            "os.system",
        ),
    ),
    (
        "S02",
        "a configuration that inherits from another",
        lambda _m: plans_with(
            "configurations", "2d", {"inherits_from": "2d", "architecture": {}}
        ),
    ),
    (
        "S02",
        "plans of another dataset",
        lambda _m: plans_with("dataset_name", "Dataset012_Arm"),
    ),
    ("S02", "plans that are a list", lambda _m: text_of("plans.json", "[]")),
    (
        "S02",
        "dataset.json with a foreign reader",
        lambda _m: model_with(
            dataset=changed(DATASET_JSON, "overwrite_image_reader_writer", "Evil")
        ),
    ),
    ("S02", "dataset.json without labels", lambda _m: text_of("dataset.json", "{}")),
    (
        "S03",
        "postprocessing.pkl",
        lambda m: model_with(
            more=[(f"{MODEL}/postprocessing.pkl", pickle.dumps(Runs(m)))]
        ),
    ),
    (
        "S03",
        "a pickle in capitals, in another folder",
        lambda m: model_with(
            more=[(f"{MODEL}/crossval/POST.PKL", pickle.dumps(Runs(m)))]
        ),
    ),
    (
        "S04",
        "..",
        lambda _m: model_with(more=[entry(f"{MODEL}/../../../escaped.json")]),
    ),
    ("S04", "absolute name", lambda m: model_with(more=[entry(f"{m}")])),
    ("S04", "drive", lambda _m: model_with(more=[entry("C:/Windows/x.json")])),
    (
        "S04",
        "backslash",
        lambda _m: model_with(more=[entry(f"{MODEL}\\..\\..\\x.json")]),
    ),
    (
        "S04",
        "symbolic link",
        lambda _m: model_with(
            more=[
                entry(
                    f"{MODEL}/fold_1/checkpoint_final.pth",
                    stat.S_IFLNK | 0o777,
                    b"/etc/passwd",
                )
            ]
        ),
    ),
    (
        "S04",
        "named pipe",
        lambda _m: model_with(
            more=[entry(f"{MODEL}/fold_1/progress.png", stat.S_IFIFO)]
        ),
    ),
    ("S04", "two entries of one name", lambda _m: duplicated(f"{MODEL}/plans.json")),
    (
        "S04",
        "names that differ in case",
        lambda _m: model_with(more=[entry(f"{MODEL}/Plans.JSON")]),
    ),
    (
        "S04",
        "names that differ in Unicode form",
        lambda _m: model_with(more=[entry("e\u0301/a"), entry("\u00e9/a")]),
    ),
    (
        "S04",
        "control characters",
        lambda _m: model_with(more=[entry(f"{MODEL}/fold_0/a\x1b[2J.png")]),
    ),
    (
        "S04",
        "a Python file",
        lambda m: model_with(
            more=[
                entry(
                    f"{MODEL}/sitecustomize.py",
                    content=f"open({str(m)!r}, 'w')".encode(),
                )
            ]
        ),
    ),
    (
        "S04",
        "a file beside the model's folder",
        lambda _m: model_with(more=[entry("README.txt")]),
    ),
    (
        "S04",
        "a trainer beside the model",
        lambda _m: model_with(more=[entry("trainers/evil/BridgeSmokeTrainer.py")]),
    ),
    ("S04", "encrypted entries", lambda _m: encrypted()),
    ("S04", "no checkpoint", lambda _m: zipped(exported()[:2])),
    ("S04", "no plans", lambda _m: zipped(exported()[1:])),
    (
        "S05",
        "files of another dataset",
        lambda _m: model_with(more=[entry(f"Dataset001_Tibia/{SMOKE_2D}/plans.json")]),
    ),
    (
        "S05",
        "files of another model",
        lambda _m: model_with(
            more=exported(run_of(NOWHERE, configuration="3d_fullres"))
        ),
    ),
    (
        "S06",
        "50 MB in 50 kB",
        lambda _m: model_with(
            more=[
                entry(f"{MODEL}/fold_1/checkpoint_final.pth", content=bytes(50 << 20))
            ]
        ),
    ),
    (
        "S06",
        "65 entries",
        lambda _m: model_with(
            more=[entry(f"{MODEL}/fold_{n}/progress.png") for n in range(1, 63)]
        ),
    ),
    ("S06", "30 GiB declared", lambda _m: declared(30 << 30)),
    ("S06", "overlapping entries", lambda _m: overlapping()),
    ("S06", "a listing of 1 GiB", lambda _m: long_listing()),
    (
        "S07",
        "patch of 10^6",
        lambda _m: plans_with("configurations", "2d", "patch_size", [10**6, 10**6]),
    ),
    (
        "S07",
        "patch whose product is absurd",
        lambda _m: plans_with("configurations", "3d_fullres", "patch_size", [4096] * 3),
    ),
    (
        "S07",
        "10^6 features",
        lambda _m: plans_with(*NETWORK, "features_per_stage", [10**6, 10**6]),
    ),
    (
        "S07",
        "network of 10^10 weights",
        lambda _m: plans_with(
            *NETWORK,
            {
                **PLANS["configurations"]["2d"]["architecture"]["arch_kwargs"],
                "features_per_stage": [4096, 4096],
                "n_conv_per_stage": [64, 64],
            },
        ),
    ),
    ("S07", "10^9 stages", lambda _m: plans_with(*NETWORK, "n_stages", 10**9)),
    (
        "S07",
        "negative kernel",
        lambda _m: plans_with(*NETWORK, "kernel_sizes", [[-3, 3], [3, 3]]),
    ),
    (
        "S07",
        "spacing of zero",
        lambda _m: plans_with("configurations", "2d", "spacing", [0.0, 1.0]),
    ),
    (
        "S07",
        "infinite spacing",
        lambda _m: text_of("plans.json", json.dumps(PLANS).replace("0.82", "1e999")),
    ),
    (
        "S07",
        "dataset.json of 10^5 labels",
        lambda _m: model_with(
            dataset=changed(
                DATASET_JSON, "labels", {f"l{n}": n for n in range(100_000)}
            )
        ),
    ),
    (
        "S07",
        "dataset.json with label 10^12",
        lambda _m: model_with(
            dataset=changed(DATASET_JSON, "labels", {"background": 0, "x": 10**12})
        ),
    ),
    (
        "S07",
        "dataset.json of 5 MB",
        lambda _m: text_of("dataset.json", os.urandom(3 << 20).hex()),
    ),
    ("S08", "plans.json nested 100,000 deep", lambda _m: text_of("plans.json", DEEP)),
    (
        "S08",
        "dataset.json nested 100,000 deep",
        lambda _m: text_of("dataset.json", '{"labels":' + DEEP + "}"),
    ),
    (
        "S08",
        "plans.json that is no text",
        lambda _m: text_of("plans.json", b"\xff\xfe\x00"),
    ),
    (
        "S08",
        "plans.json with NaN",
        lambda _m: text_of("plans.json", json.dumps(PLANS).replace("0.82", "NaN")),
    ),
    (
        "S08",
        "a number of 10,000 digits",
        lambda _m: text_of("dataset.json", '{"numTraining": ' + "9" * 10_000 + "}"),
    ),
    ("S08", "no zip", lambda _m: b"nothing"),
    ("S08", "a zip cut in half", lambda _m: model_with()[:900]),
    ("S08", "a wrong checksum", lambda _m: flipped()),
    (
        "S09",
        "a trainer nobody knows",
        lambda _m: renamed("EvilTrainer__nnUNetPlansSmoke__2d"),
    ),
    ("S09", "a trainer by its module", lambda _m: renamed("os__nnUNetPlansSmoke__2d")),
    ("S10", "a dataset folder called -rf", lambda _m: renamed(SMOKE_2D, dataset="-rf")),
    (
        "S10",
        "shell characters in the dataset",
        lambda _m: renamed(SMOKE_2D, dataset="Dataset011_$(touch x)"),
    ),
    (
        "S10",
        "shell characters in the plans",
        lambda _m: renamed("BridgeSmokeTrainer__a;touch x__2d"),
    ),
    (
        "S10",
        "an option for a fold's model",
        lambda _m: renamed("--out=x__nnUNetPlans__2d"),
    ),
]
