"""nnU-Net's process as we start it for several GPUs, on the CPU.

    python gloo_training.py train --gpus 2 --device cuda ...

Everything is real but the hardware: gloo connects the processes instead of NCCL, and
the networks stay on the CPU. torch starts each process anew, which reads this file
again. `STOP_AT_EPOCH` names an epoch before which every process fails.
"""

import os
import sys
from importlib import import_module

import torch
from nnunetv2.run import run_training as nnunet

from nnunet_bridge.nnunet.commands import NnUNetProcess
from nnunet_bridge.nnunet.launch import main

trainers = import_module("nnunetv2.training.nnUNetTrainer.nnUNetTrainer")
initialize = trainers.nnUNetTrainer.initialize
on_epoch_start = trainers.nnUNetTrainer.on_epoch_start
on_gpus = trainers.DDP


def connect(rank, processes):
    torch.distributed.init_process_group("gloo", rank=rank, world_size=processes)


def initialize_on_cpu(trainer):
    trainer.device, trainer.grad_scaler = torch.device("cpu"), None
    initialize(trainer)


def start_or_stop(trainer):
    if trainer.current_epoch == int(os.environ.get("STOP_AT_EPOCH", "-1")):
        raise RuntimeError("stopped by the test")
    on_epoch_start(trainer)


def start(command, environment, log_file):
    """Start a training here, in place of `NnUNetProcess`."""
    python, *rest = command
    words = rest[rest.index("train") :]
    return NnUNetProcess([python, __file__, *words], environment, log_file)


if __name__ in ("__main__", "__mp_main__"):
    # Loaders are the subject of other tests.
    os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112 - nnU-Net's name
    nnunet.setup_ddp = connect
    torch.cuda.set_device = lambda _device: None
    metrics = trainers.compute_metrics_on_folder
    trainers.compute_metrics_on_folder = lambda *places, **how: metrics(
        *places, **how | {"num_processes": 1}
    )
    trainers.DDP = lambda network, **_devices: on_gpus(network)
    trainers.nnUNetTrainer.initialize = initialize_on_cpu
    trainers.nnUNetTrainer.on_epoch_start = start_or_stop

if __name__ == "__main__":
    main(sys.argv[1:])
