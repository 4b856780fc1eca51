"""Writes what transformers makes of the tiny CLIPs and DINOv2s: ``python -m scripts.freeze_vits``.

It needs torch and transformers (``requirements-second-opinion.txt``) and replaces ``tests/fixtures/vits.npz``, which
holds outputs alone: tests draw weights and inputs anew from their seeds.
"""

import tempfile
from pathlib import Path

import numpy as np

from tests.nets.tiny_vits import CLIPS, DINOV2S
from tests.second_opinion.transformers_nets import answers

FIXTURE = Path("tests/fixtures/vits.npz")


def main() -> None:
    found = {}
    for name in (*CLIPS, *DINOV2S):
        with tempfile.TemporaryDirectory() as folder:
            found |= {f"{name}/{port}": array for port, array in answers(name, Path(folder)).items()}
    FIXTURE.parent.mkdir(exist_ok=True)
    np.savez(FIXTURE, **found)
    print(f"{FIXTURE}: {', '.join(found)}; {FIXTURE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
