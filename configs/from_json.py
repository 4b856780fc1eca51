"""A run's own config again: ``--config=configs/from_json.py:runs/digits/config.json``."""

from pathlib import Path

from configs.default import get_config as default
from diffusion.config import from_json


def get_config(path: str):
    return from_json(Path(path), default())
