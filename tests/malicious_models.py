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
IN_2D, FULLRES = ("configurations", "2d"), ("configurations", "3d_fullres")
ARCHITECTURE = (*IN_2D, "architecture")
NETWORK = (*ARCHITECTURE, "arch_kwargs")


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

CHECKPOINTS = [  # row, what, a function from the marker's path to the checkpoint
    ("S01", "checkpoint calls os.system", lambda m: pickled_checkpoint(Runs(m))),
    ("S01", "the same in pickle protocol 4",
     lambda m: pickled_checkpoint(Runs(m), protocol=4)),
    ("S01", "the same by the instruction INST", inst_opcode),
    ("S01", "deep inside the optimiser's state",
     lambda m: pickled_checkpoint({"optimizer_state": [{"x": Runs(m)}]})),
    ("S01", "builtins.eval", lambda _: pickled_checkpoint({"x": eval})),
    ("S01", "TorchScript beside the pickle", torchscript),
    ("S01", "two checkpoints in one",
     lambda _: pickled_checkpoint({}, **{"other/data.pkl": b"."})),
    ("S01", "compressed tensors",
     lambda _: zipped([("archive/data.pkl", pickle.dumps({}, protocol=2))])),
    ("S08", "checkpoint in torch's old format", legacy),
    ("S08", "checkpoint cut in half", lambda _: HARMLESS[: len(HARMLESS) // 2]),
    ("S01", "pickle that ends early",
     lambda _: zipped([("archive/data.pkl", b"\x80\x02}")], compression=0)),
    ("S04", "a pickle before the zip of the checkpoint", at_the_end_of_a_zip),
    ("S04", "a checkpoint before the checkpoint",
     lambda m: pickled_checkpoint(Runs(m)) + HARMLESS),
    ("S08", "two end records", lambda _: two_end_records()),
]  # fmt: skip
CHANGED_PLANS = [  # row, what, path and value in plans.json
    ("S02", "a way back of the axes that is not the way there",
     ("transpose_forward", [1, 2, 0])),
    ("S02", "network class = builtins.exec",
     (*ARCHITECTURE, "network_class_name", "builtins.exec")),
    ("S02", "network class reached through nnU-Net's module",
     (*ARCHITECTURE, "network_class_name", f"{UNET}.torch.hub.load")),
    ("S02", "conv_op = torch.load", (*NETWORK, "conv_op", "torch.load")),
    ("S02", "norm_op = pickle.load", (*NETWORK, "norm_op", "pickle.load")),
    ("S02", "dropout_op = shutil.rmtree", (*NETWORK, "dropout_op", "shutil.rmtree")),
    ("S02", "another argument is imported too",
     (*ARCHITECTURE, "_kw_requires_import",
      ["conv_op", "norm_op", "dropout_op", "nonlin", "block"])),
    ("S02", "an unknown argument of the network", (*NETWORK, "block", "os.system")),
    ("S02", "an unknown key", ("on_load", "touch x")),
    ("S02", "preprocessor of another name", (*IN_2D, "preprocessor_name", "Evil")),
    ("S02", "reader of another name", ("image_reader_writer", "os.system")),
    ("S02", "label manager of another name", ("label_manager", "Evil")),
    ("S02", "resampling of another name", (*FULLRES, "resampling_fn_data", "system")),
    ("S02", "harm in a configuration that is not asked for",
     (*FULLRES, "architecture", "arch_kwargs", "nonlin", "os.system")),
    ("S02", "a configuration that inherits from another",
     (*IN_2D, {"inherits_from": "2d", "architecture": {}})),
    ("S02", "plans of another dataset", ("dataset_name", "Dataset012_Arm")),
    ("S07", "patch of 10^6", (*IN_2D, "patch_size", [10**6, 10**6])),
    ("S07", "patch whose product is absurd", (*FULLRES, "patch_size", [4096] * 3)),
    ("S07", "10^6 features", (*NETWORK, "features_per_stage", [10**6, 10**6])),
    ("S07", "network of 10^10 weights",
     (*NETWORK, {**PLANS["configurations"]["2d"]["architecture"]["arch_kwargs"],
                 "features_per_stage": [4096, 4096], "n_conv_per_stage": [64, 64]})),
    ("S07", "10^9 stages", (*NETWORK, "n_stages", 10**9)),
    ("S07", "negative kernel", (*NETWORK, "kernel_sizes", [[-3, 3], [3, 3]])),
    ("S07", "spacing of zero", (*IN_2D, "spacing", [0.0, 1.0])),
]  # fmt: skip
DESCRIPTIONS = [  # row, what, key and value in dataset.json
    ("S02", "a foreign reader", ("overwrite_image_reader_writer", "Evil")),
    ("S07", "10^5 labels", ("labels", {f"l{n}": n for n in range(100_000)})),
    ("S07", "label 10^12", ("labels", {"background": 0, "x": 10**12})),
]
TEXTS = [  # row, what, the file of that name, its text
    ("S02", "plans that are a list", "plans.json", "[]"),
    ("S02", "no labels", "dataset.json", "{}"),
    ("S07", "infinite spacing", "plans.json",
     json.dumps(PLANS).replace("0.82", "1e999")),
    ("S07", "5 MB", "dataset.json", os.urandom(3 << 20).hex()),
    ("S08", "nested 100,000 deep", "plans.json", DEEP),
    ("S08", "nested 100,000 deep", "dataset.json", '{"labels":' + DEEP + "}"),
    ("S08", "no text", "plans.json", b"\xff\xfe\x00"),
    ("S08", "NaN", "plans.json", json.dumps(PLANS).replace("0.82", "NaN")),
    ("S08", "a number of 10,000 digits", "dataset.json",
     '{"numTraining": ' + "9" * 10_000 + "}"),
]  # fmt: skip
ENTRIES = [  # row, what, a function from the marker's path to further entries
    ("S03", "postprocessing.pkl",
     lambda m: [(f"{MODEL}/postprocessing.pkl", pickle.dumps(Runs(m)))]),
    ("S03", "a pickle in capitals, in another folder",
     lambda m: [(f"{MODEL}/crossval/POST.PKL", pickle.dumps(Runs(m)))]),
    ("S04", "..", lambda _: [entry(f"{MODEL}/../../../escaped.json")]),
    ("S04", "absolute name", lambda m: [entry(f"{m}")]),
    ("S04", "drive", lambda _: [entry("C:/Windows/x.json")]),
    ("S04", "backslash", lambda _: [entry(f"{MODEL}\\..\\..\\x.json")]),
    ("S04", "symbolic link",
     lambda _: [entry(f"{MODEL}/fold_1/checkpoint_final.pth",
                      stat.S_IFLNK | 0o777, b"/etc/passwd")]),
    ("S04", "named pipe",
     lambda _: [entry(f"{MODEL}/fold_1/progress.png", stat.S_IFIFO)]),
    ("S04", "names that differ in case", lambda _: [entry(f"{MODEL}/Plans.JSON")]),
    ("S04", "names that differ in Unicode form",
     lambda _: [entry("e\u0301/a"), entry("\u00e9/a")]),
    ("S04", "control characters", lambda _: [entry(f"{MODEL}/fold_0/a\x1b[2J.png")]),
    ("S04", "a Python file",
     lambda m: [entry(f"{MODEL}/sitecustomize.py",
                      content=f"open({str(m)!r}, 'w')".encode())]),
    ("S04", "a file beside the model's folder", lambda _: [entry("README.txt")]),
    ("S04", "a trainer beside the model",
     lambda _: [entry("trainers/evil/BridgeSmokeTrainer.py")]),
    ("S05", "files of another dataset",
     lambda _: [entry(f"Dataset001_Tibia/{SMOKE_2D}/plans.json")]),
    ("S05", "files of another model",
     lambda _: exported(run_of(NOWHERE, configuration="3d_fullres"))),
    ("S06", "50 MB in 50 kB",
     lambda _: [entry(f"{MODEL}/fold_1/checkpoint_final.pth", 0, bytes(50 << 20))]),
    ("S06", "65 entries",
     lambda _: [entry(f"{MODEL}/fold_{n}/progress.png") for n in range(1, 63)]),
]  # fmt: skip
FOLDERS = [  # row, what, the folder's name
    ("S09", "a trainer nobody knows", "EvilTrainer__nnUNetPlansSmoke__2d"),
    ("S09", "a trainer by its module", "os__nnUNetPlansSmoke__2d"),
    ("S10", "shell characters in the plans", "BridgeSmokeTrainer__a;touch x__2d"),
    ("S10", "an option for a fold's model", "--out=x__nnUNetPlans__2d"),
]


def all_malicious():
    """Yield row, what, and a function from the marker's path to a file's bytes."""
    for row, what, make in CHECKPOINTS:
        yield row, what, lambda m, make=make: model_with(make(m))
    for row, what, change in CHANGED_PLANS:
        yield row, what, lambda _, change=change: plans_with(*change)
    for row, what, change in DESCRIPTIONS:
        dataset = changed(DATASET_JSON, *change)
        yield row, f"dataset.json: {what}", lambda _, d=dataset: model_with(dataset=d)
    for row, what, file, text in TEXTS:
        yield row, f"{file}: {what}", lambda _, f=file, t=text: text_of(f, t)
    for row, what, make in ENTRIES:
        yield row, what, lambda m, make=make: model_with(more=make(m))
    for row, what, folder in FOLDERS:
        yield row, what, lambda _, folder=folder: renamed(folder)


MALICIOUS = [
    *all_malicious(),
    ("S02", "nonlin = subprocess.Popen with args",
     in_plans("subprocess.Popen", args=["touch", "MARKER"])),
    ("S02", "nonlin = os.system", in_plans("os.system", command=["MARKER"])),
    ("S04", "a model before the model", lambda _: model_with() + model_with()),
    ("S04", "a script before the model", lambda _: b"#!/bin/sh\n" + model_with()),
    ("S04", "two entries of one name", lambda _: duplicated(f"{MODEL}/plans.json")),
    ("S04", "encrypted entries", lambda _: encrypted()),
    ("S04", "no checkpoint", lambda _: zipped(exported()[:2])),
    ("S04", "no plans", lambda _: zipped(exported()[1:])),
    ("S06", "30 GiB declared", lambda _: declared(30 << 30)),
    ("S06", "overlapping entries", lambda _: overlapping()),
    ("S06", "a listing of 1 GiB", lambda _: long_listing()),
    ("S08", "no zip", lambda _: b"nothing"),
    ("S08", "a zip cut in half", lambda _: model_with()[:900]),
    ("S08", "a wrong checksum", lambda _: flipped()),
    ("S10", "a dataset folder called -rf", lambda _: renamed(SMOKE_2D, dataset="-rf")),
    ("S10", "shell characters in the dataset",
     lambda _: renamed(SMOKE_2D, dataset="Dataset011_$(touch x)")),
]  # fmt: skip
