"""Does a support set of five images say which digit to draw? configs/fewshot_digits.py against its baselines.

    python -m benchmarks.fewshot_digits [--seeds=0,1,2] [--workdir=runs/fewshot_table] [--only=NAME;…]

Trains every model of ``MODELS`` that is named with every seed (what is trained already is not trained again) and draws
``--per-class`` images from support sets of every digit. An SVC that the program does not know reads them. Of a digit
that training never saw: how often it is read where it is the support, against how often where another digit is; and
its FD excess beside that of the unconditional baseline. Intervals over seeds are Student's.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.digits_judge import pixels, svc

CONFIG = "configs/fewshot_digits.py"
MODELS = {
    "grid": ["--config=" + CONFIG],
    "film": ["--config=" + CONFIG + ":film"],
    "lag": ["--config=" + CONFIG + ":lag"],
    "both": ["--config=" + CONFIG + ":both"],
    "unconditional": ["--config=" + CONFIG, "--config.cond.names="],
}
BASELINE = "unconditional"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--workdir", type=Path, default=Path("runs/fewshot_table"))
    parser.add_argument("--only", default=f"grid;{BASELINE}", help="models by name, separated by semicolons")
    parser.add_argument("--per-class", type=int, default=100, help="images drawn from supports of each digit")
    given = parser.parse_args()
    seeds, names = [int(seed) for seed in given.seeds.split(",")], given.only.split(";")
    runs = {(name, seed): given.workdir / f"{name}_{seed}" for name in names for seed in seeds}
    for (name, seed), folder in runs.items():
        command(*MODELS[name], f"--workdir={folder}", f"--config.seed={seed}", f"--config.eval.seed={seed}")
    unseen, classes = split_of(runs[names[0], seeds[0]])
    read = {run: confusion(folder, len(classes), given.per_class) for run, folder in runs.items()}
    for name in names:
        say_reading(name, np.stack([read[name, seed] for seed in seeds]), unseen, classes)
    excess = {run: excess_of(folder) for run, folder in runs.items()}
    say_excess(names, seeds, excess, [classes[c] for c in unseen])


def command(*words: str) -> None:
    """One command of the program, which must succeed."""
    subprocess.run([sys.executable, "main_jax.py", *words], check=True)


def split_of(folder: Path) -> tuple[list[int], list[str]]:
    """(labels of the classes never trained on, names of all)."""
    classes = [str(c) for c in range(10)]
    test = json.loads((folder / "config.json").read_text())["data"]["test_classes"]
    return [classes.index(name) for name in test], classes


def confusion(folder: Path, k: int, n: int) -> np.ndarray:
    """f[k k]: the share of the images drawn from supports of class s that the judge reads as class r."""
    out = folder / "drawn"
    if not (out / "samples.npz").exists():
        counts = ",".join(f"{c}:{n}" for c in range(k))
        command(
            "--mode=sample", f"--workdir={folder}", f"--config.sample.classes={counts}", f"--config.sample.out={out}"
        )
    made = np.load(out / "samples.npz")
    answers = svc()[0].predict(pixels(made["images"]))
    return np.stack([np.bincount(answers[made["labels"] == s], minlength=k) / n for s in range(k)])


def say_reading(name: str, read: np.ndarray, unseen: list[int], classes: list[str]) -> None:
    """Of read f[seeds k k]: rates of each unseen digit with its own and with another's support, and of all of them."""
    print(f"\n{name}: share of images read as the digit, mean over {len(read)} seeds [95 % interval]")
    print("| digit | its own support | another digit's support | ratio |\n| --- | --- | --- | --- |")
    own = np.stack([read[:, d, d] for d in unseen], axis=1)
    others = np.stack([np.delete(read[:, :, d], d, axis=1).mean(1) for d in unseen], axis=1)
    rows = [*zip((classes[d] for d in unseen), own.T, others.T, strict=True), ("all", own.mean(1), others.mean(1))]
    for digit, right, wrong in rows:
        ratio = f"{right.mean() / wrong.mean():.1f}" if wrong.any() else "none of the others'"
        print(f"| {digit} | {interval(right)} | {interval(wrong)} | {ratio} |")


def interval(values: np.ndarray) -> str:
    """Mean and Student's 95 % interval of a few seeds."""
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{values.mean():.3f} [{values.mean() - half:.3f}, {values.mean() + half:.3f}]"


def excess_of(folder: Path) -> dict[str, float]:
    """FD excess by class, of the last evaluation, and the mean over seen and unseen classes."""
    body = json.loads(max((folder / "eval").glob("step_????????.json")).read_text())
    return {row["class"]: row["fd_excess"] for row in body["classes"]}


def say_excess(names: list[str], seeds: list[int], excess: dict, digits: list[str]) -> None:
    print(f"\nFD excess of the digits never trained on, by seed ({', '.join(map(str, seeds))})")
    print("| digit | " + " | ".join(names) + " |\n|" + " --- |" * (len(names) + 1))
    for digit in digits:
        cells = [", ".join(f"{excess[name, seed][digit]:.2f}" for seed in seeds) for name in names]
        print(f"| {digit} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
