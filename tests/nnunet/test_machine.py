"""GPUs are those that `nvidia-smi` lists and CUDA shows this process."""

import pytest

from nnunet_bridge.core.errors import EnvironmentFault
from nnunet_bridge.nnunet.machine import chosen_device, hardware, this_machine

LISTED = """0, GPU-aa, NVIDIA A100, 40960, 550.54
1, GPU-bb, NVIDIA T4, 15360, 550.54
2, GPU-cc, NVIDIA T4, [N/A], 550.54
"""


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
    assert machine.gpu_memory_bytes == (memory_mib and memory_mib << 20)
    assert chosen_device("auto", machine) == ("cuda" if gpus else "cpu")


@pytest.mark.usefixtures("nvidia_smi")
def test_the_record_of_a_training_names_gpus_and_driver(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")

    assert hardware()["gpus"] == ["NVIDIA T4"]
    assert hardware()["gpu_driver"] == "550.54"


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
        chosen_device("cuda", this_machine())
