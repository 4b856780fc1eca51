"""What turns images into the features that metrics compare; each extractor is a row of a table."""

from diffusion.extractors.classifier import classifier
from diffusion.extractors.clip import clip
from diffusion.extractors.dinov2 import dinov2
from diffusion.extractors.extractor import Extractor, Given, check_images
from diffusion.extractors.inception import inception
from diffusion.extractors.lpips import PERCEPTUAL
from diffusion.extractors.raw_pixels import pixels

__all__ = ["EXTRACTORS", "PERCEPTUAL", "Extractor", "Given", "check_images"]

EXTRACTORS = {"classifier": classifier, "clip": clip, "dinov2": dinov2, "inception": inception, "pixels": pixels}
