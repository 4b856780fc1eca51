import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from diffusion.errors import ConfigError
from diffusion.mesh import make_mesh, over_rows, padded_rows, put_replicated, put_rows, replicated


@pytest.mark.parametrize(
    ("data", "fsdp", "shape"),
    [(0, 1, (8, 1)), (1, 1, (1, 1)), (2, 1, (2, 1)), (8, 1, (8, 1)), (0, 8, (1, 8)), (0, 4, (2, 4)), (2, 3, (2, 3))],
)
def test_a_mesh_takes_the_first_devices(data, fsdp, shape):
    mesh = make_mesh(data, fsdp)
    assert mesh.devices.shape == shape
    assert mesh.devices.ravel().tolist() == jax.devices()[: math.prod(shape)]
    assert (mesh.axis_names, mesh.axis_types) == (("data", "fsdp"), (AxisType.Auto,) * 2)


@pytest.mark.parametrize(
    ("data", "fsdp", "said"),
    [
        (9, 1, r"mesh.data: 9 devices asked for; there are 8 \(0 takes them all\)"),
        (-1, 1, r"mesh.data: -1 devices asked for; there are 8 \(0 takes them all\)"),
        (-2, 4, r"mesh.data: -2 times mesh.fsdp=4 devices asked for; there are 8 \(0 takes them all\)"),
        (4, 4, r"mesh.data: 4 times mesh.fsdp=4 devices asked for; there are 8 \(0 takes them all\)"),
        (0, 3, r"mesh.fsdp: 3 does not divide the 8 devices that mesh.data=0 takes"),
        (0, 16, r"mesh.fsdp: 16 does not divide the 8 devices that mesh.data=0 takes"),
        (0, 0, r"mesh.fsdp: is 0; 1 leaves the state whole on every device"),
        (1, -1, r"mesh.fsdp: is -1; 1 leaves the state whole on every device"),
    ],
)
def test_devices_that_are_not_there_are_refused(data, fsdp, said):
    with pytest.raises(ConfigError, match=f"^{said}$"):
        make_mesh(data, fsdp)


@pytest.mark.parametrize(
    ("batch_size", "multiple", "rows"), [(64, 8, 64), (65, 8, 72), (1, 8, 8), (7, 1, 7), (1797, 2, 1798)]
)
def test_padded_rows_hold_the_batch_and_divide(batch_size, multiple, rows):
    assert padded_rows(batch_size, multiple) == rows


@pytest.mark.parametrize(("data", "fsdp"), [(1, 1), (2, 1), (8, 1), (2, 4), (1, 8)])
def test_rows_are_split_in_order(data, fsdp):
    mesh, rows, devices = make_mesh(data, fsdp), np.arange(16, dtype=np.int32), data * fsdp
    put = put_rows(mesh, {"x": np.stack([rows] * 3, axis=1), "id": rows})
    assert all(leaf.sharding == over_rows(mesh) for leaf in put.values())
    per_device = {shard.device: np.asarray(shard.data) for shard in put["id"].addressable_shards}
    np.testing.assert_array_equal(np.concatenate([per_device[d] for d in mesh.devices.flat]), rows)
    assert {len(part) for part in per_device.values()} == {16 // devices}
    np.testing.assert_array_equal(put["x"], np.stack([rows] * 3, axis=1))


def test_replicated_values_are_whole_on_every_device():
    mesh = make_mesh(8)
    put = put_replicated(mesh, {"a": jnp.arange(3), "b": np.float32(2.0)})
    assert all(leaf.sharding == replicated(mesh) for leaf in put.values())
    assert [np.asarray(shard.data).tolist() for shard in put["a"].addressable_shards] == [[0, 1, 2]] * 8
