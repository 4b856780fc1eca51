"""Writes what the package lpips makes of random weights: ``python -m scripts.freeze_lpips``.

It needs torch, torchvision and lpips (``requirements-second-opinion.txt``) and replaces ``tests/fixtures/lpips.npz``,
which holds distances alone: tests draw weights and images anew from their seeds.
"""

from pathlib import Path

import numpy as np

from diffusion.nets.lpips import TRUNKS
from tests.second_opinion.lpips_package import answers

FIXTURE = Path("tests/fixtures/lpips.npz")


def main() -> None:
    found = {net: answers(net)[0] for net in TRUNKS}
    FIXTURE.parent.mkdir(exist_ok=True)
    np.savez(FIXTURE, **found)
    print(f"{FIXTURE}: {found}; {FIXTURE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
