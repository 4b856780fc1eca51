"""Who starts several processes, how one of them joins and leaves: read from fake environments, without a network."""

import http.server
import json
import os
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

import main_jax
from configs.default import get_config
from diffusion import cluster, launchers, runs
from diffusion.build import build
from diffusion.build import cluster as settings_of
from diffusion.config import override
from diffusion.errors import (
    ConfigError,
    DataError,
    MismatchError,
    NonFiniteError,
    NoValidCheckpoint,
    PeerError,
    Stopped,
)
from diffusion.mesh import by_process

REPO = Path(__file__).resolve().parent.parent
SLURM = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "n[1-2]"}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}
MPI = {"OMPI_MCA_orte_hnp_uri": "1314521088.0;tcp://10.0.0.1:43370", "OMPI_COMM_WORLD_RANK": "0"}
NO_PROXY = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"))
ENVIRONMENTS = [  # what the environment says, how many processes it runs
    ({}, 1),
    ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, 1),  # a shell that salloc opened
    ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, 1),  # the batch script
    (SLURM | {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, 1),  # salloc's interactive step
    (SLURM | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}, 1),  # srun -n 1
    (SLURM | {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"}, 4),  # srun -n 4
    (MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, 1),
    (MPI | {"OMPI_COMM_WORLD_SIZE": "8"}, 8),
    (SLURM | {"SLURM_STEP_NUM_TASKS": "1"} | MPI | {"OMPI_COMM_WORLD_SIZE": "8"}, 8),  # mpirun inside salloc
    ({"TPU_PROCESS_ADDRESSES": "local", "TPU_WORKER_ID": "0"}, 1),  # Kaggle
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, 1),  # one host of GKE
    ({"TPU_WORKER_HOSTNAMES": "a,b,c,d"}, 4),
    ({"TPU_WORKER_HOSTNAMES": "a,b", "MEGASCALE_NUM_SLICES": "3"}, 6),
    ({"TPU_WORKER_HOSTNAMES": "a"} | POD, 1),  # the slice's own word counts before the pod's
    ({"TPU_SKIP_MDS_QUERY": "1"}, 1),  # Colab
    ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, 1),  # a notebook in a cluster
]


@pytest.mark.parametrize(("env", "processes"), ENVIRONMENTS, ids=lambda v: ",".join(v) if isinstance(v, dict) else "")
def test_only_an_environment_of_several_processes_is_joined(monkeypatch, env, processes):
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: joined.append(given))
    cluster.join(settings_of(get_config()), env)
    assert [given["num_processes"] for given in joined] == ([processes] if processes > 1 else [])


def test_nothing_is_detected_where_that_is_off(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: pytest.fail("joined"))
    cluster.join(said("detect=false"), SLURM | {"SLURM_STEP_NUM_TASKS": "4"})


@pytest.mark.parametrize("package, found", [(None, None), (object(), 0)])
def test_a_pod_asks_the_cluster_how_many_there_are(monkeypatch, package, found):
    monkeypatch.setattr(launchers.importlib.util, "find_spec", lambda name: package)
    if found is None:
        with pytest.raises(ConfigError, match="^cluster.coordinator: .* without the package kubernetes"):
            cluster.detected(POD)
    else:
        assert cluster.detected(POD) == ("Kubernetes", found)


def test_open_mpi_that_does_not_say_where_to_meet_is_refused():
    with pytest.raises(ConfigError, match="does not say where they meet"):
        cluster.detected({"OMPI_COMM_WORLD_SIZE": "2"})


@pytest.mark.parametrize(
    ("attributes", "processes"),
    [
        ({}, 1),
        ({"worker-network-endpoints": "unknown:unknown:10.0.0.2", "tpu-env": "ZONE: 'a'"}, 1),
        ({"worker-network-endpoints": "h1,h2,h3,h4", "tpu-env": "ZONE: 'a'"}, 4),
        ({"worker-network-endpoints": "h1,h2", "tpu-env": "ZONE: 'a'\nMEGASCALE_NUM_SLICES: '2'"}, 4),
    ],
)
def test_a_tpu_machine_asks_its_metadata(monkeypatch, attributes, processes):
    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            text = attributes.get(self.path.removeprefix("/computeMetadata/v1/instance/attributes/"))
            self.send_response(404 if text is None or self.headers["Metadata-Flavor"] != "Google" else 200)
            self.end_headers()
            self.wfile.write((text or "").encode())

        def log_message(self, *given):
            pass

    monkeypatch.setattr(launchers, "on_tpu_machine", lambda: True)
    with http.server.HTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = {"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"}
        assert cluster.detected(env)[1] == processes
        server.shutdown()
    assert cluster.detected(env)[1] == 1, "a server that is not there is no pod"


def said(*fields):
    return settings_of(override(get_config().unlock(), [f"cluster.{field}" for field in fields]).lock())


def test_a_given_cluster_wins_over_the_environment(monkeypatch):
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: joined.append(given))
    three = ("coordinator=10.0.0.1:1234", "processes=2", "process=1")
    cluster.join(said(*three, "heartbeat=7"), SLURM | {"SLURM_STEP_NUM_TASKS": "4"})
    (given,) = joined
    assert given.pop("initialization_timeout") > 300, "the program's own limit comes first"
    assert given == {
        "coordinator_address": "10.0.0.1:1234",
        "num_processes": 2,
        "process_id": 1,
        "cluster_detection_method": "deactivate",
        "heartbeat_timeout_seconds": 7,
    }


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        (["coordinator=a:1"], "cluster.processes: is not given"),
        (["coordinator=a:1", "processes=2"], "cluster.process: is not given"),
        (["processes=2", "process=0"], "cluster.coordinator: is not given"),
        (["coordinator=a:1", "process=0"], "cluster.processes: is not given"),
        (["coordinator=a:1", "processes=2", "process=2"], "cluster.process: is 2; of 2 processes the last is number 1"),
        (["coordinator=a", "processes=2", "process=0"], "cluster.coordinator: is 'a'; it must be host:port"),
        (["timeout=0"], "cluster.timeout: is 0"),
        (["heartbeat=0"], "cluster.heartbeat: is 0"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused_by_the_fields_name(fields, field):
    with pytest.raises(ConfigError) as refused:
        said(*fields)
    assert str(refused.value).startswith(field)


@pytest.mark.parametrize("wrong, kind", [(ValueError("where?"), ConfigError), (RuntimeError("no port"), PeerError)])
def test_a_join_that_fails_is_one_line(monkeypatch, wrong, kind):
    def initialize(**given):
        raise wrong

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(kind, match=str(wrong).replace("?", r"\?")) as failed:
        cluster.join(said(), SLURM | {"SLURM_STEP_NUM_TASKS": "4"})
    assert "\n" not in str(failed.value)


def test_a_process_that_nobody_meets_says_so_and_ends(run_main):
    three = ["coordinator=127.0.0.1:9", "processes=2", "process=1", "timeout=1"]
    alone = run_main("--mode=describe", *(f"--config.cluster.{field}" for field in three), env=NO_PROXY)
    assert alone.rc == 1 and alone.stderr.count("\n") == 1
    assert alone.stderr.startswith(
        "main_jax.py: process 1 of 2 (coordinator 127.0.0.1:9) waited for the others up to 1 s"
    )


def test_who_the_process_is_stays_out_of_the_run(tmp_path):
    three = ["cluster.coordinator=a:1", "cluster.processes=2", "cluster.process=1"]
    one, other = (
        build(override(get_config().unlock(), fields).lock(), tmp_path)
        for fields in (three, three[:2] + ["cluster.process=0"])
    )
    assert one.config == other.config and "process=1" not in json.dumps(one.config)
    runs.write_config(one)
    for mode in ("eval", "sample", "train"):
        args = main_jax.parse([f"--mode={mode}", f"--workdir={tmp_path}", *(f"--config.{field}" for field in three)])
        assert main_jax.resolve(*args)[0].cluster.process == 1


def test_a_process_alone_waits_for_nobody():
    cluster.barrier("nobody")
    assert cluster.of_first({"a": [1, None, 0.1]}) == {"a": [1, None, 0.1]}
    assert [cluster.leave(status) for status in (0, 1, 75)] == [0, 1, 75]


ERRORS = [
    *((kind("x"), True) for kind in (Stopped, NonFiniteError, MismatchError, NoValidCheckpoint)),
    (ConfigError("a.b", "x"), True),
    *((kind("x"), False) for kind in (DataError, PeerError, KeyError, KeyboardInterrupt, jax.errors.JaxRuntimeError)),
]


@pytest.mark.parametrize(("error", "together"), ERRORS, ids=lambda v: type(v).__name__)
def test_several_processes_save_only_what_they_meet_together(monkeypatch, error, together):
    assert cluster.alike(error)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert cluster.alike(error) is together


RUNTIME = [  # the runtime's own words, and whether they speak of a peer
    ("UNKNOWN: Gloo AllGather failed: [pair.cc:547] Connection closed by peer [127.0.0.1]:28801", True),
    ("FAILED_PRECONDITION: Buffer Definition Event: Gloo all-reduce failed: Timed out waiting 30000ms", True),
    ("INTERNAL: NCCL operation ncclAllReduce failed: remote process exited or there was a network error", True),
    ("UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats)", True),
    ("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes in the all-reduce of NCCL", False),
    ("INTERNAL: cudnn failed", False),
]


@pytest.mark.parametrize(("text", "peer"), RUNTIME)
def test_a_dead_peer_is_one_line(monkeypatch, capsys, text, peer):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert cluster.report(jax.errors.JaxRuntimeError(f"{text}\nmore")) == 1
    err = capsys.readouterr().err
    assert (err.count("\n") == 1 and "run the same command again" in err and text in err) is peer


def test_devices_lie_in_the_order_of_their_processes():
    wired = [SimpleNamespace(id=i, process_index=p) for i, p in ((0, 0), (1, 0), (4, 1), (5, 1), (3, 0), (2, 2))]
    assert [d.id for d in by_process(wired)] == [0, 1, 3, 4, 5, 2]


@pytest.mark.parametrize(
    "script", sorted(p.name for p in (REPO / "launch").glob("*") if p.suffix in (".sh", ".sbatch"))
)
def test_a_launch_script_is_sound(script):
    assert subprocess.run(["bash", "-n", REPO / "launch" / script]).returncode == 0
    assert os.access(REPO / "launch" / script, os.X_OK)


@pytest.mark.parametrize("wrong", [[], ["0"], ["two"]])
def test_local_needs_a_number(wrong):
    done = subprocess.run([REPO / "launch" / "local.sh", *wrong], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("usage: launch/local.sh N")
