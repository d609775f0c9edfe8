"""Memory is asked for before it is taken."""

import subprocess
import sys

import pytest

from nnunet_bridge.core.errors import EnvironmentFault
from nnunet_bridge.core.findings import Refused
from nnunet_bridge.formats.memory import (
    ask_for_memory,
    free_memory_bytes,
    require_memory,
)

GIB = 1 << 30

LIMITED = """
import resource, sys
from nnunet_bridge.formats.memory import free_memory_bytes
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
print(free_memory_bytes())
"""


def test_what_is_free_is_less_than_what_the_machine_has():
    with open("/proc/meminfo", encoding="ascii") as stream:  # noqa: PTH123 - one line
        total = int(stream.readline().split()[1]) * 1024

    assert 0 < free_memory_bytes() < total


def test_a_limit_of_the_process_counts():
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(GIB)],
        check=True,
        capture_output=True,
        text=True,
    )

    assert 0 < int(done.stdout) < GIB


def test_a_limit_of_the_container_counts_without_its_cached_files(tmp_path):
    facts = {"max": "1000000000", "current": "900000000", "stat": "anon 1\nfile 8000\n"}
    for name, value in facts.items():
        (tmp_path / f"memory.{name}").write_text(value)

    assert free_memory_bytes(tmp_path) == 100_008_000


def test_F10_one_case_that_is_too_large_is_refused_with_both_figures():
    require_memory(3 * 10**9, 3 * 10**9, "It")
    with pytest.raises(Refused) as caught:
        require_memory(4 * 10**9, 3 * 10**9, "It")

    assert caught.value.code == "F10"
    assert "It needs 4.0 GB of memory, but 3.0 GB is available" in str(caught.value)


def test_F10_a_request_is_held_against_the_machine():
    ask_for_memory(1, "It")
    with pytest.raises(Refused, match="It needs"):
        ask_for_memory(1 << 60, "It")


def test_F10_where_nothing_can_start_the_machine_is_at_fault():
    with pytest.raises(EnvironmentFault) as caught:
        require_memory(2, 1, "The training", kind="GPU memory", of_one_case=False)

    assert (caught.value.code, caught.value.exit_code) == ("F10", 5)
    assert "of GPU memory" in str(caught.value)
