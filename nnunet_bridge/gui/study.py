"""The study of the page: one for all tabs, with its case table and its pictures."""

import hashlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.responses import Response

from nnunet_bridge.core.case_table import Drawing, Role, Split
from nnunet_bridge.core.errors import BridgeError, InputError, UsageError
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.case_table import TABLE_SIDES
from nnunet_bridge.formats.files import readable_object, write_json
from nnunet_bridge.formats.recipe import RECIPE_FILE, read_recipe
from nnunet_bridge.gui.desk import Asked, Desk, endpoint, paged
from nnunet_bridge.gui.jobs import Job
from nnunet_bridge.gui.worker import in_worker
from nnunet_bridge.pipeline.ingest.case_pictures import case_picture, planned_cases
from nnunet_bridge.pipeline.ingest.table_editing import OpenTable

_ONE_WRITER = threading.Lock()


def current(desk: Desk) -> JsonObject:
    """Return the study and the recipe of the page; both are None at first.

    A `demo` or `init` that was started after they were chosen sets them when it ends.
    `changed` is another number whenever recipe or case table have changed.
    """
    file = _own_file(desk)
    with _ONE_WRITER:
        known = readable_object(file)[0]
        chosen = {name: known.get(name) for name in ("study", "recipe")}
        since = known.get("chosen", 0)
        made = (job for job in desk.jobs.all() if _has_made_recipe(job, since))
        if (job := next(made, None)) is not None:
            result = job.result
            study = result.get("study") or job.facts["values"]["study"]
            chosen = {"study": study, "recipe": result["recipe"]}
            write_json(file, {**chosen, "chosen": job.facts["started"]})
    recipe = chosen["recipe"]
    return {**chosen, "changed": _stamp(Path(recipe)) if recipe else 0}


def _own_file(desk: Desk) -> Path:
    return desk.workspace.runs_dir / "gui.json"


def _has_made_recipe(job: Job, since: float) -> bool:
    facts = job.facts
    makes = facts.get("command") in ("demo", "init") and facts["started"] > since
    return makes and job.state == "done" and bool(job.result.get("recipe"))


def _stamp(recipe_file: Path) -> int:
    try:
        table = read_recipe(recipe_file).case_table
        files = [recipe_file, table] if table else [recipe_file]
        return sum(file.stat().st_mtime_ns for file in files)
    except (OSError, BridgeError):
        return 0


def _recipes(desk: Desk, study: Path) -> list[Path]:
    """Return where a recipe of a study may lie: in it, or in the workspace.

    The folder in the workspace bears a digest: two studies may have one name.
    """
    digest = hashlib.sha256(str(study).encode("utf-8", "surrogateescape")).hexdigest()
    own = desk.root / "studies" / f"{study.name}-{digest[:6]}"
    return [study / RECIPE_FILE, own / RECIPE_FILE]


def _choose(desk: Desk, asked: Asked) -> JsonObject:
    """Make a study current, with a recipe or with the one that lies nearest."""
    study = desk.path(asked, "study")
    if not study.is_dir():
        raise InputError(f"{study} is not a folder.")
    known = (file for file in _recipes(desk, study) if file.is_file())
    recipe = desk.path(asked, "recipe") if asked.get("recipe") else next(known, None)
    newest = max((job.facts.get("started", 0) for job in desk.jobs.all()), default=0)
    with _ONE_WRITER:
        chosen = {"study": str(study), "recipe": recipe and str(recipe)}
        write_json(_own_file(desk), {**chosen, "chosen": newest})
    return current(desk)


def _places(desk: Desk, asked: Asked) -> tuple[Path, Path]:
    """Return study and recipe: those of a request, or the current ones."""
    now = current(desk)
    words = {name: asked.get(name) or now[name] for name in ("study", "recipe")}
    if not (words["study"] and words["recipe"]):
        raise UsageError("Choose a study first.")
    return desk.path(words, "study"), desk.path(words, "recipe")


def _overview(desk: Desk, _asked: Asked) -> JsonObject:
    """Return what is known of the current study, apart from its cases."""
    now = current(desk)
    if not now["study"]:
        return now
    places = _recipes(desk, Path(now["study"]))
    recipes = [str(file) for file in places if file.is_file()]
    answer = {**now, "recipes": recipes, "own": str(places[-1]), "table": None}
    answer |= {"fault": "", "unknown": [], "structures": []}
    if not now["recipe"]:
        return answer
    try:
        recipe = read_recipe(now["recipe"])
        answer |= {"structures": list(recipe.structures)}
        answer |= {"channels": list(recipe.image_channels.names)}
        if recipe.case_table is not None:
            answer |= _about_table(desk, _table(desk, Path(now["recipe"])))
    except BridgeError as error:
        answer["fault"] = str(error)
    return answer


def _table(desk: Desk, recipe_file: Path) -> OpenTable:
    """Return the case table of a recipe, which must lie where the page may look."""
    if (file := read_recipe(recipe_file).case_table) is not None:
        desk.roots.path(str(file.absolute()))
    return OpenTable.of(recipe_file)


def _about_table(desk: Desk, table: OpenTable) -> JsonObject:
    named = {line.cells.get("file") for line in table.lines}
    inits = (job for job in desk.jobs.all() if job.facts.get("command") == "init")
    found = (job.result for job in inits if job.result.get("table") == str(table.file))
    unused = next(found, {}).get("unused", ())
    return {
        "table": str(table.file),
        "sha256": table.sha256,
        "unknown": [one.as_json() for one in table.unknown()],
        "unused": [file for file in unused if file["file"] not in named],
        "roles": list(Role),
        "states": list(Drawing),
        "splits": list(Split),
        "sides": list(TABLE_SIDES),
    }


def _cases(desk: Desk, asked: Asked) -> JsonObject:
    """Return a page of the cases: lines of the table, or what patterns match."""
    study, recipe_file = _places(desk, asked)
    if read_recipe(recipe_file).case_table is None:
        planned = in_worker(planned_cases, study, recipe_file, desk.workspace.raw_dir)
        return {"table": False, **paged(planned, asked, _text)}
    table = _table(desk, recipe_file)
    found: list[JsonObject] = [
        {"case": case, "rows": [{"line": n.number, **n.cells} for n in lines]}
        for case, lines in table.cases().items()
    ]
    return {"table": True, "sha256": table.sha256, **paged(found, asked, _text)}


def _text(case: Mapping[str, Any]) -> str:
    rows = " ".join(" ".join(map(str, row.values())) for row in case.get("rows", ()))
    return f"{case['case']} {case.get('image', '')} {rows}"


def _save(desk: Desk, asked: Asked) -> JsonObject:
    """Write what was corrected into the case table and the recipe."""
    _, recipe_file = _places(desk, asked)
    try:
        changes = {
            int(line): {str(name): str(text) for name, text in own.items()}
            for line, own in asked.get("changes", {}).items()
        }
        names = [(str(n), str(s), str(side)) for n, s, side in asked.get("names", ())]
        sha256 = str(asked["sha256"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError("These are no changes of a case table.") from error
    with _ONE_WRITER:
        table = _table(desk, recipe_file)
        table.correct(changes, names, sha256=sha256)
    return _overview(desk, asked)


def _thumbnail(desk: Desk, asked: Asked) -> JsonObject | Response:
    """Return a picture of a case, or why there is none."""
    places = *_places(desk, asked), desk.workspace.raw_dir
    folder = desk.workspace.runs_dir / "pictures"
    size = "large" if asked.get("size") == "large" else "small"
    try:
        case = str(asked.get("case", ""))
        picture = in_worker(case_picture, *places, case, folder, size)
    except BridgeError as error:
        return {"reason": str(error)}
    return Response(picture.read_bytes(), media_type="image/png")


routes = [
    endpoint("/api/study", _overview),
    endpoint("/api/study/choose", _choose, "POST"),
    endpoint("/api/study/cases", _cases),
    endpoint("/api/study/save", _save, "POST"),
    endpoint("/api/thumbnail", _thumbnail),
]
