import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from diffusion.errors import ConfigError
from diffusion.mesh import make_mesh, over_rows, padded_rows, put_replicated, put_rows, replicated


@pytest.mark.parametrize(("asked", "size"), [(0, 8), (1, 1), (2, 2), (8, 8)])
def test_a_mesh_takes_the_first_devices(asked, size):
    mesh = make_mesh(asked)
    assert mesh.devices.ravel().tolist() == jax.devices()[:size]
    assert (mesh.axis_names, mesh.axis_types) == (("data",), (AxisType.Auto,))


@pytest.mark.parametrize("asked", [9, -1])
def test_devices_that_are_not_there_are_refused(asked):
    with pytest.raises(ConfigError, match=rf"^mesh.data: {asked} devices asked for; there are 8 \(0 takes them all\)$"):
        make_mesh(asked)


@pytest.mark.parametrize(
    ("batch_size", "multiple", "rows"), [(64, 8, 64), (65, 8, 72), (1, 8, 8), (7, 1, 7), (1797, 2, 1798)]
)
def test_padded_rows_hold_the_batch_and_divide(batch_size, multiple, rows):
    assert padded_rows(batch_size, multiple) == rows


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_rows_are_split_in_order(devices):
    mesh, rows = make_mesh(devices), np.arange(16, dtype=np.int32)
    put = put_rows(mesh, {"x": np.stack([rows] * 3, axis=1), "id": rows})
    assert all(leaf.sharding == over_rows(mesh) for leaf in put.values())
    per_device = {shard.device: np.asarray(shard.data) for shard in put["id"].addressable_shards}
    np.testing.assert_array_equal(np.concatenate([per_device[d] for d in mesh.devices]), rows)
    assert {len(part) for part in per_device.values()} == {16 // devices}
    np.testing.assert_array_equal(put["x"], np.stack([rows] * 3, axis=1))


def test_replicated_values_are_whole_on_every_device():
    mesh = make_mesh(8)
    put = put_replicated(mesh, {"a": jnp.arange(3), "b": np.float32(2.0)})
    assert all(leaf.sharding == replicated(mesh) for leaf in put.values())
    assert [np.asarray(shard.data).tolist() for shard in put["a"].addressable_shards] == [[0, 1, 2]] * 8
