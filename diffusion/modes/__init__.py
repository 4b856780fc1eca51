"""What ``--mode`` chooses: each row takes a Program, and what its name's presence below says."""

from diffusion.modes.bench import bench
from diffusion.modes.describe import describe
from diffusion.modes.encode import encode
from diffusion.modes.of_checkpoint import evaluate, sample
from diffusion.modes.posthoc import posthoc
from diffusion.modes.usefulness import usefulness
from diffusion.train import run as train

MODES = {
    "train": train,
    "eval": evaluate,
    "sample": sample,
    "encode": encode,
    "posthoc": posthoc,
    "usefulness": usefulness,
    "describe": describe,
    "bench": bench,
}
OF_A_RUN = ("eval", "sample", "posthoc", "usefulness")  # these take the workdir's own config as their base
AS_JSON = ("describe", "bench")  # these take as_json
STOPPABLE = ("train", "eval", "sample", "encode", "usefulness")  # these take the StopRequest, and stop in good order
