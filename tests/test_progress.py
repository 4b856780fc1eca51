import io

import pytest

from diffusion.progress import ERASE, Progress, duration, line, say


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(
    "shown, text",
    [
        (
            dict(loss=0.0712, lr=1.9e-3, images_per_sec=3120.4, eta=42),
            "step 350/1000  35%  loss 0.0712  lr 1.9e-03  3120 img/s  ETA 0:42",
        ),
        ({}, "step 350/1000  35%"),
        (dict(loss=4.2e-5), "step 350/1000  35%  loss 4.20e-05"),
        (dict(loss=float("nan"), images_per_sec=3.14), "step 350/1000  35%  loss nan  3.1 img/s"),
    ],
)
def test_line(shown, text):
    assert line(350, 1000, **shown) == text


@pytest.mark.parametrize("seconds, text", [(0, "0:00"), (41.2, "0:42"), (3723, "1:02:03"), (59.5, "1:00")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_speed_leaves_out_what_is_not_training():
    clock = Clock()
    progress = Progress(100, 64, clock=clock, silent=True)
    progress.start(10)
    clock.now = 5.0
    with progress.aside():
        clock.now = 25.0
    clock.now = 30.0
    assert progress.measure(30) == {
        "perf/steps_per_sec": 2.0,
        "perf/images_per_sec": 128.0,
        "perf/step_seconds": 0.5,
        "perf/data_wait": 0.0,
        "perf/eta_seconds": 105.0,  # 70 steps at 30 seconds for 20: what is aside belongs to the way
    }
    clock.now = 31.0
    assert progress.measure(34)["perf/steps_per_sec"] == 4.0
    assert progress.measure(34) == {}


def test_the_share_of_the_peak_is_that_of_the_steps_a_second():
    clock = Clock()
    progress = Progress(100, 64, busiest=8.0, clock=clock, silent=True)
    clock.now = 5.0
    assert progress.measure(10)["perf/mfu"] == 0.25


def test_waiting_for_data_is_a_share_and_said_once():
    clock, stream = Clock(), io.StringIO()
    progress = Progress(100, 64, clock=clock, stream=stream)

    def span(seconds, waited, to):
        with progress.waiting():
            clock.now += waited
        clock.now += seconds - waited
        return progress.measure(to)["perf/data_wait"]

    assert span(9.0, 4.5, 1) == 0.5 and stream.getvalue() == "", "too short to mean anything"
    assert span(20.0, 1.0, 2) == 0.05 and stream.getvalue() == ""
    assert span(20.0, 5.0, 3) == 0.25 and span(20.0, 5.0, 4) == 0.25
    assert stream.getvalue().count("step 3: 25% of the time went into waiting for data") == 1
    assert len(stream.getvalue().splitlines()) == 1


def test_eta_counts_everything_since_the_start():
    clock = Clock()
    progress = Progress(100, 64, clock=clock, silent=True)
    progress.start(10)
    assert progress.eta(10) is None
    clock.now = 20.0
    assert progress.eta(20) == 160.0


def test_away_from_a_terminal_each_line_is_printed():
    stream = io.StringIO()
    progress = Progress(20, 8, clock=Clock(), stream=stream)
    progress.show(10, {"train/loss": 0.5, "train/lr": 1e-3, "perf/images_per_sec": 80.0})
    progress.show(20, {})
    progress.close()
    assert stream.getvalue().splitlines() == [
        "step 10/20  50%  loss 0.5000  lr 1.0e-03  80 img/s  ETA 0:00",
        "step 20/20  100%  ETA 0:00",
    ]


def test_on_a_terminal_the_line_stays_in_place_and_is_not_torn():
    stream = Terminal()
    progress = Progress(20, 8, clock=Clock(), stream=stream)
    progress.show(10, {})
    progress.show(11, {})
    say("saved", stream)
    progress.close()
    assert stream.getvalue() == f"{ERASE}step 10/20  50%  ETA 0:00{ERASE}step 11/20  55%  ETA 0:00{ERASE}saved\n\n"


def test_a_long_line_is_cut_to_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "12")
    stream = Terminal()
    Progress(20, 8, clock=Clock(), stream=stream).show(10, {"train/loss": 1.0})
    assert stream.getvalue() == ERASE + "step 10/20 "


def test_silence():
    stream = io.StringIO()
    progress = Progress(20, 8, stream=stream, silent=True)
    progress.show(10, {"train/loss": 0.5})
    progress.close()
    assert stream.getvalue() == ""
