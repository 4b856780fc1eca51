"""Metrics: features in, a dict of floats out. NumPy float64; knows no model."""

from diffusion.metrics.features import Features
from diffusion.metrics.figure import Figure
from diffusion.metrics.named import fid, frechet
from diffusion.metrics.per_class import Aggregate, ClassRow
from diffusion.metrics.scores import METRICS, Scores, measure

__all__ = ["METRICS", "Aggregate", "ClassRow", "Features", "Figure", "Scores", "fid", "frechet", "measure"]
