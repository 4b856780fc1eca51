"""The rows of ``METRICS``: each takes a ``Comparison`` and names its figures."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from diffusion.metrics.accuracy import accuracy
from diffusion.metrics.clip_metrics import clip_score, cmmd
from diffusion.metrics.comparison import Comparison, Measured
from diffusion.metrics.diversity import mean_distance, vendi
from diffusion.metrics.fd import frechet
from diffusion.metrics.fd_infinity import fd_infinity
from diffusion.metrics.figure import Figure
from diffusion.metrics.floor import half_split_of
from diffusion.metrics.inception_score import inception_score
from diffusion.metrics.kid import kid_figure
from diffusion.metrics.kid_subsets import kid_subsets
from diffusion.metrics.manifold import density_coverage, precision_recall
from diffusion.metrics.matching import POOLED, Match
from diffusion.metrics.memorisation import held_out_gap, neighbours
from diffusion.metrics.named import check_inception, over_classes
from diffusion.metrics.per_class import Columns

SUSPICIOUS = 32  # pairs that are named

Figures = dict[str, Figure]
NO_IMAGES = Figure(None, None, 0, reason="no images")


def fd(c: Comparison, name: str = "fd") -> Measured:
    """``fd``, and per class and group ``fd_excess`` above the floor of reals against reals."""
    return _everywhere(c, lambda one: _fd(one, name), {name: "min", f"{name}_excess": "min"})


def fid(c: Comparison) -> Measured:
    check_inception(c.generated.extractor)
    return fd(c, "fid")


def at_infinity(c: Comparison) -> Measured:
    return Measured({"fd_infinity": fd_infinity(c.pooled.generated, c.pooled.real, c.rng(0))})


def kid(c: Comparison) -> Measured:
    return _everywhere(c, _kid, {"kid_x1e3": "min"})


def kid_of_subsets(c: Comparison) -> Measured:
    mean, spread = kid_subsets(c.pooled.generated, c.pooled.real, c.rng(1))
    return Measured({"kid_subsets_x1e3": mean.scaled(1e3), "kid_subsets_std_x1e3": spread.scaled(1e3)})


def precision_and_recall(c: Comparison) -> Measured:
    better = {"precision": "max", "recall": "max"}
    return _everywhere(c, lambda one: (precision_recall(one.generated, one.real), {}), better)


def density_and_coverage(c: Comparison) -> Measured:
    def of(one: Match) -> tuple[Figures, Columns]:
        found = density_coverage(one.generated, one.real)
        return found, {name: figure.value for name, figure in found.items()}

    return _everywhere(c, of, {"density": "max", "coverage": "max"})


def share_as_asked(c: Comparison) -> Measured:
    predicted, asked = c.given.outputs["classes"], c.generated.labels
    figures = {"accuracy": accuracy(predicted, asked)}
    for where, own in c.by_label(asked).items():
        figures[f"accuracy/{where}"] = accuracy(predicted[own], asked[own]) if own.any() else NO_IMAGES
    return Measured(figures)


def clip_scores(c: Comparison) -> Measured:
    """Of all generated images with their texts, of each class and of each group."""
    images, texts = c.generated.values, c.given.text
    figures = {"clip_score": clip_score(images, texts)}
    for where, own in (c.by_label(c.generated.labels) if c.classes else {}).items():
        figures[f"clip_score/{where}"] = clip_score(images[own], texts[own]) if own.any() else NO_IMAGES
    return Measured(figures)


def cmmds(c: Comparison) -> Measured:
    """``cmmd_v`` as published, and ``cmmd_u`` for few images."""

    def of(one: Match) -> tuple[Figures, Columns]:
        if one.n < 3:
            few = Figure(None, None, one.n, one.n, f"{one.n} images a side are too few: CMMD and its error need 3")
            return {"cmmd_v": few, "cmmd_u": few}, {}
        return cmmd(one.generated, one.real, one.counts), {}

    return _everywhere(c, of, {"cmmd_v": "min", "cmmd_u": "min"})


def inception(c: Comparison) -> Measured:
    return Measured({"is": inception_score(c.given.outputs["logits"], c.seed)})


def lpips(c: Comparison) -> Measured:
    """``lpips``, how far images of one condition lie apart, and ``lpips_real``, its ceiling on pairs of reals."""
    figures = {}
    for name, side in (("lpips", "generated"), ("lpips_real", "real")):
        distances, labels = c.given.diversity[side]
        count = _of_reals if side == "real" else lambda figure: figure
        figures[name] = count(mean_distance(distances))
        if c.classes:
            own = c.by_label(labels)
            figures |= {f"{name}/{where}": count(mean_distance(distances[rows])) for where, rows in own.items()}
    return Measured(figures)


def vendi_scores(c: Comparison) -> Measured:
    """``vendi`` of the generated images, and ``vendi_real`` of as many reals."""

    def of(one: Match) -> tuple[Figures, Columns]:
        if not one.n:
            return {"vendi": NO_IMAGES, "vendi_real": _of_reals(NO_IMAGES)}, {}
        return {"vendi": vendi(one.generated), "vendi_real": _of_reals(vendi(one.real))}, {}

    return _everywhere(c, of, {"vendi": "max", "vendi_real": "max"})


def memorised(c: Comparison, name: str = "memorisation") -> Measured:
    """Neighbours of all generated images in the training set, in the extractor's space."""
    near = neighbours(c.generated.values, c.given.train.values)
    figures = {f"{name}_{figure}": value for figure, value in near.figures().items()}
    return Measured(figures, suspicious=tuple(near.suspicious(SUSPICIOUS)))


def memorised_with_gap(c: Comparison) -> Measured:
    """``memorised``, and whether the training images are nearer than held-out ones."""
    found = memorised(c)
    train, held_out = c.given.train, c.given.held_out
    labels = None if train.labels is None or held_out.labels is None else (train.labels, held_out.labels)
    gap = held_out_gap(c.generated.values, train.values, held_out.values, c.rng(2), labels)
    return replace(found, figures=found.figures | {"memorisation_gap": gap})


def memorised_in_pixels(c: Comparison) -> Measured:
    return memorised(c, "memorisation_pixels")


def paired(c: Comparison) -> Measured:
    return Measured(c.given.pairs.figures())


def _fd(one: Match, name: str) -> tuple[Figures, Columns]:
    if one.n < 2:
        few = Figure(None, None, one.n, one.n, f"{one.n} images a side are too few")
        return {name: few} | ({} if one.kind == POOLED else {f"{name}_excess": few}), {}
    whole = frechet(one.generated, one.real)
    if one.kind == POOLED:
        return {name: whole}, {}
    columns: Columns = {"fd": whole.value, "fd_se": whole.se}
    if sum(min(len(made), len(reals) // 2) for made, reals in one.strata) < 2:
        few = Figure(None, None, one.n, one.n, f"{one.n} images a side are too few")
        return {name: whole, f"{name}_excess": few}, columns
    floor = half_split_of(one.strata, np.random.default_rng(one.seed))
    excess = Figure(floor.excess, None, floor.n, floor.n, "its splits share images")
    columns |= {"n_floor": floor.n, "fd_half": floor.half, "fd_floor": floor.floor, "fd_excess": floor.excess}
    return {name: whole, f"{name}_excess": excess}, columns


def _kid(one: Match) -> tuple[Figures, Columns]:
    found = kid_figure(one.generated, one.real, one.counts).scaled(1e3)
    return {"kid_x1e3": found}, {"kid_x1e3": found.value, "kid_se": found.se}


def _of_reals(figure: Figure) -> Figure:
    """A figure of real images alone counts them as such."""
    return replace(figure, n_gen=0, n_real=figure.n_gen)


def _everywhere(c: Comparison, of: Callable[[Match], tuple[Figures, Columns]], better: Mapping[str, str]) -> Measured:
    """A metric of all images, of each class, of each group, and over the classes of all and of each group.

    Args:
      of: (figures, columns of ``ClassRow``) of one match.
      better: which way is better, by figure that is taken over classes.
    """
    found, figures, columns = {}, {}, {}
    for one in c.everything:
        found[one.kind, one.name], columns[one.kind, one.name] = of(one)
        figures |= {one.named(figure): value for figure, value in found[one.kind, one.name].items()}
    aggregates = {}
    for prefix, members in [("", c.classes), *((f"/group/{name}", own) for name, (_, own) in c.groups.items())]:
        for figure in better if members else ():
            by_class = {one.name: found[one.kind, one.name][figure] for one in members}
            counts = {one.name: one.n for one in members}
            over, aggregates[figure + prefix] = over_classes(figure + prefix, by_class, counts, better[figure])
            figures |= over
    return Measured(figures, columns, aggregates)
