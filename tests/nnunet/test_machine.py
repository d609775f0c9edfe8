"""GPUs are those that `nvidia-smi` lists and CUDA shows this process."""

import re
from dataclasses import replace

import pytest

from nnunet_bridge.core.errors import EnvironmentFault
from nnunet_bridge.nnunet.host import Host, installed_torch
from nnunet_bridge.nnunet.machine import (
    Accelerator,
    Machine,
    TorchBuild,
    chosen_device,
    compilation_fault,
    fault_of,
    hardware,
    this_machine,
)

LISTED = """0, GPU-aa, NVIDIA A100, 40960, 580.54, 40000, 8.0
1, GPU-bb, NVIDIA T4, 15360, 580.54, 300, 7.5
2, GPU-cc, NVIDIA T4, [N/A], 580.54, [N/A], 7.5
"""
CUDA_13 = TorchBuild("2.15.0", "13.2", ("sm_75", "sm_80", "sm_90", "compute_90"))
CUDA_12 = TorchBuild("2.8.0", "12.6", ("sm_50", "sm_60", "sm_80", "sm_90"))


def forbidden():
    raise AssertionError("torch was asked, although there is no GPU")


def gpu(driver="580.54", capability="8.6", word="GPU-aa"):
    return Accelerator("NVIDIA RTX", 8 << 30, 7 << 30, driver, capability, word)


def machine_with(*gpus):
    return Machine(
        cores=8, free_memory_bytes=8 << 30, gpus=len(gpus), accelerators=gpus
    )


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Put an `nvidia-smi` on the path that answers as three GPUs do."""
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\ncat <<'END'\n{LISTED}END\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return command


@pytest.mark.parametrize(
    ("visible", "gpus", "memory_mib"),
    [
        (None, 3, 40960),
        ("", 0, None),
        ("-1", 0, None),
        ("1", 1, 15360),
        ("GPU-bb,0", 2, 15360),
        ("2", 1, None),
        ("0,7,1", 1, 40960),
        ("MIG-1,MIG-2", 2, None),
    ],
)
@pytest.mark.usefixtures("nvidia_smi")
def test_a_process_has_the_gpus_that_cuda_shows_it(
    monkeypatch, visible, gpus, memory_mib
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    machine = this_machine()

    assert machine.gpus == gpus
    memory = machine.accelerators[0].memory_bytes if gpus else None
    assert memory == (memory_mib and memory_mib << 20)
    device = "cuda" if gpus else "cpu"
    assert chosen_device("auto", machine, lambda: CUDA_13) == (device, "")


@pytest.mark.usefixtures("nvidia_smi")
def test_the_record_of_a_training_names_gpus_and_driver(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")

    assert hardware()["gpus"] == ["NVIDIA T4"]
    assert hardware()["gpu_driver"] == "580.54"


@pytest.mark.parametrize("answer", ["exit 9", "echo 'No devices were found'; exit 6"])
def test_a_driver_that_fails_means_no_gpu(nvidia_smi, monkeypatch, answer):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvidia_smi.write_text(f"#!/bin/sh\n{answer}\n")

    assert this_machine().gpus == 0
    assert hardware()["gpus"] == []


@pytest.mark.usefixtures("nvidia_smi")
def test_a_gpu_that_is_not_there_is_refused_with_the_way_out(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    with pytest.raises(EnvironmentFault, match="use --device cpu"):
        chosen_device("cuda", this_machine(), forbidden)


@pytest.mark.usefixtures("nvidia_smi")
def test_each_gpu_has_its_memory_driver_capability_and_name(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")

    (found,) = this_machine().accelerators

    facts = "NVIDIA T4", 15360 << 20, 300 << 20, "580.54", "7.5", "GPU-bb"
    assert found == Accelerator(*facts)


def test_an_old_driver_that_does_not_know_the_capability_still_lists_its_gpus(
    nvidia_smi, monkeypatch
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    line = "0, GPU-aa, NVIDIA K80, 11441, 470.82, 11000"
    nvidia_smi.write_text(
        f'#!/bin/sh\ncase "$1" in *compute_cap*) exit 2;; *) echo "{line}";; esac\n'
    )

    (found,) = this_machine().accelerators

    assert (found.name, found.driver, found.capability) == ("NVIDIA K80", "470.82", "")


@pytest.mark.parametrize(
    ("found", "torch", "message"),
    [
        (gpu(), CUDA_13, ""),
        (gpu(capability=""), CUDA_13, ""),
        (gpu(driver=""), CUDA_13, ""),
        (gpu(driver="535.10"), CUDA_13, "older than 580.*whl/cu126"),
        (gpu(driver="470.82"), CUDA_13, "older than 580.*: update the driver$"),
        (gpu(driver="535.10"), CUDA_12, ""),
        (gpu(driver="470.82"), CUDA_12, "older than 525"),
        (gpu(capability="6.1"), CUDA_13, "no code for.*6.1.*whl/cu126"),
        (gpu(capability="6.1"), CUDA_12, ""),
        (gpu(capability="8.9"), CUDA_13, ""),
        (gpu(capability="12.0"), CUDA_13, ""),
        (gpu(capability="12.0"), CUDA_12, "no code for.*12.0.*newer torch"),
        (gpu(), TorchBuild("2.9.0+cpu"), "built for CPUs only: install it with CUDA"),
        (gpu(), replace(CUDA_13, error="out of memory"), "out of memory"),
        (gpu(), TorchBuild("", error="torch does not start"), "^torch does not start"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_reported_with_what_to_install(
    found, torch, message
):
    fault = fault_of(found, torch)

    assert bool(fault) == bool(message)
    assert re.search(message, fault)


def test_auto_takes_the_cpu_where_no_gpu_can_be_used_and_says_why():
    old = machine_with(gpu(capability="6.1"))

    device, warning = chosen_device("auto", old, lambda: CUDA_13)

    assert device == "cpu"
    assert re.search(r"not used.*NVIDIA RTX: .*capability 6\.1", warning)
    with pytest.raises(EnvironmentFault, match=r"capability 6\.1") as caught:
        chosen_device("cuda", old, lambda: CUDA_13)
    assert caught.value.exit_code == 5
    assert chosen_device("cpu", old, forbidden) == ("cpu", "")


def test_a_gpu_that_cannot_be_used_is_left_out_beside_one_that_can():
    both = machine_with(gpu(capability="3.5", word="old"), gpu(word="new"))
    host = Host(both, torch=lambda: CUDA_13)

    assert host.device("auto") == ("cuda", "")
    assert host.visible(1) == ("new",)


def test_each_of_two_runs_has_a_gpu_of_its_own_and_one_run_can_have_both():
    host = Host(machine_with(gpu(word="a"), gpu(word="b")), torch=lambda: CUDA_13)

    assert host.visible(1) == ("a", "b")
    assert host.visible(2) == ("",)  # all that are visible anyway


@pytest.mark.parametrize(("platform", "device"), [("darwin", "mps"), ("linux", "cpu")])
def test_auto_takes_the_gpu_of_an_apple_computer(monkeypatch, platform, device):
    monkeypatch.setattr("sys.platform", platform)
    apple = TorchBuild("2.15.0", mps=True)

    assert chosen_device("auto", machine_with(), lambda: apple) == (device, "")


def test_torch_is_asked_in_a_process_of_its_own():
    import torch

    found = installed_torch()

    assert found.version == torch.__version__
    assert found.cuda == (torch.version.cuda or "")
    assert bool(found.architectures) == bool(found.cuda)


def test_compilation_needs_a_compiler_and_the_headers_of_python(tmp_path):
    (tmp_path / "gcc").write_text("")
    (tmp_path / "gcc").chmod(0o755)
    here, nowhere = {"PATH": str(tmp_path)}, {"PATH": "/nowhere"}

    assert "install gcc" in compilation_fault(nowhere, tmp_path)
    assert "python3-dev" in compilation_fault(here, tmp_path)
    (tmp_path / "Python.h").write_text("")
    assert compilation_fault(here, tmp_path) == ""
    assert compilation_fault({**nowhere, "CC": "/opt/cc"}, tmp_path) == ""
