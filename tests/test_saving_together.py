"""Two processes save together: one that cannot write says so, and both go by the same answer."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent

# argv: port, process, folder. Prints what came of each save as JSON after a >; the last line is "done".
PROGRAM = """
import json, logging, sys, time
import jax

def say(result):
    print("\\n> " + json.dumps(result), flush=True)

port, process, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, process, cluster_detection_method="deactivate")

import jax.numpy as jnp
import orbax.checkpoint as ocp
from diffusion import saving
from diffusion.checkpoint import Checkpoints
from diffusion.errors import DiskError

mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
make = jax.jit(lambda n: {"w": jnp.arange(64.0).reshape(8, 8) + n}, out_shardings=split)
checkpoints = Checkpoints(folder, keep=9)
handler = ocp.PyTreeCheckpointHandler
arrays, listed = handler.async_save, saving.write_list

class Full:
    def result(self, timeout=None):
        raise OSError(28, "No space left on device")

async def cannot(self, *args, **kwargs):
    return [*await arrays(self, *args, **kwargs), Full()]

def cannot_list(step):
    raise OSError(28, "No space left on device")

def ended():
    checkpoints._saver._writer._async_manager._thread.join()

def save(step, full=None, part="arrays"):
    "One save, in which process `full` cannot write; [background well here, steps once it is repeated]."
    handler.async_save = cannot if process == full and part == "arrays" else arrays
    saving.write_list = cannot_list if process == full and part == "list" else listed
    began = time.monotonic()
    checkpoints.save(step, make(step), {})
    ended()
    handler.async_save, saving.write_list = arrays, listed
    well = checkpoints.check()
    if full is not None:
        checkpoints.save(step + 1, make(step + 1), {})
    checkpoints.wait()
    assert time.monotonic() - began < 120, "the healthy process waited out the time limit"
    return [well, checkpoints.all_steps()]

say(save(10))
say(save(20, full=1))
say(save(30, full=0))
say(save(40, full=0, part="list"))
try:
    handler.async_save = cannot if process == 1 else arrays
    checkpoints.save(50, make(50), {}, wait=True)
except (DiskError, OSError) as error:
    say(str(error))
handler.async_save = arrays
abstract = {"w": jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=split)}
for _ in range(2):
    restored = checkpoints.restore(abstract)
    right = jax.jit(lambda a, b: (a == b).all())(restored.state["w"], make(restored.step)["w"])
    say([restored.step, bool(right)])
    if process == 0 and restored.step == 41:
        path = next(p for p in (checkpoints.directory / "41" / "state").rglob("manifest.ocdbt"))
        path.write_bytes(path.read_bytes()[:-1])
    jax.experimental.multihost_utils.sync_global_devices("damaged")
print("done")
"""


def test_a_save_fails_for_both_or_for_none(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-c", PROGRAM, str(port)]
    processes = [
        subprocess.Popen(
            [*command, str(n), str(tmp_path / "checkpoints")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            cwd=REPO,
        )
        for n in (0, 1)
    ]
    said = [process.communicate(timeout=300) for process in processes]
    first, second = ([json.loads(line[2:]) for line in out.splitlines() if line.startswith("> ")] for out, _ in said)
    assert all(out.endswith("done\n") for out, _ in said), said
    # the failed step is not there on either, the step of the repetition is
    assert [steps for _, steps in first[:4]] == [steps for _, steps in second[:4]]
    assert first[3][1] == [10, 21, 31, 41]
    assert second[1][0] is False and first[2][0] is False and first[3][0] is False
    assert first[0][0] and second[0][0]
    assert "No space left on device" in second[4] and "41 is the last good" in second[4] and "process 1" in first[4]
    assert first[5:] == second[5:] == [[41, True], [31, True]]
