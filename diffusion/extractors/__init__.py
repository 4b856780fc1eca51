"""What turns images into the features that metrics compare; each extractor is a row of a table."""

from diffusion.extractors.classifier import classifier
from diffusion.extractors.extractor import Extractor, Given, check_images
from diffusion.extractors.inception import inception
from diffusion.extractors.lpips import PERCEPTUAL
from diffusion.extractors.pixels import pixels

__all__ = ["EXTRACTORS", "PERCEPTUAL", "Extractor", "Given", "check_images"]

EXTRACTORS = {"classifier": classifier, "inception": inception, "pixels": pixels}
