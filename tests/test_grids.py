"""Grids of times, in general and against their published values."""

import numpy as np
import pytest

from diffusion.samplers import GRIDS
from tests.gaussian import PROCESSES
from tests.test_rules import karras_sigmas

ON_STEPS = ("leading", "linspace", "trailing")  # for schedules of T discrete steps
ANY = [name for name in GRIDS if name not in ON_STEPS]
DISCRETE = PROCESSES["linear"]


@pytest.mark.parametrize("schedule", PROCESSES)
@pytest.mark.parametrize("grid", ANY)
def test_grids_decrease_to_the_clean_end(grid, schedule):
    process = PROCESSES[schedule]
    for steps in (1, 2, 10, 250) if grid != "decoupled" else (2, 10, 250):
        ts = np.asarray(GRIDS[grid](process, steps))
        assert ts.shape == (steps + 1,) and ts[-1] == 0.0 and (np.diff(ts) < 0).all(), steps
        assert 0.9 * process.schedule.t_max < ts[0] <= np.float32(process.schedule.t_max) or steps == 1
        if grid not in ("uniform", "shifted") and steps > 1:
            assert ts[-2] >= 0.999 * process.schedule.t_min, "the last step starts inside the trained range"


def test_golden_grids():
    flow = PROCESSES["flow"]
    np.testing.assert_allclose(GRIDS["karras"](PROCESSES["edm"], 18), karras_sigmas(18), rtol=2e-5)
    # sigma_1 and sigma_16 of the paper's default grid with N = 18
    np.testing.assert_allclose(GRIDS["karras"](PROCESSES["edm"], 18)[1], 57.585948, rtol=1e-5)
    np.testing.assert_allclose(GRIDS["uniform"](flow, 4), [1, 0.75, 0.5, 0.25, 0], rtol=1e-6)
    np.testing.assert_allclose(GRIDS["logsnr"](PROCESSES["edm"], 3), [80, 0.4, 0.002, 0], rtol=1e-5)
    sigmas = karras_sigmas(5)[:-1]
    np.testing.assert_allclose(GRIDS["karras"](flow, 5)[:-1], sigmas / (1 + sigmas), rtol=2e-5)
    np.testing.assert_allclose(GRIDS["shifted"](flow, 4), [1, 0.9, 0.75, 0.5, 0], rtol=1e-6)
    np.testing.assert_allclose(GRIDS["shifted"](flow, 2, shift=1.0), [1, 0.5, 0], rtol=1e-6)
    np.testing.assert_allclose(GRIDS["quadratic"](flow, 3), [1, 0.505**2, 1e-4, 0], rtol=1e-5)
    np.testing.assert_allclose(GRIDS["decoupled"](PROCESSES["decoupled"], 5), [1, 0.75, 0.5, 0.25, 1e-4, 0], rtol=1e-5)


STEPS_OF_1000 = {  # grid: {steps: the discrete timesteps that diffusers' DDIMScheduler visits}
    "leading": {4: [750, 500, 250, 0], 7: [852, 710, 568, 426, 284, 142, 0]},
    "linspace": {4: [999, 666, 333, 0], 7: [999, 832, 666, 500, 333, 166, 0]},
    "trailing": {4: [999, 749, 499, 249], 7: [999, 856, 713, 570, 428, 285, 142]},
}


@pytest.mark.parametrize("grid", ON_STEPS)
def test_spacings_of_discrete_schedules(grid):
    for steps, indices in STEPS_OF_1000[grid].items():
        wanted = np.append((np.array(indices) + 1) / 1000, 0)
        np.testing.assert_allclose(GRIDS[grid](DISCRETE, steps), wanted, rtol=1e-6)
    for steps in (1, 2, 3, 333, 999, 1000):
        ts = np.asarray(GRIDS[grid](DISCRETE, steps))
        assert ts.shape == (steps + 1,) and ts[-1] == 0.0 and (np.diff(ts) < 0).all(), steps
    np.testing.assert_allclose(GRIDS[grid](DISCRETE, 1000), np.arange(1000, -1, -1) / 1000, rtol=1e-6)


@pytest.mark.parametrize("grid", ON_STEPS)
@pytest.mark.parametrize("schedule", [name for name, process in PROCESSES.items() if process.schedule.steps])
def test_no_step_lies_beyond_the_schedule(schedule, grid):
    """The cosine ends just before its last step, and stands still there: dx/dt says nothing any more."""
    process = PROCESSES[schedule]
    ts = GRIDS[grid](process, 1000)
    assert ts[0] <= np.float32(process.schedule.t_max) and abs(ts[0] - 1) < 1e-4
    at = process.coefficients(ts[:-1])
    assert (np.asarray(at.alpha * at.d_sigma - at.sigma * at.d_alpha) > 0).all(), "a velocity tells x0 from eps"


ILLEGAL = {  # case: (what is asked for, what the message says)
    "rho 0": (lambda: GRIDS["karras"](PROCESSES["edm"], 5, rho=0.0), "rho 0"),
    "sigmas swapped": (lambda: GRIDS["karras"](PROCESSES["edm"], 5, sigma_min=2.0, sigma_max=1.0), "sigma_min < sig"),
    "a shift of 0": (lambda: GRIDS["shifted"](PROCESSES["flow"], 5, shift=0.0), "shift is 0"),
    "one step cannot be split": (lambda: GRIDS["decoupled"](PROCESSES["flow"], 1), "steps is 1"),
    "too many to split the last": (lambda: GRIDS["decoupled"](PROCESSES["flow"], 10002), "steps is 10002"),
    "more than all": (lambda: GRIDS["leading"](DISCRETE, 1001), "steps is 1001, but the schedule has 1000"),
    **{
        f"{grid} without steps": (lambda grid=grid: GRIDS[grid](PROCESSES["flow"], 5), "continuous.*take uniform")
        for grid in ON_STEPS
    },
}


@pytest.mark.parametrize("case", ILLEGAL)
def test_illegal_requests_are_refused(case):
    ask, message = ILLEGAL[case]
    with pytest.raises(ValueError, match=message):
        ask()
