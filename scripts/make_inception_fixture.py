"""Makes the fixture of the Inception tests: ``python -m scripts.make_inception_fixture``.

It writes ``tests/fixtures/inception.npz``: what torch-fidelity's network makes of random weights and images that the
tests draw again by themselves. Needs torch and ``pip install --no-deps torch-fidelity``; no downloaded weights.
"""

import numpy as np

from diffusion.nets.inception import published_shapes
from scripts import inception_reference as reference


def main() -> None:
    weights = reference.random_weights(published_shapes())
    taps = reference.theirs(weights, reference.images(), reference.SIDE)
    reference.FIXTURE.parent.mkdir(exist_ok=True)
    np.savez(reference.FIXTURE, weights_sha256=np.array(reference.digest(weights)), **taps)
    print(f"wrote {reference.FIXTURE} ({reference.FIXTURE.stat().st_size} bytes)")
    for name, values in taps.items():
        print(f"{name}: {values.shape}, mean {values.mean():.3g}, largest {np.abs(values).max():.3g}")


if __name__ == "__main__":
    main()
