"""What all tests share."""

import os
import re
import warnings
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "shared machine",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("shared machine")


@pytest.fixture(scope="session")
def test_data():
    """Real images, read in place and never copied into the repository."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("NNUNET_BRIDGE_TEST_DATA") or default)
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: set NNUNET_BRIDGE_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def long_tests():
    """Whether tests that can be made long are to run in full."""
    return bool(os.environ.get("NNUNET_BRIDGE_LONG_TESTS"))


@pytest.fixture(scope="session")
def by_the_package():
    """What surface-distance itself says: the oracle of every surface measure."""

    def measures(prediction, reference, spacing_mm, tolerance_mm):
        """Return HD95, HD, ASSD and NSD of two masks, as the package computes them."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it uses names that scipy will remove
            import surface_distance as sd

            found = sd.compute_surface_distances(
                reference, prediction, tuple(spacing_mm)
            )
            areas = found["surfel_areas_gt"], found["surfel_areas_pred"]
            distances = found["distances_gt_to_pred"], found["distances_pred_to_gt"]
            assd = sum((d * a).sum() for d, a in zip(distances, areas, strict=True))
            return (
                sd.compute_robust_hausdorff(found, 95),
                sd.compute_robust_hausdorff(found, 100),
                assd / sum(a.sum() for a in areas),
                sd.compute_surface_dice_at_tolerance(found, tolerance_mm),
            )

    return measures


FAULT = re.compile(r"(?<![A-Za-z0-9])(?:[DGPFKNSM]\d{2}|R\d{1,2})(?!\d)")
"""An id of a fault or a guarantee, in the name of a test or of its parameters."""


def pytest_addoption(parser):
    parser.addoption(
        "--faults", action="store_true", help="list which faults the tests have shown"
    )


def pytest_terminal_summary(terminalreporter, config):
    """Say for every id how many tests bear it, and how they ended."""
    if not config.getoption("--faults"):
        return
    table = defaultdict(Counter)
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            name = report.nodeid.rpartition("::")[2].replace("_", " ")
            for code in set(FAULT.findall(name)):
                table[code][outcome] += 1
    terminalreporter.section("faults and guarantees, and the tests that bear their ids")
    for code in sorted(table, key=lambda code: (code[0], int(code[1:]))):
        counts = table[code]
        terminalreporter.write_line(
            f"{code:4} passed {counts['passed']:4}  failed {counts['failed']:3}  "
            f"skipped {counts['skipped']:3}"
        )
