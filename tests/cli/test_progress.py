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
    forecast.advance(5)

    # half of train took 100 s; a stage takes about (20 + 200) / (10 + 100) as long
    # as outlined, softened by 30 s of doubt
    pace = (20 + 200 + 30) / (10 + 100 + 30)
    assert forecast.left_s(now_s=120.0) == pytest.approx(100.0 + 20.0 * pace)
    assert forecast.number == "[2/3]"


def test_progress_never_falls_back():
    forecast = Forecast()
    forecast.begin("train", 10, now_s=0.0)
    forecast.advance(5)
    forecast.advance(3)

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


def test_a_variable_asks_for_progress_as_json(monkeypatch, capsys):
    monkeypatch.setenv("NNUNET_BRIDGE_PROGRESS", "json")
    with shown_progress(verbose=False) as progress:
        progress.stage("convert", 1)

    assert json.loads(capsys.readouterr().err)["stage"] == "convert"
