"""Where records come from. A row: (root, seed, *, its own config fields) -> Dataset.

``root`` is ``data.root`` (``~`` is expanded) and ``seed`` is ``data.split_seed``.
"""

from diffusion.data.digits import digits
from diffusion.data.digits_folder import digits_folder
from diffusion.data.fewshot import fewshot
from diffusion.data.folder import folder
from diffusion.data.latents import latents
from diffusion.data.npz import npz
from diffusion.data.records import Dataset, Record, Records
from diffusion.data.tfds_source import tfds

__all__ = ["SOURCES", "Dataset", "Record", "Records", "digits"]

SOURCES = {
    "digits": digits,
    "tfds": tfds,
    "folder": folder,
    "npz": npz,
    "latents": latents,
    "fewshot": fewshot,
    "digits_folder": digits_folder,
}
