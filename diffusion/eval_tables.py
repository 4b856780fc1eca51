"""All tables of one evaluation, as the console shows them."""

from collections.abc import Mapping

from diffusion.eval_console import console_table, groups_table
from diffusion.eval_pooled import pooled_table
from diffusion.metrics import METRICS, Scores

OF_DISTANCE = ("fd", "fid")  # metrics that fill a class's FD
OTHERS = {"kid": "KID", "density_coverage": "density and coverage", "accuracy": "asked"}  # and what they call theirs


def tables(scores: Scores, *, where: str, over: str, notes: Mapping[str, str] | None = None) -> str:
    """Classes, worst first; groups; then the figures of all images together. What is not there has no table.

    Args:
      where: the file that holds every class.
      over: which images the pooled figures are of.
      notes: more to say of a pooled figure, by name: the prompt of a CLIP score.
    """
    network, found = network_of_rows(scores.extractors, scores.extractor), []
    if scores.rows:
        start = "accuracy/class/"
        read = {name.removeprefix(start): v for name, v in scores.values.items() if name.startswith(start)}
        found.append(console_table(scores.rows, scores.aggregates, network, read, where=where))
        found += other_networks(scores.extractors, network)
    if scores.groups:
        found.append(groups_table(scores.groups, network))
    of_figure = {
        figure.name: network
        for metric, network in scores.extractors.items()
        for figure in METRICS[metric].figures
        if metric != "paired"
    }
    found.append(pooled_table(scores.figures, of_figure, notes, over=over))
    return "\n".join(found)


def network_of_rows(extractors: Mapping[str, str], otherwise: str) -> str:
    """Whose features the classes' FD was taken on: those of the first metric that fills it, as rows are merged."""
    return next((network for metric, network in extractors.items() if metric in OF_DISTANCE), otherwise)


def other_networks(extractors: Mapping[str, str], network: str) -> list[str]:
    """A line where columns of the classes' table were taken on other networks than FD."""
    lines = [f"{OTHERS[m]}: {n}" for m, n in extractors.items() if m in OTHERS and n != network]
    return [f"on other networks: {', '.join(lines)}"] if lines else []
