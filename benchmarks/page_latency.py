"""How fast the page answers at rest, and while two trainings run.

``page_latency.py FOLDER`` makes ten synthetic patients in FOLDER, converts and plans
them, and starts two trainings of the budget `smoke` as the page does. The second run in
a folder uses what is there.
"""

import subprocess
import sys
import time
from pathlib import Path
from statistics import quantiles

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "gui"))
from page_client import Page

EVERY_S, SECONDS = 0.5, 60


def measured(page, cases):
    """Return the milliseconds of each kind of request, asked again and again."""
    found = {"/api/state": [], "/api/study/cases": [], "/api/thumbnail?case=": []}
    for turn in range(int(SECONDS / EVERY_S)):
        begin = time.monotonic()
        for path, times in found.items():
            start = time.perf_counter()
            status, _, body = page.ask(path + cases[turn % len(cases)] * ("=" in path))
            times.append(1000 * (time.perf_counter() - start))
            if status != 200:
                raise RuntimeError(body)
        time.sleep(max(0.0, EVERY_S - (time.monotonic() - begin)))
    return found


def compared(page, root):
    """Return the times at rest and under load, and the states of the trainings."""
    page.finished(page.start("demo", folder=f"{root}/work/demo", only_study=True), 600)
    study = {name: page.get("/api/study")[1][name] for name in ("study", "recipe")}
    page.finished(page.start("convert", **study), 600)
    dataset = page.get("/api/state")[1]["datasets"][0]["name"]
    page.finished(page.start("plan", dataset=dataset), 600)
    cases = [case["case"] for case in page.get("/api/study/cases")[1]["cases"]]
    rest = measured(page, cases)
    same = {"configuration": ["2d"], "budget": "smoke"}
    jobs = [page.start("train", dataset=dataset, fold=[n], **same) for n in ("0", "1")]
    time.sleep(20)  # both load torch and begin
    load = measured(page, cases)
    states = [page.get("/api/job", id=job["id"])[1]["state"] for job in jobs]
    for job in jobs:
        page.post("/api/stop", id=job["id"])
    return {"at rest": rest, "two trainings": load}, states


def main(root):
    """Measure, and print a table."""
    words = ["gui", "--port=0", "--no-browser", f"-w{root}/work", f"--root={root}"]
    command = [sys.executable, "-m", "nnunet_bridge", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        rows, states = compared(Page(server.stdout.readline().strip()), root)
        server.terminate()
    print(
        "| ms | request | median | 95th percentile | maximum |\n|---|---|---|---|---|"
    )
    for load, kinds in rows.items():
        for kind, times in kinds.items():
            cuts = quantiles(times, n=20)
            print(f"| {load} | {kind.partition('?')[0]} | {cuts[9]:.0f} |", end="")
            print(f" {cuts[18]:.0f} | {max(times):.0f} |")
    print("The trainings at the end:", *states)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
