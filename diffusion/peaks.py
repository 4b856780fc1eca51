"""The most floating-point operations that devices do in a second: as vendors state it, or measured by a product."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffusion.mesh import over_rows, put_replicated, put_rows

# Dense peaks in FLOP/s of one JAX device as vendors state them: bfloat16, but float16 where there is no bfloat16.
# A TPU v2 or v3 device is a core, half a chip.
PEAKS = {
    "V100": 125e12,
    "T4": 65e12,
    "P100": 19e12,
    "A100": 312e12,
    "A10G": 70e12,
    "L4": 121e12,
    "L40S": 362e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
}
SIDE = 768  # of the matrices of a CPU's product: 100 of the 105 GFLOP/s of larger ones, in 0.15 s with compilation
PRODUCTS = 5  # of which the fastest counts: another program on the same cores only ever slows one


def peak_of(device_kind: str) -> float | None:
    """The row whose name stands as whole words in ``NVIDIA H100 80GB HBM3``."""
    spaced = f" {device_kind.replace('-', ' ')} "
    return next((peak for name, peak in PEAKS.items() if f" {name} " in spaced), None)


def of_mesh(mesh: Mesh) -> float | None:
    """FLOP/s of all its devices together, of which ``perf/mfu`` is a share.

    Accelerators: the stated peak in half precision, whatever type the net has; None where no row is theirs. CPUs: of
    a float32 product, measured at the first call, which every process has to make.
    """
    device = mesh.devices.flat[0]
    if device.platform == "cpu":
        return _of_cpus(mesh)
    peak = peak_of(device.device_kind)
    return peak and mesh.size * peak


@functools.cache
def _of_cpus(mesh: Mesh) -> float:
    """Of a product [devices * SIDE, SIDE] by [SIDE, SIDE], rows over the mesh."""
    ones = np.ones((SIDE, SIDE), np.float32)
    a, b = put_rows(mesh, np.tile(ones, (len(mesh.local_devices), 1))), put_replicated(mesh, ones)
    product = jax.jit(jnp.matmul, out_shardings=over_rows(mesh))
    times = []
    for _ in range(1 + PRODUCTS):  # the first one compiles
        began = time.perf_counter()
        jax.block_until_ready(product(a, b))
        times.append(time.perf_counter() - began)
    return 2 * mesh.size * SIDE**3 / min(times)
