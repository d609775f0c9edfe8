"""Progress and the time left, on a terminal and without one."""

import json

import pytest
from rich.console import Console

from nnunet_bridge.cli.progress import Forecast, _Bar, _Lines, _Records, shown_progress


def test_the_time_left_counts_the_stages_to_come_at_the_pace_seen():
    forecast = Forecast()
    forecast.outline([("convert", 10.0), ("train", 100.0), ("predict", 20.0)])
    forecast.begin("convert", 4, now_s=0.0)
    assert forecast.left_s(now_s=0.0) == pytest.approx(130.0)

    forecast.begin("train", 10, now_s=20.0)
    forecast.advance(5, now_s=120.0)

    # half of train took 100 s; a stage takes about (20 + 200) / (10 + 100) as long
    # as outlined, softened by 30 s of doubt
    pace = (20 + 200 + 30) / (10 + 100 + 30)
    assert forecast.left_s(now_s=120.0) == pytest.approx(100.0 + 20.0 * pace)
    assert forecast.number == "[2/3]"


def test_progress_never_falls_back():
    forecast = Forecast()
    forecast.begin("train", 10, now_s=0.0)
    forecast.advance(5, now_s=1.0)
    forecast.advance(3, now_s=2.0)

    assert forecast.share == 0.5


def test_without_a_stage_there_is_a_table_and_no_bar():
    bar = _Bar()
    bar.show(lambda _columns: "the table")
    console = Console(width=200)

    with console.capture() as shown:
        console.print(bar.display.get_renderable())

    assert [line.strip() for line in shown.get().splitlines()] == ["the table"]


def test_without_a_terminal_progress_is_plain_lines():
    written = []
    lines = _Lines(every_s=0.0, write=written.append)
    lines.outline([("convert", 10.0), ("train", 100.0)])
    lines.stage("train", 10)
    lines.advance(5, "epoch 5")

    assert written[0].startswith("[2/2] train, about 1 min 40 s left")
    assert written[1].startswith("  train 50 %")
    assert written[1].endswith(": epoch 5\n")


def test_on_a_terminal_a_table_stands_above_the_bar_and_is_drawn_for_its_width():
    bar = _Bar()
    bar.stage("train", 10)
    bar.show(lambda columns: f"drawn for {columns}\nbefore")
    bar.show(lambda columns: f"drawn for {columns}\nsecond line")
    console = Console(width=200)

    with console.capture() as shown:
        console.print(bar.display.get_renderable())

    first, second, last = shown.get().splitlines()
    assert first.strip() == f"drawn for {bar.display.console.width}"
    assert second.strip() == "second line"
    assert "train" in last


def test_for_other_programs_progress_is_one_json_object_a_line():
    written = []
    records = _Records(every_s=0.0, write=written.append)
    records.outline([("convert", 10.0), ("train", 100.0)])
    records.stage("train", 10)
    records.advance(5, "epoch 5")
    records.say("Case 1\nis new.")

    first, second, third = map(json.loads, written)
    assert first.items() >= {"stage": "train", "number": "[2/2]", "share": 0}.items()
    assert (second["share"], second["note"]) == (0.5, "epoch 5")
    assert third == {"say": "Case 1\nis new."}


def test_reports_without_news_are_rare():
    written = []
    records = _Records(every_s=0.0, write=written.append)
    records.stage("train", 10)
    for _ in range(50):
        records.advance(0, "fold 0")
    records.advance(1, "fold 0")

    assert [json.loads(line)["share"] for line in written] == [0, 0, 0.1]


def test_a_variable_asks_for_progress_as_json(monkeypatch, capsys):
    monkeypatch.setenv("NNUNET_BRIDGE_PROGRESS", "json")
    with shown_progress(verbose=False) as progress:
        progress.stage("convert", 1)

    assert json.loads(capsys.readouterr().err)["stage"] == "convert"


RECORDED = {
    "prediction of two images": (
        1.0,
        167.4,
        """
    0.6:0.0152  1:0.0303  31:0.0304  31.5:0.0343  32.5:0.0419  33.5:0.0504
    34.6:0.0579  35.6:0.0629  36.7:0.0682  37.7:0.0734  38.7:0.0784  39.7:0.0835
    40.7:0.0893  41.7:0.0973  42.8:0.1036  44:0.1091  45:0.1165  46.2:0.1231
    47.2:0.1265  48.2:0.1299  49.3:0.1363  50.3:0.1432  56.5:0.181  62.7:0.2085
    68.9:0.2477  75.1:0.2747  82.3:0.302  88.5:0.3404  94.7:0.393  104.3:0.5209
    110.8:0.5653  116.9:0.6187  123.1:0.6624  129.2:0.7107  135.3:0.7513
    141.4:0.784  147.5:0.8428  153.5:0.8989  159.7:0.947
    """,
    ),
    "smoke training of 20 epochs": (
        21.0,
        345.0,
        """
    41.8:1  56.3:2  70.8:3  93.4:4  109:5  125.5:6  142.1:7  160.3:8  181.8:9
    200.8:10  217.4:11  229.7:12  247.4:13  263.5:14  278.2:15  292:16  305.3:17
    317.3:18  329.9:19  342.5:20
    """,
    ),
}
"""Steps, seconds of the whole stage, and the seconds at which so many were done: real
calls on two shared cores. For the first 20 to 30 seconds the process only starts."""


@pytest.mark.parametrize("kind", RECORDED)
def test_after_a_tenth_of_the_work_the_time_left_is_right_within_a_factor_of_1_5(kind):
    steps, end_s, text = RECORDED[kind]
    marks = [tuple(map(float, mark.split(":"))) for mark in text.split()]
    forecast, ratios = Forecast(), []
    forecast.begin(kind, steps, now_s=0.0)

    for now_s, done in marks:
        forecast.advance(done, now_s=now_s)
        if 0.1 <= done / steps <= 0.2:
            ratios.append(forecast.left_s(now_s=now_s) / (end_s - now_s))

    assert len(ratios) > 1
    assert all(1 / 1.5 < ratio < 1.5 for ratio in ratios), ratios


def test_while_a_process_starts_the_time_left_does_not_grow():
    """Reading 12 images took a second; then nothing was done for half a minute."""
    forecast = Forecast()
    forecast.begin("predict", 33, now_s=0.0)
    for number in range(1, 13):
        forecast.advance(number / 12, now_s=number / 12)

    left_s = [forecast.left_s(now_s=1.0 + waited) for waited in range(30)]

    assert max(left_s) == left_s[0]
