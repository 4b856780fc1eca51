"""Imports only point down, and each library stays in the rooms that may know it."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent

LAYERS = (
    "types tables errors",
    """betas schedules target decoupled learned_variance process densities objective guidance samplers rule onestep
    multistep grids augment metrics keys""",
    "nets",
    """optim lr_schedules ema state steps data mesh checkpoint manifest restoring leaves resume best settings
    writers destinations progress pictures extractors classifier_fit weights eval_report config flops
    environment compile_cache heap memory peaks liveness window cluster launchers disk filelist agreement stepfolder
    frames lifetimes saving feature_chunks batch_losses reduction inspection snapshots posthoc sample_step start_images
    canvas eval_console eval_pooled eval_tables class_figure eval_curves eval_sheets weight_files tensor_files plan
    announced given_images reference_statistics tokeniser parts part_rules part_files saved_ema
    usefulness""",
    "program",
    "build",
    """generate evaluate feed runs supports drawing networks reference subjects compared variants validation evaluations
    encoded encode frozen planned drawn_rows beside metric_needs initial splits candidates costs footprint""",
    "train ends modes describe bench signals events bad_steps logbook",
    "main_jax",
)
LAYER = {room: i for i, rooms in enumerate(LAYERS) for room in rooms.split()}

MATHEMATICS = {
    *("betas", "schedules", "target", "decoupled", "learned_variance", "process", "densities", "objective"),
    *("guidance", "samplers", "rule", "onestep", "multistep", "grids", "augment"),
}
MATHEMATICS_MAY = {
    *("jax", "__future__", "dataclasses", "typing", "functools", "math", "collections.abc"),
    *(f"diffusion.{room}" for room in MATHEMATICS | {"types", "tables"}),
}
# A library, and the only rooms that may import it.
ONLY = {
    "flax.linen": {"nets"},
    "ml_collections": {"config", "build", "main_jax"},
    "configs": {"config", "build", "main_jax"},
    "tensorflow": set(),
    "clu.metric_writers": set(),
    "clu.periodic_actions": set(),
}
# Slow to import, so never at module level: `--mode=describe` must start at once.
HEAVY = ("grain", "sklearn", "tensorflow_datasets", "orbax", "wandb", "tensorboard", "matplotlib")


def sources() -> dict[str, str]:
    """Dotted name to source text, for the program and every module of the package."""
    paths = [*sorted((REPO / "diffusion").rglob("*.py")), *REPO.glob("main_jax.py")]
    names = [".".join(path.relative_to(REPO).with_suffix("").parts) for path in paths]
    return {n.removesuffix(".__init__"): p.read_text() for n, p in zip(names, paths, strict=True)}


def problems(modules: Mapping[str, str]) -> list[str]:
    """One line for every import that breaks a rule, and for every module without a layer."""
    found = [f"{name} has no layer" for name in modules if name != "diffusion" and room(name) not in LAYER]
    edges: dict[str, set[str]] = {}
    for name, source in modules.items():
        tree = ast.parse(source)
        imports = set(imported(ast.walk(tree), modules))
        edges[name] = {target for target in imports if target in modules and target != name}
        found += [f"{name} imports {target}: {why}" for target in imports if (why := wrong(name, target))]
        found += [
            f"{name} imports {target} at module level: it is slow to import, do it inside the function"
            for target in imported(at_module_level(tree), modules)
            if any(within(target, heavy) for heavy in HEAVY)
        ]
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as cycle:
        found.append(f"imports go round: {' -> '.join(cycle.args[1])}")
    return sorted(found)


def wrong(name: str, target: str) -> str | None:
    here, there = room(name), room(target)
    if target.startswith("."):
        return "write the whole name"
    if there in LAYER and LAYER[there] > LAYER.get(here, 0):
        return f"layer {LAYER[there]} lies above layer {LAYER.get(here, 0)}"
    if here in MATHEMATICS and not any(within(target, known) for known in MATHEMATICS_MAY):
        return "mathematics knows jax, the standard library's types and itself"
    if here == "metrics" and within(target, "jax"):
        return "metrics are NumPy"
    for library, rooms in ONLY.items():
        if within(target, library) and here not in rooms:
            return f"only {', '.join(sorted(rooms)) or 'nobody'} may"
    return None


def room(name: str) -> str:
    """``diffusion.metrics.kid -> metrics``; other packages have no room."""
    parts = name.split(".")
    if parts[0] == "diffusion":
        return parts[1] if len(parts) > 1 else ""
    return name if name == "main_jax" else ""


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def imported(nodes: Iterator[ast.AST], modules: Mapping[str, str]) -> Iterator[str]:
    """Full names: ``from flax import linen`` is flax.linen, a name out of one of our modules the module."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for full in (f"{base}.{alias.name}" for alias in node.names):
                yield base if base in modules and full not in modules else full


def at_module_level(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from at_module_level(child)


def test_imports_of_the_program():
    assert problems(sources()) == []


def test_all_modules_are_seen():
    assert {"diffusion.types", "diffusion.writers"} <= set(sources())


@pytest.mark.parametrize(
    "name, source, said",
    [
        ("diffusion.novelty", "", "no layer"),
        ("diffusion.nets.unet", "import diffusion.train", "layer 7 lies above layer 2"),
        ("diffusion.evaluate", "def f():\n  from diffusion import train", "layer 7 lies above layer 6"),
        ("diffusion.process", "import numpy", "mathematics"),
        ("diffusion.process", "from diffusion.nets import unet", "layer 2 lies above layer 1"),
        ("diffusion.process", "import diffusion.metrics", "mathematics"),
        ("diffusion.metrics.kid", "from jax import numpy", "metrics are NumPy"),
        ("diffusion.optim", "from flax import linen as nn", "only nets may"),
        ("diffusion.train", "import ml_collections", "only build, config, main_jax may"),
        ("diffusion.data.sources", "def f():\n  import tensorflow as tf", "only nobody may"),
        ("diffusion.writers", "try:\n  import wandb\nexcept ImportError:\n  pass", "at module level"),
        ("diffusion.writers", "from clu import metric_writers", "only nobody may"),
        ("diffusion.mesh", "from . import types", "write the whole name"),
    ],
)
def test_a_wrong_import_is_named(name, source, said):
    found = problems({"diffusion.train": "", "diffusion.types": "", name: source})
    assert any(name in line and said in line for line in found)


def test_a_right_import_passes():
    inside = "import math\nfrom jax import numpy as jnp\nfrom diffusion.types import Batch"
    lazy = "import jax\ndef f():\n  import wandb\n  import tensorflow_datasets"
    assert problems({"diffusion.process": inside, "diffusion.writers": lazy, "diffusion.types": ""}) == []


def test_a_circle_is_named():
    circle = {"diffusion.state": "import diffusion.steps", "diffusion.steps": "from diffusion import state"}
    assert any("go round" in line for line in problems(circle))


def test_importing_everything_is_quick():
    """No module brings in TensorFlow or a slow library through another one (Flax itself imports Orbax)."""
    names = [name for name in sources() if name.startswith("diffusion")]
    slow = {"tensorflow", *HEAVY} - {"orbax"}
    code = f"import sys\nfor name in {names}: __import__(name)\nprint({slow} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
