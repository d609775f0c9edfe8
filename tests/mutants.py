"""Mutation test: change one operator or number at a time; some test must fail.

    python tests/mutants.py --report mutants.json      (make mutants)

The sample is drawn with a fixed seed from every module of `core` and `ops` and from the
checks of `formats`, in proportion to the places that can change. Each mutant runs the
tests that mirror its module in a forked process that has loaded the libraries already.
Mutants in `tests/equivalent_mutants.txt` change nothing that a caller can see.
"""

import argparse
import ast
import copy
import importlib
import json
import os
import random
import resource
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

ROOT = Path(__file__).parents[1]
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.txt")
FORMATS = ("nifti", "slicer", "recipe", "manifest", "dicom/stack", "dicom/headers")
SAMPLE = 400
LOADED = (
    *("SimpleITK", "nibabel", "pydantic", "pydicom", "surface_distance"),
    *("scipy.sparse.csgraph", "scipy.spatial", "scipy.stats", "skimage.measure"),
)
"""What every fork needs and no mutant changes."""

DATA = ("ops/anatomy", "core/progress", "core/summary", "core/version")
"""Tables of measures, protocols and a number: nothing in them decides."""

COMPARISON = "ops/test_comparison"
MIRRORS = {
    "core/case_table": ("formats/test_case_table", "pipeline/ingest/test_table_plan"),
    "core/cases": ("cli/test_one_form_of_a_case",),
    "core/comparison": (COMPARISON, "core/test_scores"),
    "core/dataset": ("core/test_image",),
    "core/findings": ("core/test_scores", "core/test_image"),
    "core/mesh": ("ops/test_surface",),
    "core/quality": ("ops/test_quality",),
    "core/records": ("ops/test_quality",),
    "core/scores": ("core/test_scores", "ops/test_metrics"),
    "core/words": ("core/test_scores", "core/test_cleaning"),
    "formats/dicom/headers": (
        *("formats/test_dicom_walker", "formats/test_dicom_series"),
        *("formats/test_dicom_pixels", "stories/test_every_dicom_row"),
    ),
    "formats/dicom/stack": (
        *("formats/test_dicom_series", "stories/test_every_dicom_row"),
    ),
    "formats/nifti": (
        *("formats/test_nifti", "formats/test_nifti_place"),
        "formats/test_file_formats",
    ),
    "formats/slicer": (
        *("formats/test_slicer", "formats/test_mask_forms"),
        *("formats/test_file_formats", "stories/test_mask_faults"),
    ),
    "ops/agreement": (COMPARISON,),
    "ops/checks": ("ops/test_checks", "pipeline/prediction/test_one_bad_image"),
    "ops/naming": ("ops/test_naming", "ops/test_pairing"),
    "ops/outcomes": (COMPARISON, "ops/test_choice"),
    "ops/paired": (COMPARISON,),
    "ops/patients": ("pipeline/ingest/test_init",),
    "ops/surface_frame": ("formats/test_surfaces",),
    "ops/verdict": (COMPARISON,),
    "ops/vocabulary": ("ops/test_vocabulary", "ops/test_naming"),
}
COMPARED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
CALCULATED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
CALLED = {"min": "max", "max": "min", "any": "all", "all": "any"}


def changed(node):
    """Return the source of a node with one thing changed; None if nothing can."""
    old = ast.unparse(node)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARED:
        node.ops[0] = COMPARED[type(node.ops[0])]()
    elif isinstance(node, ast.BinOp) and type(node.op) in CALCULATED:
        node.op = CALCULATED[type(node.op)]()
    elif isinstance(node, ast.BoolOp):
        node.op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.UAdd):
        node = node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        node.value = not node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        node.value = node.value * 1.5 or 1.0 if node.value % 1 else node.value + 1
    elif isinstance(node, ast.Name) and node.id in CALLED:
        node.id = CALLED[node.id]
    else:
        return None
    return old, ast.unparse(node)


def places(source):  # noqa: C901 - one walk over the kinds of nodes
    """Yield (function, start, end, old, new) of every change that a module allows."""
    lines = [0]
    for line in source.encode().splitlines(keepends=True):
        lines.append(lines[-1] + len(line))

    def visit(node, where):  # noqa: C901 - likewise
        if isinstance(node, ast.JoinedStr | ast.Raise):
            return
        if isinstance(node, ast.AnnAssign) and "TypeAlias" in ast.unparse(node):
            return
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            where = f"{where}.{node.name}".strip(".")
        if hasattr(node, "lineno") and isinstance(node, ast.expr):
            start = lines[node.lineno - 1] + node.col_offset
            end = lines[node.end_lineno - 1] + node.end_col_offset
            if found := changed(copy.deepcopy(node)):
                yield where, start, end, *found
        skipped = {"annotation", "returns", "decorator_list"}
        for name, value in ast.iter_fields(node):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and name not in skipped:
                    yield from visit(child, where)

    yield from visit(ast.parse(source), "")


def modules():
    """Return the modules under test by their name, such as ``ops/merge``."""
    package = ROOT / "nnunet_bridge"
    names = [
        f"{room}/{file.stem}"
        for room in ("core", "ops")
        for file in sorted((package / room).glob("[!_]*.py"))
    ]
    names += [f"formats/{name}" for name in FORMATS]
    return {n: package / f"{n}.py" for n in names if n not in DATA}


def sampled(count, seed):
    """Return (module, place) of `count` changes, at least two a module, shuffled."""
    every = {name: list(places(file.read_text())) for name, file in modules().items()}
    total = sum(map(len, every.values()))
    chosen = []
    for name, found in every.items():
        draw = random.Random(f"{seed} {name}").sample(found, len(found))  # noqa: S311 - no secret
        chosen += [
            (name, place) for place in draw[: max(2, -(-count * len(found) // total))]
        ]
    random.Random(seed).shuffle(chosen)  # noqa: S311 - no secret
    return chosen[:count]


class QuickFirst:
    """Runs tests in the order of the seconds that they took before any change."""

    def __init__(self, seconds):
        self.file = seconds
        self.seconds = json.loads(seconds.read_text()) if seconds.is_file() else {}

    def pytest_collection_modifyitems(self, items):
        items.sort(key=lambda item: self.seconds.get(item.nodeid, 0.0))

    def pytest_runtest_logreport(self, report):
        before = self.seconds.get(report.nodeid, 0.0)
        self.seconds[report.nodeid] = before + report.duration

    def pytest_unconfigure(self):
        if not self.file.is_file():
            self.file.write_text(json.dumps(self.seconds))


def outcome(scratch, name, limit_s, profile="mutants"):
    """Run the tests of a module in a fork; return ``survived``, ``killed`` or so.

    `limit_s` counts seconds of the processor, so that a busy machine changes nothing.
    """
    room, _, stem = name.rpartition("/")
    mirrors = MIRRORS.get(name, (f"{room}/test_{stem}",))
    files = [f"tests/{test}.py" for test in mirrors]
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.chdir(scratch)
        sys.path[:] = [str(scratch), *sys.path]
        os.environ["PYTHONPATH"] = str(scratch)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1), os.dup2(null, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s + 1))
        words = [
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "--assert=plain",
            "--doctest-modules",
            "-m",
        ]
        heavy = "not training and not browser and not cluster and not long"
        words += [heavy, f"--hypothesis-profile={profile}", f"nnunet_bridge/{name}.py"]
        order = QuickFirst(scratch / f"{name.replace('/', '-')}.json")
        os._exit(int(pytest.main([*words, *files], [order])))
    _, status = os.waitpid(child, 0)
    with_signal = os.WIFSIGNALED(status)
    return "timeout" if with_signal else "killed" if status else "survived"


def main():  # noqa: C901, PLR0915 - a script from top to bottom
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=SAMPLE, help="of the sample")
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument(
        "--limit", type=int, default=60, help="CPU seconds for one mutant"
    )
    parser.add_argument("--only", default="", help="part of a module's name")
    parser.add_argument("--report", type=Path, help="JSON to continue from")
    asked = parser.parse_args()
    for library in LOADED:
        importlib.import_module(library)

    for profile, examples in (("mutants", 10), ("once", 1)):
        settings.register_profile(
            profile,
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
    lines = EQUIVALENT.read_text().splitlines() if EQUIVALENT.is_file() else []
    known = {line.partition("    #")[0].strip() for line in lines}
    scratch = Path(tempfile.mkdtemp(prefix="mutants-"))
    for part in ("nnunet_bridge", "tests", "datasets", "docs"):
        shutil.copytree(ROOT / part, scratch / part)
    for part in ("pyproject.toml", "README.md", "CONTRIBUTING.md", "Makefile"):
        shutil.copy(ROOT / part, scratch / part)
    os.environ["NNUNET_BRIDGE_TEST_DATA"] = str(scratch / "none")
    results = {}
    if asked.report and asked.report.is_file():
        results = json.loads(asked.report.read_text())
    sound, repeated = set(), Counter()
    for name, (where, start, end, old, new) in sampled(SAMPLE, asked.seed)[
        : asked.count
    ]:
        key = " ".join(f"{name} {where or 'module'}: {old} -> {new}".split())
        repeated[key] += 1
        key += f" ({repeated[key]})" if repeated[key] > 1 else ""
        if asked.only not in name or results.get(key, "survived") != "survived":
            continue
        file = scratch / "nnunet_bridge" / f"{name}.py"
        source = file.read_bytes()
        if key in known:
            results[key] = "equivalent"
            continue
        if name not in sound and outcome(scratch, name, 600, "once") != "survived":
            sys.exit(f"The tests of {name} fail without any change.")
        sound.add(name)
        file.write_bytes(source[:start] + f"({new})".encode() + source[end:])
        results[key] = outcome(scratch, name, asked.limit)
        file.write_bytes(source)
        print(len(results), results[key], key, flush=True)  # noqa: T201 - its report
        if asked.report:
            asked.report.write_text(json.dumps(results, indent=1))
    shutil.rmtree(scratch)
    counts = Counter(results.values())
    judged = len(results) - counts["equivalent"]
    print(dict(counts), f"survivors: {counts['survived'] / max(judged, 1):.1%}")  # noqa: T201 - likewise


if __name__ == "__main__":
    main()
