from diffusion.eval_pooled import BESIDE, NOTES, pooled_table
from diffusion.metrics.figure import Figure

FIGURES = {
    "fd": Figure(0.2039, 0.0123, 1000, 1000),
    "fd/class/7": Figure(0.7, 0.2, 100, 100),
    "fd/mean": Figure(0.8, None, 1000, 1000),
    "coverage": Figure(0.94, 0.01, 1000, 1000),
    "coverage_expected": Figure(0.9691, None, 1000, 1000, "a formula"),
    "clip_score": Figure(25.5, 0.25, 1000),
    "memorisation_gap": Figure(None, None, 1000, None, "no images were kept from training"),
}
NETWORKS = dict.fromkeys(("fd", "coverage", "memorisation_gap"), "cls-toy-12345678") | {"clip_score": "clip-b32-1"}


def test_pooled_figures_have_error_counts_network_and_note():
    lines = pooled_table(
        FIGURES, NETWORKS, {"clip_score": "prompt 'a {}'"}, over="over the classes' images"
    ).splitlines()
    assert [line.split()[0] for line in lines] == ["pooled", "fd", "coverage", "clip_score", "memorisation_gap"]
    assert lines[0].endswith("over the classes' images")
    assert lines[1].split()[1:7] == ["0.204", "±", "0.012", "1,000", "1,000", "cls-toy-12345678"]
    assert lines[1].endswith(NOTES["fd"])
    assert lines[2].endswith("higher is better; equal distributions: 0.9691")
    assert lines[3].split()[4:7] == ["1,000", "-", "clip-b32-1"] and lines[3].endswith("prompt 'a {}'")
    assert lines[4].split()[1:4] == ["-", "1,000", "-"]
    assert lines[4].endswith("no images were kept from training") and NOTES["memorisation_gap"] not in lines[4]


def test_columns_line_up():
    lines = pooled_table(FIGURES, NETWORKS, over="x").splitlines()
    assert (
        len({line.index(word) for line, word in zip(lines, ("network", "cls", "cls", "clip-", "cls"), strict=True)})
        == 1
    )


def test_no_pooled_figure_is_said():
    assert pooled_table({"fd/class/7": FIGURES["fd"]}, {}, over="x") == "pooled (x): no figure"
    assert "coverage_expected" not in pooled_table(FIGURES, {}, over="x")
    assert not set(NOTES) & {name for name, _ in BESIDE.values()}
