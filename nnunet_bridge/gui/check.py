"""The cases of a finished `check` or `convert`, page by page."""

from collections import Counter

from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.findings import Outcome
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.gui.desk import Asked, Desk, endpoint
from nnunet_bridge.gui.study import paged

_ABOUT = ("dataset", "outcome", "train", "test", "files", "messages")


def _cases(desk: Desk, asked: Asked) -> JsonObject:
    """Return the cases of a job with one outcome, or all, and the counts of each."""
    job = desk.jobs.find(str(asked.get("job", "")))
    facts, result = job.facts, job.result
    if facts.get("command") not in ("check", "convert"):
        raise UsageError(f"Job {job.id} checks no cases.")
    cases = result.get("cases", [])
    counts = Counter(case["outcome"] for case in cases)
    wanted = str(asked.get("outcome", ""))
    kept = [case for case in cases if wanted in ("", case["outcome"])]
    words = [str(outcome) for outcome in reversed(Outcome)]
    return {
        "job": job.id,
        "command": facts["command"],
        **{name: facts["values"].get(name) for name in ("study", "recipe")},
        **{name: result.get(name) for name in _ABOUT},
        "counts": {word: counts[word] for word in words if counts[word]},
        "total": len(cases),
        **paged(kept, asked, lambda case: " ".join(map(str, case.values())).casefold()),
    }


routes = [endpoint("/api/cases", _cases)]
