import pytest

from diffusion.augment import AUGMENTS
from diffusion.guidance import THRESHOLDS
from diffusion.objective import DENSITIES, WEIGHTINGS
from diffusion.process import TARGETS
from diffusion.samplers import GRIDS, SAMPLERS
from diffusion.schedules import SCHEDULES
from diffusion.tables import rows


def plain(handed): ...
def keyed(handed, *, count: int = 3, name: str = "a"): ...
def defaulted(handed=7, *, size: tuple = (1, 2)): ...


CASES = {  # case: (table, what rows makes of it)
    "nothing": ({}, {}),
    "a row without keywords has no fields": ({"plain": plain}, {}),
    "keywords and their defaults": ({"keyed": keyed}, {"keyed": {"count": 3, "name": "a"}}),
    "what the program hands over is no field": ({"defaulted": defaulted}, {"defaulted": {"size": (1, 2)}}),
    "rows keep their order": ({"keyed": keyed, "defaulted": defaulted}, {
        "keyed": {"count": 3, "name": "a"}, "defaulted": {"size": (1, 2)},
    }),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_rows(case):
    table, wanted = CASES[case]
    assert rows(table) == wanted
    assert list(rows(table)) == list(wanted)


def test_the_fields_of_the_schedules():
    assert rows(SCHEDULES) == {
        "linear": {"steps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "zero_snr": False},
        "scaled_linear": {"steps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "zero_snr": False},
        "quadratic": {"steps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "zero_snr": False},
        "cosine": {"s": 0.008, "steps": 1000, "zero_snr": False},
        "sigmoid": {"start": -3.0, "end": 3.0, "tau": 1.0},
        "vp": {"beta_min": 0.1, "beta_max": 20.0},
        "sub_vp": {"beta_min": 0.1, "beta_max": 20.0},
        "ve": {"sigma_min": 0.01, "sigma_max": 50.0},
        "edm": {"sigma_min": 0.002, "sigma_max": 80.0},
    }


TABLES = {
    "AUGMENTS": AUGMENTS,
    "SCHEDULES": SCHEDULES,
    "TARGETS": TARGETS,
    "DENSITIES": DENSITIES,
    "WEIGHTINGS": WEIGHTINGS,
    "THRESHOLDS": THRESHOLDS,
    "SAMPLERS": SAMPLERS,
    "GRIDS": GRIDS,
}


@pytest.mark.parametrize("name", TABLES)
def test_every_default_can_stand_in_a_config(name):
    for row, keywords in rows(TABLES[name]).items():
        for keyword, default in keywords.items():
            assert isinstance(default, int | float | str | bool | tuple), f"{name}[{row}].{keyword} = {default!r}"
