"""What started this process, and how many there are: read from the environment, so that a single one never waits.

JAX's own detection follows where there are several; asked on a single machine inside an allocation it may wait for
processes that nobody started.
"""

import importlib.util
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from diffusion.errors import ConfigError

Env = Mapping[str, str]

METADATA_SECONDS = 5  # to ask a TPU machine's own metadata server
GOOGLE = "0x1ae0"  # PCI vendor


def open_mpi(env: Env) -> int | None:
    """Started by mpirun."""
    if "OMPI_COMM_WORLD_SIZE" not in env:
        return None
    processes = int(env["OMPI_COMM_WORLD_SIZE"])
    if processes > 1 and "OMPI_MCA_orte_hnp_uri" not in env:
        raise _by_hand(f"Open MPI started {processes} processes, but this version of it does not say where they meet")
    return processes


def slurm(env: Env) -> int | None:
    """Started by srun: the tasks of this step. SLURM_NTASKS is the allocation's where a shell runs inside it."""
    if "SLURM_JOB_ID" not in env:
        return None
    if "SLURM_PROCID" not in env or "SLURM_STEP_NODELIST" not in env:
        return 1
    return int(env.get("SLURM_STEP_NUM_TASKS", "1"))


def tpu(env: Env) -> int | None:
    """The hosts of a TPU slice, over all slices. Kaggle and Colab name one host, GKE names all, GCE is asked."""
    hosts = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES")
    slices = env.get("MEGASCALE_NUM_SLICES")
    if hosts is None:
        if "TPU_SKIP_MDS_QUERY" in env or not on_tpu_machine():
            return None
        hosts = metadata(env, "worker-network-endpoints")
        if hosts is None:
            return None
        if slices is None:
            named = re.search(r"MEGASCALE_NUM_SLICES\s*:\s*'?(\d+)", metadata(env, "tpu-env") or "")
            slices = named.group(1) if named else None
    return len(hosts.split(",")) * int(slices or 1)


def kubernetes(env: Env) -> int | None:
    """A pod of an indexed job; how many there are only the cluster's API knows, which JAX asks."""
    if "KUBERNETES_SERVICE_HOST" not in env or "JOB_COMPLETION_INDEX" not in env:
        return None
    if importlib.util.find_spec("kubernetes") is None:
        raise _by_hand("this pod is one of an indexed job, and its size is not known without the package kubernetes")
    return 0


def on_tpu_machine() -> bool:
    vendors = Path("/sys/bus/pci/devices").glob("*/vendor")
    return importlib.util.find_spec("libtpu") is not None and any(v.read_text().strip() == GOOGLE for v in vendors)


def metadata(env: Env, key: str) -> str | None:
    """An attribute that Google's machine was made with; None where there is no such thing."""
    server = env.get("GCE_METADATA_IP", "metadata.google.internal")
    url = f"http://{server}/computeMetadata/v1/instance/attributes/{key}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=METADATA_SECONDS) as r:
            return r.read().decode()
    except (urllib.error.URLError, TimeoutError):
        return None


def _by_hand(problem: str) -> ConfigError:
    return ConfigError(
        "cluster.coordinator",
        f"{problem}; give it with cluster.processes and cluster.process, or cluster.detect=false to run this process "
        "on its own",
    )


LAUNCHERS = {"Open MPI": open_mpi, "SLURM": slurm, "TPU": tpu, "Kubernetes": kubernetes}
