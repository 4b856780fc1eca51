"""What a run will evaluate, draw and keep, known from its Program before anything of it is started."""

import numpy as np

from diffusion import snapshots
from diffusion.plan import chosen_classes
from diffusion.program import Program, abstract_params

GRID_ROWS = 20  # classes in a sample grid, evenly spread where there are more


def chosen(program: Program) -> list[int]:
    """Labels that are evaluated; 0 stands for all images of an unlabelled set."""
    e, dataset = program.eval, program.dataset
    return chosen_classes(e.classes, e.num_classes, dataset, e.seed) if dataset.classes else [0]


def grid_classes(program: Program) -> np.ndarray:
    """i[n]: labels of the rows of a sample grid; 0 stands for all images of an unlabelled set."""
    last = max(len(program.dataset.classes), 1) - 1
    return np.unique(np.linspace(0, last, GRID_ROWS).round().astype(int))


def planned_snapshots(program: Program) -> tuple[int, int]:
    """How many snapshots of the averages the whole run takes, and the bytes of one."""
    every, names = program.snapshot_every, program.optimiser.averages.decays
    number = -(-program.train.steps // every) if every else 0
    return number, len(names) * snapshots.bytes_of(abstract_params(program))
