"""Memory that a smoke training on a CPU frees and needs again in the next step."""

import json
import platform
import subprocess
import sys

import pytest

TENSORS, TENSOR_BYTES, STEPS = 4, 24 << 20, 10

# Prints the pages that each step gets from the system, then those of larger tensors.
PROGRAM = f"""
import json, resource, sys
import torch
from nnunet_bridge.nnunet.trainers.budgets import keep_freed_memory

def pages_of(step):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def step(size={TENSOR_BYTES}):
    tensors = [torch.ones(size // 4) for _ in range({TENSORS})]

kept = sys.argv[1] == "kept" and keep_freed_memory()
pages = [pages_of(step) for _ in range({STEPS})]
step(64 << 20)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps([kept, pages, int(status["VmRSS"].split()[0]) << 10]))
"""


def in_a_process(way):
    command = [sys.executable, "-c", PROGRAM, way]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not a system with glibc")
def test_a_step_gets_its_memory_from_the_one_before():
    _, plain, plain_bytes = in_a_process("plain")
    kept, pages, kept_bytes = in_a_process("kept")

    assert kept
    assert sum(pages[1:]) * 10 < sum(plain[1:]), "it asks for its memory only once"
    assert kept_bytes < plain_bytes + 2 * TENSORS * TENSOR_BYTES, "not for larger ones"
