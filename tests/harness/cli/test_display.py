"""Live lines fit the terminal, and nothing in them is cut."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from harness.cli import display
from harness.cli.display import TrainingDisplay, fit, format_seconds
from harness.search import progress
from harness.search.progress import SearchProgress, describe
from harness.search.trial_store import TrialStore
from harness.training.context import Progress

VALUES = {
    "ssl.tau": 0.96812345,
    "ssl.ema_decay": 0.98765432,
    "optim.lr": 0.00012345,
    "optim.weight_decay": 0.00054321,
    "ssl.unlabelled_weight": 1.2345,
    "model.name": "smp/DeepLabV3Plus/tf_efficientnet_lite0",
}
LONG = Progress(39950, 40000, loss=None, lambda_=None, val_miou=0.512, best=0.698)


@pytest.mark.parametrize("live", [True, False])
def test_what_a_user_must_be_told_stays_above_the_live_lines(live: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    (out, raw_out), (err, raw_err) = terminal(live, "utf-8"), terminal(live, "utf-8")
    monkeypatch.setattr(display, "out", out)
    monkeypatch.setattr(display, "err", err)
    monkeypatch.setattr(display.live_bar, "__kwdefaults__", {"console": out})
    with TrainingDisplay(40000) as one:
        one.show(LONG)
        one.show(Progress(0, 40000, message="going on from step 3"))
        one.show(LONG)
    lines = shown(raw_out if live else raw_err, "utf-8")
    assert lines.count("warning: going on from step 3") == 1, lines


@pytest.mark.parametrize(("share", "told"), [(None, False), (0.04, False), (0.12, True)])
def test_a_training_that_waits_for_data_says_so(
    share: float | None, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, raw = terminal(False, "utf-8")
    monkeypatch.setattr(display, "out", out)
    monkeypatch.setattr(display.live_bar, "__kwdefaults__", {"console": out})
    with TrainingDisplay(40000) as one:
        one.show(Progress(100, 40000, loss=1.0, lambda_=0.5, data_wait=share))
        one.show(LONG)
    assert ("waits for data 12%" in " ".join(shown(raw, "utf-8"))) == told


@pytest.mark.parametrize("width", [60, 80, 200])
def test_parts_are_kept_whole_in_lines_that_fit(width: int) -> None:
    parts = ["trial 12 running step 39950", *(f"{key} {value}" for key, value in VALUES.items()), "a reason " * 30]
    lines = fit(parts, width).split("\n")
    assert max(map(len, lines)) <= width
    assert " ".join(" ".join(lines).split()) == " ".join(" ".join(parts).split())
    for key in ("optim.lr", "ssl.tau"):
        assert any(f"{key} {VALUES[key]}" in line for line in lines)


def test_one_line_is_enough_where_there_is_room() -> None:
    assert fit(["a", "b"], 80) == "a  b"
    assert fit([], 80) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (9.6, "0:10"), (61, "1:01"), (754, "12:34"), (3723, "1:02:03"), (90000, "1 day, 1:00:00")],
)
def test_seconds_as_minutes_or_hours(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def terminal(live: bool, encoding: str) -> tuple[Console, io.BytesIO]:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    return Console(file=file, width=80, force_terminal=live, color_system=None, highlight=False, soft_wrap=True), raw


def shown(raw: io.BytesIO, encoding: str) -> list[str]:
    """The lines that were written, without what moves the cursor."""
    text = raw.getvalue().decode(encoding).replace("\r", "\n")
    for code in ("\x1b[2K", "\x1b[1A", "\x1b[?25l", "\x1b[?25h"):
        text = text.replace(code, "")
    return [line.rstrip() for line in text.split("\n") if line.strip()]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("live", [True, False])
def test_the_lines_of_a_long_training_fit_80_columns(
    live: bool, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    console, raw = terminal(live, encoding)
    monkeypatch.setattr(display, "out", console)
    monkeypatch.setattr(display.live_bar, "__kwdefaults__", {"console": console})
    with TrainingDisplay(40000) as one:
        one.start -= 36000
        one.show(LONG._replace(step=1, loss=12.345678, lambda_=0.98765))
        one.start -= 36000
        one.show(LONG)
    lines = shown(raw, encoding)
    assert max(map(len, lines)) <= 80, lines
    text = "\n".join(lines)
    for part in ("39950/40000", "loss 12.346 lambda 0.988", "val 0.512 best 0.698", "left"):
        assert part in text, lines


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("live", [True, False])
def test_the_lines_of_a_search_over_many_keys_fit_80_columns(
    live: bool, encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console, raw = terminal(live, encoding)
    monkeypatch.setattr(display, "out", console)
    monkeypatch.setattr(progress, "out", console)
    monkeypatch.setattr(display.live_bar, "__kwdefaults__", {"console": console})
    store = TrialStore(tmp_path, "trials")
    for _ in range(3):
        store.add(dict(VALUES), 40000)
    with SearchProgress("search", store, "val/miou", lambda: 100, lambda: "0.633 (trial 14)", retries=3) as one:
        for number in range(3):
            one.started(number)
            one.reported(number, {"step": 39950, "val/miou": 0.5, "time_total_s": 3600.0})
        store.records[2].failures.append("its process died")
        store.end(store.records[0], "pruned")
        store.end(store.records[1], "failed", "RuntimeError: " + "a long reason " * 20)
        store.send_back(store.records[2])
        for number in range(3):
            one.ended(number)
    lines = shown(raw, encoding)
    assert max(map(len, lines)) <= 80, lines
    text = " ".join(" ".join(lines).split())
    for part in (
        *describe(store.records[0])[1:],
        "2/100 done, 1 pruned, 1 failed",
        "best 0.633 (trial 14)",
        "a long reason",
        "(try 2 of 4: its process died)",
    ):
        assert part.strip() in text, (part, lines)
