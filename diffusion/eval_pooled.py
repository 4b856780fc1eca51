"""The console's second table: figures of all images together, with errors, counts, networks and how to read them."""

from collections.abc import Mapping

from diffusion.eval_console import aligned, in_words
from diffusion.metrics.figure import Figure

# A figure that says how to read another one, and what to call it in that one's note; it has no line of its own.
BESIDE = {
    "coverage": ("coverage_expected", "equal distributions"),
    "lpips": ("lpips_real", "pairs of real images"),
    "vendi": ("vendi_real", "as many real images"),
    "kid_subsets_x1e3": ("kid_subsets_std_x1e3", "spread over the subsets, no error"),
}
NEIGHBOURS = {
    "ratio_median": "distance to the nearest training image over that one's own; far below 1: copies",
    "copied_percent": "lower is better; ratio below 1/3",
    "auth_percent": "higher is better; farther from a training image than its own nearest",
}
NOTES = {
    "fd": "lower is better; falls with n",
    "fid": "lower is better; falls with n",
    "fd_reference": "lower is better; to statistics of others, at their n and not at ours",
    "fid_reference": "lower is better; to statistics of others, at their n and not at ours",
    "fd_infinity": "lower is better; a line through FD over 1/n",
    "kid_x1e3": "lower is better; 0 for equal distributions, may be below",
    "kid_subsets_x1e3": "lower is better; 100 subsets of min(1000, n); below 0 at fixed class counts",
    "is": "higher is better; never sees the real images",
    "accuracy": "higher is better; read as the class asked for",
    "precision": "higher is better; generated images among the reals",
    "recall": "higher is better; reals among the generated images",
    "density": "1 for equal distributions; above near the modes",
    "coverage": "higher is better",
    "lpips": "variety within a class",
    "vendi": "variety; grows with n",
    "clip_score": "higher is better; 100 x mean cosine",
    "cmmd_v": "lower is better; x 1000, as published: above 0 at small n",
    "cmmd_u": "lower is better; x 1000, unbiased: 0 for equal distributions",
    **{f"{kind}_{name}": note for kind in ("memorisation", "memorisation_pixels") for name, note in NEIGHBOURS.items()},
    "memorisation_gap": "FD to held-out less FD to training images; above 0: nearer to the training images",
    "nmse": "lower is better; mean over images",
    "rmse": "lower is better; mean over images",
    "psnr": "higher is better; dB, mean over images",
    "ssim": "higher is better; mean over images",
    "nmse_pooled": "lower is better; all images as one",
    "rmse_pooled": "lower is better; all images as one",
    "psnr_pooled": "higher is better; dB, all images as one",
    "ssim_pooled": "higher is better; all images as one",
}


def pooled_table(
    figures: Mapping[str, Figure], networks: Mapping[str, str], notes: Mapping[str, str] | None = None, *, over: str
) -> str:
    """A line per figure of all images together.

    Args:
      figures: by name; those of classes and groups ("fd/class/7") are passed over.
      networks: whose features a figure was taken on, by figure; "" or nothing where on none.
      notes: more to say of a figure, by name: the prompt of a CLIP score.
      over: which images these are, for the heading.
    """
    beside = {name for name, _ in BESIDE.values()}
    names = [name for name in figures if "/" not in name and name not in beside]
    if not names:
        return f"pooled ({over}): no figure"
    rows = [("pooled", "value ± se", "n gen", "n real", "network", over)]
    rows += [_row(name, figures, networks.get(name, ""), (notes or {}).get(name, "")) for name in names]
    return "\n".join(aligned(rows, "<>>><<"))


def _row(name: str, figures: Mapping[str, Figure], network: str, note: str) -> tuple[str, ...]:
    figure = figures[name]
    words = [NOTES.get(name, ""), note] if figure.value is not None else [figure.reason]
    other, what = BESIDE.get(name, ("", ""))
    if other in figures and figures[other].value is not None:
        words.append(f"{what}: {in_words(figures[other].value, figures[other].se)}")
    counts = ["-" if n is None else f"{n:,}" for n in (figure.n_gen, figure.n_real)]
    return (name, in_words(figure.value, figure.se), *counts, network or "-", "; ".join(filter(None, words)))
