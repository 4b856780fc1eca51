"""Metrics: features in, a dict of floats out. NumPy float64; knows no model."""

from diffusion.metrics.features import Features
from diffusion.metrics.figure import Figure
from diffusion.metrics.named import fid, frechet
from diffusion.metrics.per_class import Aggregate, ClassRow
from diffusion.metrics.scores import Scores, error_name, measure
from diffusion.metrics.table import METRICS, Figured, Metric, rankable, refused

__all__ = [
    "METRICS",
    "Aggregate",
    "ClassRow",
    "Features",
    "Figure",
    "Figured",
    "Metric",
    "Scores",
    "error_name",
    "fid",
    "frechet",
    "measure",
    "rankable",
    "refused",
]
