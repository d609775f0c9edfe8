"""Plan, train and predict dataset 1 by nnU-Net's own commands, in one process.

Their entry points are called one after the other, so torch is imported once.
"""

import os
import sys


def call(entry, *words):
    sys.argv = ["nnU-Net", *words]
    entry()


def main(images, out):
    from nnunetv2.experiment_planning import plan_and_preprocess_entrypoints as planning
    from nnunetv2.inference.predict_from_raw_data import predict_entry_point
    from nnunetv2.run.run_training import run_training_entry

    model = ("-d", "1", "-c", "2d", "-tr", "LabTrainer")
    call(planning.plan_and_preprocess_entry, *model[:4], "-np", "1", "-npfp", "1")
    os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112 - nnU-Net's name
    call(run_training_entry, "1", "2d", "0", *model[4:], "-device", "cpu")
    folders = ("-i", images, "-o", out, "-f", "0", "-device", "cpu")
    call(predict_entry_point, *folders, *model)


if __name__ == "__main__":
    main(*sys.argv[1:])
