"""The estimate of a train step's memory against what a compiler allots, for one net and each way of remat.

    python -m benchmarks.memory [--tpu] [--config.net.name=dit_s_2 …]

Other words are fields of a config, as for main_jax.py, laid over the digits recipe; all is for one device. ``--tpu``
compiles for a TPU v5e, without one: it needs the libtpu of this JAX (pip install "jax[tpu]"). Prints Markdown; a U-Net
takes a CPU half a minute to compile, and a TPU's compiler two.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from configs.digits import get_config
from diffusion import footprint, runs
from diffusion.build import build
from diffusion.config import override
from diffusion.mesh import AXES
from diffusion.nets.remat import REMATS
from diffusion.program import Program, abstract_params
from diffusion.steps import make_train_step

OF_TPU = {  # what libtpu asks of a machine that has none
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tpu", action="store_true")
    given, fields = parser.parse_known_args()
    fields = [field.removeprefix("--config.") for field in fields] + ["mesh.data=1"]
    if given.tpu:
        os.environ |= OF_TPU
        jax.default_backend = lambda: "tpu"  # nets ask it which of their ways to take
    print(f"{', '.join(fields)}; {'TPU v5e' if given.tpu else 'CPU'}, MiB on one device\n")
    print("| remat | state | estimate | compiler | estimate over it |\n| --- | ---: | ---: | ---: | ---: |")
    name = override(get_config().unlock(), fields).net.name
    for remat in REMATS:
        config = override(get_config().unlock(), [*fields, f"net.{name}.remat={remat}"]).lock()
        p = build(config, Path("runs/memory"))
        state, estimate, found = compared(replace(p, mesh=_a_tpu()) if given.tpu else p)
        sizes = " | ".join(f"{size / 2**20:,.0f}" for size in (state, estimate, found))
        print(f"| {remat} | {sizes} | {estimate / found:.2f} |", flush=True)


def compared(p: Program) -> tuple[int, int, int]:
    """Bytes of the state, of the whole as estimated, of the whole as compiled."""
    planned = footprint.per_device(p, abstract_params(p))
    state = runs._abstract_state(p)
    step = make_train_step(p.diffusion, p.optimiser, p.mesh, state)
    words = jax.ShapeDtypeStruct((1,), np.int32)
    traced = step.trace(state, p.diffusion.codec.frozen, footprint.abstract_batch(p, p.rows), words)
    compiled = traced.lower(lowering_platforms=(p.mesh.devices.flat[0].platform,)).compile()
    held = sum(planned[name] for name in ("parameters", "ema", "optimiser"))
    return held, planned["total_estimate"], footprint.of_compiled(compiled)


def _a_tpu() -> Mesh:
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(topology_name="v5e:2x2x1", platform="tpu").devices
    return Mesh(np.array(devices[:1]).reshape(1, 1), AXES, axis_types=(AxisType.Auto,) * 2)


if __name__ == "__main__":
    main()
