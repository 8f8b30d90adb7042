"""What the progress bar shows, at every width and without a terminal."""

import io
import re

import pytest
from rich.console import Console

from zlpr_jax.training import Progress, ProgressBar
from zlpr_jax.training import _report as module


class Clock:
    """Time that goes by only when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def console(width=80, terminal=True, **options):
    return Console(
        file=io.StringIO(),
        width=width,
        force_terminal=terminal,
        color_system="standard",
        legacy_windows=False,
        **options,
    )


def lines(text):
    """What was printed, without the codes that move the cursor."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    return [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


def progress(step, scores=None, **metrics):
    return Progress(step, {"loss": 2.5, **metrics}, 1574.2, 12.34, scores)


def begun(bar, name="zlpr, seed 0", headline=("micro_f1", "max"), steps=3000):
    bar.start(name, headline=headline)
    bar.stage("", steps)


def test_all_of_it_fits_80_columns(clock):
    screen = console(80)
    with ProgressBar(screen) as bar:
        begun(bar)
        bar.stage("all rows", 3000)
        bar.update(progress(100, {"micro_f1": 0.678}))
        clock.now += 90
        bar.update(progress(1000, {"micro_f1": 0.567}))
    above, below = lines(screen.file.getvalue())[-2:]
    assert re.fullmatch(
        r"zlpr, seed 0, all rows ━[━╸╺]+ 1000/3000  0:03:20 left", above
    )
    assert below == (
        "  loss 2.5  micro_f1 .567 (best .678)  12.3 steps/s  1,574 examples/s"
    )
    assert len(below) <= 80


def test_a_headline_that_training_has_too_is_named_in_full(clock):
    screen = console(80)
    with ProgressBar(screen) as bar:
        begun(bar, headline=("loss", "min"))
        bar.update(progress(100, {"loss": 12.34}, kl=1.0))
        bar.update(progress(100, {"loss": 13.57}, kl=1.0))
    below = lines(screen.file.getvalue())[-1]
    speed = "12.3 steps/s  1,574 examples/s"
    assert below == f"  loss 2.5  validation loss 13.6 (best 12.3)  {speed}"
    screen = console(terminal=False)
    with ProgressBar(screen, line_every=0.0) as bar:
        begun(bar, headline=("kl", "min"))
        bar.update(progress(100, {"kl": 0.5}, kl=1.0))
        bar.stage("all rows", 200)
        bar.update(progress(100, kl=1.0))
    assert [line.split(", ")[2:5] for line in lines(screen.file.getvalue())] == [
        ["loss 2.5", "validation kl .500 (best .500)", "12.3 steps/s"],
        ["all rows: step 100/200", "loss 2.5", "best validation kl .500"],
    ]


@pytest.mark.parametrize("width", [20, 25, 40, 60, 80, 100, 200])
def test_no_width_is_passed_and_the_important_comes_first(clock, width):
    screen = console(width)
    with ProgressBar(screen) as bar:
        begun(bar)
        bar.update(progress(1, {"micro_f1": 0.5}, kl=12.3))
        clock.now += 60 * 60 * 24 * 3
        bar.update(progress(10, {"micro_f1": 0.5}, kl=12.3))
    text = lines(screen.file.getvalue())
    assert max(map(len, text)) <= width
    above, below = text[-2:]
    assert above.startswith("zlpr")
    figures = "  loss 2.5  micro_f1 .500 (best .500)  12.3 steps/s  1,574 examples/s"
    assert f"{figures}  kl 12.3".startswith(below)
    assert ("━" in above) == (width >= 60)
    assert ("examples/s" in below) == (width >= 80)
    assert ("kl" in below) == (width >= 80)
    assert ("996 days, 16:00:00 left" in above) == (width >= 60)


@pytest.mark.parametrize(
    ("direction", "scores", "best"),
    [
        ("max", [0.0, 0.6, 0.5], 0.6),
        ("max", [-0.3, -0.2, -0.4], -0.2),
        ("min", [0.7, 0.0, 0.5], 0.0),
        ("min", [float("nan"), 0.5], 0.5),
    ],
)
def test_the_best_is_the_best_in_its_direction(clock, direction, scores, best):
    screen = console(terminal=False)
    with ProgressBar(screen) as bar:
        begun(bar, headline=("error", direction))
        for step, score in enumerate(scores, 1):
            bar.update(progress(step, {"error": score, "other": 9.0}))
        bar.finish("3 steps")
    expected = f"{best:.4f}".removeprefix("0")
    assert lines(screen.file.getvalue()) == [
        f"zlpr, seed 0: 3 steps (best validation error {expected})"
    ]


def test_the_best_stays_through_stages_and_goes_with_the_line(clock):
    screen = console(terminal=False)
    with ProgressBar(screen, line_every=0.0) as bar:
        begun(bar)
        bar.update(progress(10, {"micro_f1": 0.5}))
        bar.stage("all rows", 20)
        bar.update(progress(10))
        bar.finish("20 steps")
        begun(bar, "bce, seed 0")
        bar.finish("20 steps")
    speed = "12.3 steps/s, 1,574 examples/s"
    assert lines(screen.file.getvalue()) == [
        f"zlpr, seed 0: step 10/3000, loss 2.5, micro_f1 .500 (best .500), {speed}",
        f"zlpr, seed 0, all rows: step 10/20, loss 2.5, best micro_f1 .500, {speed}",
        "zlpr, seed 0: 20 steps (best validation micro_f1 .5000)",
        "bce, seed 0: 20 steps",
    ]


def test_time_left_counts_this_session_only(clock):
    """It begins at the first figures: what came before is compilation."""
    screen = console()
    with ProgressBar(screen) as bar:
        begun(bar)
        bar.update(Progress(2000, {}, message="resumed at step 2000"))
        clock.now += 500
        bar.update(progress(2025))
        clock.now += 25
        bar.update(progress(2050))
    text = lines(screen.file.getvalue())
    assert "zlpr, seed 0: resumed at step 2000" in text
    assert text[-2].endswith("2050/3000  0:15:50 left")
    # before there are two figures nothing can be told
    assert sum("left" in line for line in text) == sum("2050/" in x for x in text)


def test_messages_stay_whatever_they_hold(clock):
    message = "step 312 skipped: [bold]layers/0[/bold] (records 17, 80) " + "x" * 90
    for terminal in True, False:
        screen = console(60, terminal=terminal)
        with ProgressBar(screen) as bar:
            begun(bar)
            bar.update(progress(300))
            bar.update(Progress(312, {}, message=message))
            bar.finish("400 steps")
        assert f"zlpr, seed 0: {message}" in lines(screen.file.getvalue())


def test_scores_of_a_message_count(clock):
    """Those that a resumed fit had reached before."""
    screen = console(terminal=False)
    with ProgressBar(screen) as bar:
        begun(bar)
        bar.update(Progress(9, {}, scores={"micro_f1": 0.7}, message="resumed"))
        bar.update(progress(10, {"micro_f1": 0.6}))
        bar.finish("20 steps")
    assert "best validation micro_f1 .7000" in screen.file.getvalue()


def test_without_a_terminal_a_line_now_and_then(clock):
    screen = console(40, terminal=False)
    with ProgressBar(screen, line_every=30.0) as bar:
        begun(bar)
        for step in range(1, 101):
            clock.now += 1
            bar.update(progress(step))
    text = lines(screen.file.getvalue())
    assert [re.search(r"step (\d+)/3000", line)[1] for line in text] == [
        "30",
        "60",
        "90",
    ]
    # not cut to a width: nobody looks at it in a window
    assert text[0] == (
        "zlpr, seed 0: step 30/3000, loss 2.5, 12.3 steps/s, 1,574 examples/s, "
        "0:49:30 left"
    )


def test_in_a_terminal_it_is_drawn_now_and_then(clock):
    screen = console()
    with ProgressBar(screen) as bar:
        begun(bar)
        drawn = len(screen.file.getvalue())
        for step in range(1, 10):
            clock.now += 0.02
            bar.update(progress(step))
        assert len(screen.file.getvalue()) == drawn
        clock.now += 0.1
        bar.update(progress(10))
        assert "10/3000" in screen.file.getvalue()
        # an evaluation is drawn at once
        bar.update(progress(11, {"micro_f1": 0.5}))
        assert "11/3000" in screen.file.getvalue()


def test_a_quiet_console_says_nothing(clock):
    screen = console(quiet=True)
    with ProgressBar(screen, line_every=0.0) as bar:
        begun(bar)
        bar.update(progress(10, {"micro_f1": 0.5}))
        bar.update(Progress(10, {}, message="skipped"))
        bar.finish("20 steps")
    assert screen.file.getvalue() == ""


def test_an_error_leaves_no_bar_behind(clock):
    screen = console()

    def failing():
        with ProgressBar(screen) as bar:
            begun(bar)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    # the cursor is shown again, and the lines of the bar are erased
    assert "\x1b[?25h" in screen.file.getvalue()
    assert screen.file.getvalue().rstrip().endswith("\x1b[2K")
