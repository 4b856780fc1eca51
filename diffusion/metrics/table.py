"""The table of metrics: what each one gives, what it needs, and which way is better."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from diffusion.metrics import rows
from diffusion.metrics.comparison import Comparison, Measured
from diffusion.metrics.fd_infinity import LEAST as LEAST_INFINITY
from diffusion.metrics.fd_infinity import PER_FEATURE
from diffusion.metrics.inception_score import LEAST as LEAST_IS
from diffusion.metrics.manifold import K_DENSITY, K_PRECISION

NEEDS = {
    "labels": "labelled images",
    "classes": "an extractor that reads classes",
    "logits": "an extractor that gives logits",
    "train": "features of the training images",
    "held_out": "features of images kept from training",
    "text": "features of the prompts",
    "diversity": "distances of pairs of one condition",
    "pairs": "generated images beside their truths",
}


@dataclass(frozen=True)
class Figured:
    """A figure that a metric gives.

    Attributes:
      name: of all classes together.
      better: "min" or "max"; "" where neither is, so that it ranks nothing.
      pooled: whether it stands for all classes together.
      per_class: whether it stands for each class and each group of classes: ``<name>/class/<class>``.
      over_classes: whether mean, median and worst over the classes stand beside it.
      not_per_class: why it is refused per class, for people; "" where nobody would ask.
    """

    name: str
    better: str
    pooled: bool = True
    per_class: bool = True
    over_classes: bool = True
    not_per_class: str = ""

    def names(self, classes: Sequence[str], groups: Sequence[str] = ()) -> list[str]:
        """Every name under which it is logged."""
        found = [self.name] if self.pooled else []
        if not self.per_class:
            return found
        found += [f"{self.name}/class/{name}" for name in classes]
        over = ("mean", "median", "worst") if self.over_classes else ()
        found += [f"{self.name}/{key}" for key in over if classes]
        return found + [
            f"{self.name}/group/{name}{key}" for name in groups for key in ("", *(f"/{one}" for one in over))
        ]


@dataclass(frozen=True)
class Metric:
    """A row of ``METRICS``.

    Attributes:
      measure: ``Comparison -> Measured``.
      figures: what it gives.
      needs: keys of ``NEEDS``, what an evaluation must supply beside features.
      least: fewest images a side, all classes together, below which it cannot be computed.
      per_feature: so many for each feature, where that is more than ``least``.
      network: the row of EXTRACTORS that it is defined on; "" takes any.
      about: what to say of features of another network, whose name goes into {}; "" where it reads none.
    """

    measure: Callable[[Comparison], Measured]
    figures: tuple[Figured, ...]
    needs: tuple[str, ...] = ()
    least: int = 2
    per_feature: int = 0
    network: str = ""
    about: str = ""

    def least_of(self, d: int) -> int:
        """Fewest images a side for features of d numbers."""
        return max(self.least, self.per_feature * d)


def rankable(metrics: Sequence[str], classes: Sequence[str] = (), groups: Sequence[str] = ()) -> dict[str, str]:
    """{name: "min" or "max"} of every figure of these metrics that may rank checkpoints."""
    figures = [figure for metric in metrics for figure in METRICS[metric].figures if figure.better]
    return {name: figure.better for figure in figures for name in figure.names(classes, groups)}


def refused(name: str) -> str:
    """Why a figure is not given per class or group, "" for one that is (or that nobody knows)."""
    head, _, rest = name.partition("/")
    known: Mapping[str, Figured] = {figure.name: figure for row in METRICS.values() for figure in row.figures}
    return known[head].not_per_class if head in known and rest else ""


def _alone(name: str, better: str, why: str = "") -> Figured:
    return Figured(name, better, per_class=False, over_classes=False, not_per_class=why)


def _neighbours(name: str) -> tuple[Figured, ...]:
    better = {"ratio_median": "max", "copied_percent": "min", "auth_percent": "max"}
    return tuple(_alone(f"{name}_{figure}", way) for figure, way in better.items())


METRICS = {
    "fd": Metric(rows.fd, (Figured("fd", "min"), Figured("fd_excess", "min", pooled=False))),
    "fid": Metric(
        rows.fid,
        (Figured("fid", "min"), Figured("fid_excess", "min", pooled=False)),
        network="inception",
        about="FID is defined on Inception features; these come from {}: call it FD",
    ),
    "fd_infinity": Metric(
        rows.at_infinity,
        (_alone("fd_infinity", "min", "FD at infinity fails on few images: it needs max(5000, 2d)"),),
        least=LEAST_INFINITY,
        per_feature=PER_FEATURE,
    ),
    "kid": Metric(rows.kid, (Figured("kid_x1e3", "min"),)),
    "kid_subsets": Metric(
        rows.kid_of_subsets,
        (
            _alone("kid_subsets_x1e3", "min", "a class has no subsets of 1000 images: take kid, on all of them"),
            _alone("kid_subsets_std_x1e3", ""),
        ),
    ),
    "accuracy": Metric(
        rows.share_as_asked,
        (Figured("accuracy", "max", over_classes=False),),
        needs=("labels", "classes"),
        least=1,
        network="classifier",
    ),
    "precision_recall": Metric(
        rows.precision_and_recall, (Figured("precision", "max"), Figured("recall", "max")), least=K_PRECISION + 1
    ),
    "density_coverage": Metric(
        rows.density_and_coverage,
        (
            Figured("density", "max"),
            Figured("coverage", "max"),
            Figured("coverage_expected", "", over_classes=False),
        ),
        least=K_DENSITY + 1,
    ),
    "is": Metric(
        rows.inception,
        (_alone("is", "max", "an Inception Score within a class is meaningless: it rewards images of many classes"),),
        needs=("logits",),
        least=LEAST_IS,
        network="inception",
        about="the Inception Score is defined on Inception's logits; these come from {}",
    ),
    "clip_score": Metric(
        rows.clip_scores,
        (Figured("clip_score", "max", over_classes=False),),
        needs=("text",),
        least=1,
        network="clip",
        about="the CLIP score is defined on CLIP's embeddings; these come from {}",
    ),
    "cmmd": Metric(
        rows.cmmds,
        (Figured("cmmd_v", "min"), Figured("cmmd_u", "min")),
        least=3,
        network="clip",
        about="CMMD is defined on CLIP's embeddings; these come from {}: take kid",
    ),
    "lpips": Metric(
        rows.lpips,
        (Figured("lpips", "max", over_classes=False), Figured("lpips_real", "", over_classes=False)),
        needs=("diversity",),
        network="perceptual",
    ),
    "vendi": Metric(rows.vendi_scores, (Figured("vendi", "max"), Figured("vendi_real", ""))),
    "memorisation": Metric(
        rows.memorised_with_gap,
        (*_neighbours("memorisation"), _alone("memorisation_gap", "min")),
        needs=("train", "held_out"),
        least=3,
    ),
    "memorisation_pixels": Metric(
        rows.memorised_in_pixels,
        _neighbours("memorisation_pixels"),
        needs=("train",),
        network="pixels",
        about="memorisation_pixels compares the images themselves; these features come from {}: take memorisation",
    ),
    "paired": Metric(
        rows.paired,
        tuple(
            _alone(name + pooled, better)
            for name, better in {"nmse": "min", "rmse": "min", "psnr": "max", "ssim": "max"}.items()
            for pooled in ("", "_pooled")
        ),
        needs=("pairs",),
        least=0,
    ),
}
