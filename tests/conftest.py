"""What all tests share."""

import os
import re
import resource
import runpy
import shutil
import warnings
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

for profile, examples in (("quick", 25), ("default", 30), ("long", 400)):
    settings.register_profile(
        profile,
        max_examples=examples,
        deadline=None,
        derandomize=bool(os.environ.get("CI")),  # a red run is caused by the change
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.function_scoped_fixture,
        ],
    )
settings.load_profile("default")


@pytest.fixture(scope="session")
def test_data():
    """Real images, read in place and never copied into the repository."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("NNUNET_BRIDGE_TEST_DATA") or default)
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: set NNUNET_BRIDGE_TEST_DATA")
    return folder


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


FEW_STEPS = Path(__file__).parent / "few_steps"


@pytest.fixture(scope="module")
def few_steps():
    """Make smoke trainings take seconds, in this process and in those it starts."""
    from nnunet_bridge.nnunet.methods import Method

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Method, "plans_from", Method.plans_from)  # put back at the end
        runpy.run_path(str(FEW_STEPS / "sitecustomize.py"))
        patch.setenv("PYTHONPATH", str(FEW_STEPS), prepend=os.pathsep)
        yield patch


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Return a function that makes a folder once for all processes of the tests."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def made(make):
        folder = root / make.__name__
        whole = root / f"{make.__name__}.whole"
        with FileLock(f"{folder}.lock"):
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                whole.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def planned_lab(once):
    """Five tiny patients that are converted and planned; only to be read."""
    from small_study import write_lab

    return once(write_lab)


@pytest.fixture(scope="module")
def lab(planned_lab, tmp_path_factory):
    """Copy the five tiny patients, to train on them and to spoil them."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(planned_lab, folder, dirs_exist_ok=True)
    return folder


CPU = pytest.StashKey[float]()
FAULT = re.compile(r"(?<![A-Za-z0-9])(?:[DGPFKNSM]\d{2}|R\d{1,2})(?!\d)")
"""An id of a fault or a guarantee, in the name of a test or of its parameters."""


def pytest_addoption(parser):
    parser.addoption(
        "--faults", action="store_true", help="list which faults the tests have shown"
    )
    parser.addoption(
        "--cpu", type=int, default=0, metavar="N", help="list the N dearest tests"
    )


def pytest_collection_modifyitems(items):
    """Begin with what takes longest, so that no process is left waiting at the end."""
    items.sort(key=lambda item: item.get_closest_marker("training") is None)


def _cpu_s():
    """Return the CPU seconds of this process and of its children that have ended."""
    own, children = map(
        resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Note what the phase took; xdist hands attributes of a report over."""
    report = yield
    before, now = item.config.stash.get(CPU, 0.0), _cpu_s()
    item.config.stash[CPU] = now
    report.cpu_s = now - before
    return report


def pytest_collection_finish(session):
    session.config.stash[CPU] = _cpu_s()


def pytest_terminal_summary(terminalreporter, config):
    """Write the tables that were asked for."""
    if config.getoption("--faults"):
        _write_faults(terminalreporter)
    if config.getoption("--cpu"):
        _write_costs(terminalreporter, config.getoption("--cpu"))


def _write_costs(terminalreporter, most):
    """List CPU and wall seconds of the files and tests that took the most CPU time."""
    reports = [
        report
        for kind in terminalreporter.stats.values()
        for report in kind
        if hasattr(report, "cpu_s")
    ]
    for name in ("file", "test"):
        costs = defaultdict(lambda: [0.0, 0.0])
        for report in reports:
            test = report.nodeid
            cost = costs[test.partition("::")[0] if name == "file" else test]
            cost[0] += report.cpu_s
            cost[1] += report.duration
        total = sum(cpu for cpu, _ in costs.values())
        terminalreporter.section(f"CPU and wall seconds of each {name}; {total:.0f} s")
        dearest = sorted(costs.items(), key=lambda cost: -cost[1][0])[:most]
        for key, (cpu, wall) in dearest:
            terminalreporter.write_line(f"{cpu:8.1f} {wall:8.1f}  {key}")


def _write_faults(terminalreporter):
    """Write for every id how many tests bear it, and how they ended."""
    table = defaultdict(Counter)
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            test = report.nodeid
            name = test.rpartition("::")[2].replace("_", " ")
            for code in set(FAULT.findall(name)):
                table[code][outcome] += 1
    terminalreporter.section("faults and guarantees, and the tests that bear their ids")
    for code in sorted(table, key=lambda code: (code[0], int(code[1:]))):
        counts = table[code]
        terminalreporter.write_line(
            f"{code:4} passed {counts['passed']:4}  failed {counts['failed']:3}  "
            f"skipped {counts['skipped']:3}"
        )
