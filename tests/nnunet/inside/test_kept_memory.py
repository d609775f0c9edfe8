"""Memory that a smoke training on a CPU frees and needs again in the next step."""

import json
import os
import platform
import subprocess
import sys

import pytest

TENSORS, TENSOR_BYTES, STEPS = 4, 24 << 20, 10

# Prints the pages that each step gets from the system, and the bytes that the process
# has more after it had larger tensors.
PROGRAM = f"""
import json, resource, sys
import torch
from nnunet_bridge.nnunet.inside.cpu_steps import keep_freed_memory

def pages_of(step):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def step(size={TENSOR_BYTES}):
    tensors = [torch.ones(size // 4) for _ in range({TENSORS})]

def bytes_now():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmRSS"].split()[0]) << 10

kept = sys.argv[1] == "kept" and keep_freed_memory()
pages = [pages_of(step) for _ in range({STEPS})]
before = bytes_now()
step(64 << 20)
print(json.dumps([kept, pages, bytes_now() - before]))
"""


# glibc begins with these limits and raises them, by chance, while a process runs.
LIMITS = {f"MALLOC_{name}_THRESHOLD_": str(128 << 10) for name in ("TRIM", "MMAP")}


def in_a_process(way):
    command, variables = [sys.executable, "-c", PROGRAM, way], {**os.environ, **LIMITS}
    done = subprocess.run(
        command, env=variables, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not a system with glibc")
def test_a_step_gets_its_memory_from_the_one_before():
    _, plain, _ = in_a_process("plain")
    kept, pages, more_bytes = in_a_process("kept")

    assert kept
    assert sum(pages[5:]) * 20 < sum(plain[5:]), "it has what it needs"
    assert more_bytes < TENSOR_BYTES, "larger ones are given back"
