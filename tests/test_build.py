"""Every field of a config is read, every row of every table can be chosen, and what cannot be is refused by name."""

import ast
import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs.default import get_config
from diffusion import build as building
from diffusion import settings, steps
from diffusion.augment import AUGMENTS
from diffusion.build import build
from diffusion.config import load, override
from diffusion.data.balance import BALANCES, CLASS_WEIGHTS
from diffusion.data.fewshot import fewshot
from diffusion.data.records import ArrayRecords, Dataset
from diffusion.data.sources import SOURCES
from diffusion.ema import EMAS
from diffusion.errors import ConfigError, DataError
from diffusion.extractors import EXTRACTORS, PERCEPTUAL
from diffusion.guidance import THRESHOLDS
from diffusion.lr_schedules import LR_SCHEDULES
from diffusion.nets.backbones import NETS
from diffusion.nets.codec import CODECS
from diffusion.nets.conditions import CONDITIONS, INJECT
from diffusion.nets.contexts import CONTEXTS
from diffusion.nets.set_encoders import SET_ENCODERS
from diffusion.objective import DENSITIES, WEIGHTINGS
from diffusion.optim import CLIPS, OPTIMIZERS
from diffusion.process import TARGETS, Process
from diffusion.program import abstract_params
from diffusion.sample_step import Guidance, Sampling, Weaker
from diffusion.samplers import GRIDS, SAMPLERS
from diffusion.schedules import SCHEDULES
from diffusion.state import count_parameters
from diffusion.tables import rows

REPO = Path(__file__).resolve().parent.parent
CHOICES = {  # the field that chooses a row of the table; its section holds the rows' own fields
    "data.source": SOURCES,
    "balance.sampling": BALANCES,
    "balance.loss": CLASS_WEIGHTS,
    "augment.name": AUGMENTS,
    "process.schedule": SCHEDULES,
    "process.target": TARGETS,
    "objective.density": DENSITIES,
    "objective.weighting": WEIGHTINGS,
    "codec.name": CODECS,
    "net.name": NETS,
    "cond.names": CONDITIONS,
    "context.encoder": SET_ENCODERS,
    "context.kind": CONTEXTS,
    "optim.name": OPTIMIZERS,
    "optim.clip": CLIPS,
    "optim.schedule": LR_SCHEDULES,
    "ema.name": EMAS,
    "eval.extractor": EXTRACTORS,
    "eval.perceptual": PERCEPTUAL,
    "sampler.name": SAMPLERS,
    "sampler.grid": GRIDS,
    "sampler.threshold": THRESHOLDS,
}
SECTIONS = sorted({field.partition(".")[0] for field in CHOICES})


def built(*said):
    return build(override(get_config().unlock(), said).lock())


@pytest.fixture
def compiled():
    """The names of all programs that XLA compiles during the test."""
    found, heard = [], True

    def listen(name, seconds, **about):
        if heard and "backend_compile" in name:
            found.append(about)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    heard = False  # JAX 0.7.2 cannot let go of a listener


class Recorder:
    """A ConfigDict that notes the path of every value read from it; records of the whole do not count."""

    def __init__(self, config, read, prefix=""):
        self.__dict__.update(_config=config, _read=read, _prefix=prefix)

    def __getitem__(self, name):
        value, path = self._config[name], self._prefix + name
        if isinstance(value, ConfigDict):
            return Recorder(value, self._read, path + ".")
        self._read.add(path)
        return value

    __getattr__ = __getitem__

    def __iter__(self):
        return iter(self._config)

    def keys(self):
        return self._config.keys()

    def to_dict(self):
        return self._config.to_dict()


def shared_fields(config):
    """Paths of the fields that belong to no row."""
    found = set()
    for name, value in config.items():
        inside = value.items() if isinstance(value, ConfigDict) else []
        found |= {f"{name}.{field}" for field, v in inside if not isinstance(v, ConfigDict)}
        found |= set() if isinstance(value, ConfigDict) else {name}
    return found


def unread(config):
    read = set()
    build(Recorder(config, read))
    return shared_fields(config) - read


def test_every_field_is_read():
    assert unread(get_config()) == set()


@pytest.mark.parametrize("section", [None, *sorted(k for k, v in get_config().items() if isinstance(v, ConfigDict))])
def test_a_field_that_nobody_reads_is_noticed(section):
    config = get_config().unlock()
    (config[section] if section else config).forgotten = 3
    path = f"{section}.forgotten" if section else "forgotten"
    try:
        assert unread(config) == {path}
    except TypeError as error:  # a section that is a settings class takes no other field
        assert "forgotten" in str(error)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_holds_its_rows_fields_and_no_others(section):
    tables = [table for field, table in CHOICES.items() if field.startswith(f"{section}.")]
    fields = {
        name: values.to_dict() for name, values in get_config()[section].items() if isinstance(values, ConfigDict)
    }
    assert fields == {name: values for table in tables for name, values in rows(table).items()}


@pytest.mark.parametrize("name, taken", [("karras", "a grid's"), ("steps", "a shared field's")])
def test_two_meanings_of_one_field_are_an_error(monkeypatch, name, taken):
    monkeypatch.setitem(THRESHOLDS, name, THRESHOLDS["dynamic"])
    with pytest.raises(TypeError, match=f"multiple values for keyword argument '{name}'"):
        get_config()


def test_the_tables_are_all_here():
    """A table that configs/default.py takes rows from is one of those that these tests walk."""
    tree = ast.parse((REPO / "configs" / "default.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "rows"]
    names = {call.args[0].id for call in calls}
    known = {name for name, value in globals().items() if any(value is table for table in CHOICES.values())}
    assert names == known


def stand_in(source, shape, classes):
    """A row like ``source``, with its fields, that knows a set without having it."""

    @functools.wraps(source)
    def row(root, seed, **fields):
        names = tuple(f"class {i}" for i in range(classes))
        named, sizes = fields.get("name", "images"), {"train": 50_000, "test": 10_000}
        split = {"train": tuple(range(classes - 1)), "test": (classes - 1,)} if source is fewshot else {}
        return Dataset(named, names, sizes, shape, labelled if split else None, shape == (32, 32, 4), split)

    def labelled(split):
        images = np.broadcast_to(np.zeros(shape, np.uint8), (4 * classes, *shape))
        return ArrayRecords(images, np.arange(4 * classes, dtype=np.int32) % classes, labelled=True)

    return row


STAND_INS = {  # recipe: its images and classes, of data that is not at hand, and the published net's parameters
    "cifar10_edm": ((32, 32, 3), 10, 55.7e6),
    "cifar10_flow": ((32, 32, 3), 10, 55.7e6),
    "cifar100": ((32, 32, 3), 100, 55.7e6),
    "ffhq64": ((64, 64, 3), 0, 61.8e6),
    "imagenet64_adm": ((64, 64, 3), 1000, 295.9e6),
    "imagenet256_dit": ((32, 32, 4), 1000, 675e6),
    "imagenet256_sit": ((32, 32, 4), 1000, 675e6),
    "jit_b16": (None, 1000, 131e6),
    "folder": ((40, 40, 1), 2, None),
    **{f"fewshot_{name}": ((32, 32, 3), 100, None) for name in ("cifar100", "miniimagenet")},
    "fewshot_omniglot": ((28, 28, 1), 1623, None),
    "fewshot_celeba": ((64, 64, 3), 6349, None),
}
NO_RECIPE = {"__init__", "from_json"}
RECIPES = sorted({p.stem for p in (REPO / "configs").glob("*.py")} - NO_RECIPE)
FEWSHOT = [name for name in RECIPES if name.startswith("fewshot_")]


@pytest.mark.parametrize("recipe", [*RECIPES, *(f"{name}.py:{inject}" for name in FEWSHOT for inject in INJECT)])
def test_every_config_builds(recipe, monkeypatch, compiled):
    name, _, inject = recipe.partition(".py:")
    config = load(f"configs/{name}.py:{inject}" if inject else f"configs/{name}.py", get_config())
    if name in STAND_INS:
        source = config.data.source
        shape, classes, _ = STAND_INS[name]
        monkeypatch.setitem(SOURCES, source, stand_in(SOURCES[source], shape, classes))
    program = build(config)
    assert program.name in (name, f"{name}_{inject}")
    assert jax.eval_shape(program.sampling.times).ndim == 1
    counted, published = count_parameters(abstract_params(program)), STAND_INS.get(name, (None,))[-1]
    assert counted == pytest.approx(published, rel=0.01) if published else counted > 0
    assert compiled == []


def legal(schedule, target):
    try:
        Process(SCHEDULES[schedule](), TARGETS[target]())
    except ValueError:
        return False
    return True


DECOUPLED = ("process.schedule=decoupled", "process.target=decoupled")
NEEDS = {  # what a row cannot do without
    ("net.name", "jit_b_16"): ["data.size=16"],
    **{(f"balance.{field}", "manual"): ["balance.manual.weights=3:2"] for field in ("sampling", "loss")},
    ("objective.weighting", "bounded_exp"): DECOUPLED,
    ("objective.weighting", "ddm"): DECOUPLED,
    ("sampler.name", "decoupled"): ["process.schedule=decoupled"],
    **{("sampler.grid", grid): ["process.schedule=linear"] for grid in ("leading", "linspace", "trailing")},
}
THIRD = {"decoupled_linear": ["sampler.name=decoupled"]}
LEGAL = [
    *(
        [f"process.schedule={s}", f"process.target={t}", *THIRD.get(t, [])]
        for s in SCHEDULES
        for t in TARGETS
        if legal(s, t)
    ),
    *(
        [f"{f}={row}", *NEEDS.get((f, row), [])]
        for f, table in CHOICES.items()
        if not f.startswith(("process.", "data.", "codec."))  # codecs go with their data: test_latents.py
        for row in table
    ),
    ["process.schedule=edm", "objective.density=lognormal", "objective.weighting=edm", "sampler.grid=karras"],
    ["cond.names=()"],
    ["net.dtype=bfloat16"],
    ["codec.name=random_conv", "sampler.threshold=none", "data.encodings=x"],
    ["optim.part_lrs=label:0.1,backbone:2", "optim.freeze=label:500"],
    ["optim.freeze=label:always", "optim.clip=adaptive"],
    ["objective.weighting=uncertainty", "process.schedule=edm", "optim.part_lrs=uncertainty:10"],
    ["augment.name=edm", "optim.freeze=augment:10"],
]


@pytest.mark.parametrize("said", LEGAL, ids=" ".join)
def test_every_row_can_be_chosen_and_nothing_is_compiled(said, compiled):
    program = built(*said)
    assert jax.eval_shape(program.sampling.times).shape == (26,)
    assert jax.eval_shape(program.optimiser.rate, jax.ShapeDtypeStruct((), "int32")).shape == ()
    assert compiled == [] or "sampler.name=decoupled" in said, "that rule looks at the schedule's values"


@pytest.mark.parametrize(
    "said, parts, rows",
    [
        (["mesh.data=2"], 2, 50),
        (["mesh.data=2", "optim.micro_batches=3"], 6, 54),
        (["mesh.data=2", "mesh.strict=32"], 32, 64),
        (["mesh.data=8", "mesh.strict=32"], 32, 64),
        (["mesh.data=2", "mesh.fsdp=4"], 8, 56),
    ],
    ids=str,
)
def test_rows_of_a_compiled_batch(said, parts, rows):
    program = built("data.batch_size=50", *said)
    assert (program.parts, program.rows) == (parts, rows)


def test_a_rows_own_fields_reach_it():
    assert built("sampler.name=ddim").sampling.rule.stochastic is False
    assert built("sampler.name=ddim", "sampler.ddim.eta=1").sampling.rule.stochastic is True
    narrow, wide = (built("process.target=edm", f"process.sigma_data={s}").diffusion.process for s in (0.25, 0.5))
    assert narrow.target.lines[0](narrow.coefficients(0.5)) != wide.target.lines[0](wide.coefficients(0.5))


@pytest.fixture
def small_data(tmp_path):
    """The same 12 images in archives and in folders: where each source finds them."""
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "small.npz", images=images, labels=np.arange(12) % 3)
    for i, image in enumerate(images):
        folder = tmp_path / "folders" / "abc"[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[:, :, 0]).save(folder / f"{i}.png")
    (tmp_path / "by_class").mkdir()
    np.savez(tmp_path / "by_class" / "train_small.npz", a=images[::3], b=images[1::3])
    np.savez(tmp_path / "by_class" / "test_small.npz", c=images[2::3])
    return {
        "npz": tmp_path / "small.npz",
        "folder": tmp_path / "folders",
        "fewshot": tmp_path / "by_class",
        "digits": "",
    }


@pytest.mark.parametrize("source", ["digits", "folder", "npz", "fewshot"])  # tfds and latents have files of their own
def test_every_source_can_be_chosen(source, small_data, compiled):
    said = [f"data.source={source}", f"data.root={small_data[source]}", "data.size=8", "data.channels=1"]
    program = built(*said)
    assert program.transform.shape == (8, 8, 1)
    assert len(program.dataset.classes) == (10 if source == "digits" else 3)
    assert compiled == []


def test_broken_data_is_found_before_step_0(tmp_path):
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="not a readable") as refused:
        built("data.source=npz", f"data.root={tmp_path / 'broken.npz'}")
    assert refused.value.status == 2


REFUSED = [  # what is said, the field that is named, what else
    (["data.source=digit"], "data.source", "'digit' is not one of: digits, tfds, folder, npz"),
    (["data.source=npz"], "data.root", "is empty"),
    (["data.source=folder", "data.root=nowhere"], "data.root", "does not exist"),
    (["data.source=fewshot", "data.root=tests"], "data.root", "no train_NAME.pkl or .npz"),
    (["data.source=fewshot", "data.root=tests", "data.fewshot.name=x"], "data.fewshot.name", "no train_x.pkl"),
    (["data.source=tfds", "data.root=nowhere"], "data.tfds.name", "not prepared"),
    (["data.digits.test_fraction=1"], "data.digits.test_fraction", ""),
    (["data.source=digits_folder"], "data.root", "is empty; give the folder that the digits are written to"),
    (["data.source=folder", "data.root=tests", "data.folder.test_fraction=1"], "data.folder.test_fraction", "is 1.0"),
    (["data.source=folder", "data.root=tests", "data.folder.val_fraction=1"], "data.folder.val_fraction", "is 1.0"),
    (["data.source=folder", "data.root=tests", "data.folder.duplicates=no"], "data.folder.duplicates", "report, raise"),
    (["data.source=digits_folder", "data.root=x", "data.digits_folder.kept=1"], "data.digits_folder.kept", "[3, 174]"),
    (
        ["data.source=digits_folder", "data.root=x", "data.digits_folder.split=/nowhere.json"],
        "data.digits_folder.split",
        "/nowhere.json is no split file",
    ),
    (["data.size=-2"], "data.size", "0 (as the data is) or -1 (derived"),
    (["data.channels=2"], "data.channels", "1 (grey), 3 (RGB)"),
    (["data.size=7"], "net.unet.mults", "must be divisible by 2"),
    (["data.batch_size=0"], "data.batch_size", "at least 1"),
    (["data.threads=-1"], "data.threads", "at least 0"),
    (["data.prefetch=0"], "data.prefetch", "at least 1"),
    (["data.on_error=ignore"], "data.on_error", "raise, skip"),
    (["data.max_skipped=0"], "data.max_skipped", "at least 1"),
    (["data.split_seed=-1"], "data.split_seed", "[0, 2**32)"),
    (["seed=-1"], "seed", "[0, 2**32)"),
    (["seed=4294967296"], "seed", "[0, 2**32)"),
    (["data.rotate=181"], "data.rotate", "degrees in [0, 180]"),
    (["data.rotate=-1"], "data.rotate", "degrees in [0, 180]"),
    (["data.jitter=1"], "data.jitter", "[0, 1)"),
    (["balance.sampling=even"], "balance.sampling", "none, inverse_frequency, effective_number, manual, upsample"),
    (["balance.loss=upsample"], "balance.loss", "'upsample' is not one of: none, inverse_frequency"),
    (["balance.sampling=upsample", "balance.upsample.ratio=0"], "balance.upsample.ratio", "in (0, 1]"),
    (["balance.sampling=downsample", "balance.downsample.ratio=2"], "balance.downsample.ratio", "in (0, 1]"),
    (["balance.loss=effective_number", "balance.effective_number.beta=1"], "balance.effective_number.beta", "[0, 1)"),
    (
        ["balance.sampling=inverse_frequency", "balance.inverse_frequency.power=-1"],
        "balance.inverse_frequency.power",
        "at least 0",
    ),
    (["balance.sampling=manual"], "balance.manual.weights", "is empty; write for example Abnormal:3"),
    (
        ["balance.loss=manual", "balance.manual.weights=11:3"],
        "balance.manual.weights",
        "'11' is no class, nor an index",
    ),
    (["balance.sampling=manual", "balance.manual.weights=3"], "balance.manual.weights", "'3' is not CLASS:WEIGHT"),
    (["balance.sampling=manual", "balance.manual.weights=3:x"], "balance.manual.weights", "'x' is not a number"),
    (["balance.sampling=manual", "balance.manual.weights=3:0"], "balance.manual.weights", "must be positive"),
    (["balance.sampling=manual", "balance.manual.weights=3:nan"], "balance.manual.weights", "must be positive"),
    (["balance.sampling=manual", "balance.manual.weights=3:1,3:2"], "balance.manual.weights", "names '3' twice"),
    (
        ["balance.sampling=manual", "balance.manual.weights=3:2", "data.test_classes=3"],
        "balance.manual.weights",
        "names '3', of which no image is trained on",
    ),
    (["balance.sampling=upsample", "cond.names=set"], "balance.sampling", "draws sets of images in its own way"),
    (["balance.loss=effective_number", "cond.names=set"], "balance.loss", "draws sets of images in its own way"),
    (["augment.name=adm"], "augment.name", "'adm' is not one of: none, edm"),
    (["augment.name=edm", "augment.edm.p=2"], "augment.edm.p", "[0, 1]"),
    (["augment.name=edm", "augment.edm.rotate=-1"], "augment.edm.rotate", "0 or more"),
    (["augment.name=edm", "data.flip=true"], "data.flip", "as augment.name=edm does"),
    (["process.schedule=cosin"], "process.schedule", "linear, scaled_linear, quadratic, cosine"),
    (["process.schedule=flow", "process.target=eps"], "process", "schedule=flow with target=eps"),
    (["process.schedule=flow", "process.target=decoupled"], "process", "take the decoupled schedule"),
    (
        ["process.schedule=decoupled", "process.target=decoupled_linear", "objective.weighting=unit"],
        "sampler.name",
        "ddim leaves out K",
    ),
    (["process.schedule=vp", "process.target=learned_variance"], "process", "this schedule has none"),
    (["process.cosine.zero_snr=true", "process.target=eps"], "process", "alpha is exactly 0"),
    (
        ["process.target=learned_variance", "process.learned_variance.vlb=-1"],
        "process.learned_variance.vlb",
        "negative",
    ),
    (["process.sigma_data=0"], "process", "sigma_data is 0.0"),
    (["process.cosine.s=-1"], "process.cosine.s", "must be positive"),
    (["objective.density=even"], "objective.density", "uniform, stratified"),
    (["objective.density=logit_normal", "process.schedule=edm"], "objective.logit_normal", "take lognormal"),
    (["objective.weighting=heavy"], "objective.weighting", "unit, min_snr, soft_min_snr, p2, edm"),
    (["objective.weighting=ddm"], "objective.weighting", "ddm weighs the heads C and eps: take it with the decoupled"),
    (["objective.weighting=min_snr", *DECOUPLED], "objective.weighting", "several heads share: take unit, bounded_exp"),
    (["objective.weighting=velocity", "process.schedule=edm"], "objective.weighting", "take edm"),
    (["objective.velocity.t_floor=1", "objective.weighting=velocity"], "objective.velocity.t_floor", "(0, 1)"),
    (["objective.density=importance", "objective.importance.floor=0"], "objective.importance.floor", "(0, 1]"),
    (["codec.name=vae"], "codec.name", "pixels"),
    (["codec.name=random_conv", "codec.random_conv.channels=6"], "codec.random_conv.channels", "even and in [1, 4]"),
    (["codec.name=random_conv"], "sampler.threshold", "latents are unbounded"),
    (["data.encodings=x"], "data.encodings", "pixels encodes nothing that is worth keeping: leave it empty"),
    (["encode.dtype=bfloat16"], "encode.dtype", "float32 or float16"),
    (["encode.shard_mb=0"], "encode.shard_mb", "at least 1"),
    (["net.name=resnet"], "net.name", "unet, unet_cifar"),
    (["net.name=dit", "net.dit.patch=3"], "net.dit.patch", "must divide the image size, 8"),
    (["net.dtype=float16"], "net.dtype", "float32, bfloat16"),
    (["net.unet.attention=(5,)"], "net.unet.attention", "the levels are (0, 1)"),
    (["net.unet.groups=5"], "net.unet.channels", "divisible"),
    (["net.unet.dropout=1"], "net.unet.dropout", "[0, 1)"),
    (["cond.names=text"], "cond.names", "'text' is not one of: label"),
    (["cond.drop=2"], "cond.drop", "[0, 1]"),
    (["cond.label.d=0"], "cond.label.d", "positive"),
    (["cond.names=label,set"], "cond.label.d", "is 128, and the vectors of sets, to which it is added, have 256"),
    (["context.inject=cross"], "context.inject", "film, lag, both, grid, all"),
    (["context.channels=0"], "context.channels", "at least 1"),
    (["cond.names=set", "context.vit.patch=3"], "context.vit.patch", "must divide the image size, 8"),
    (["cond.names=set", "context.vit.pool=max"], "context.vit.pool", "cls, mean, sum"),
    (["cond.names=set", "sets.size=1"], "sets.size", "at least 2 is needed: leave_one_out takes the target out"),
    (["cond.names=set", "sets.min_size=7"], "sets.min_size", "must lie in [2, size=6]"),
    (["cond.names=set", "sets.targets=7"], "sets.targets", "a set of 6 has 1 to 6"),
    (["optim.name=adamx"], "optim.name", "adamw, adam"),
    (["optim.clip=adaptive", "net.name=dit"], "optim.clip", "net.dit.scan=false"),
    (["optim.lr=0"], "optim.lr", "must be positive"),
    (["optim.micro_batches=0"], "optim.micro_batches", "at least 1"),
    (["optim.adamw.b1=1"], "optim.adamw.b1", "not in [0, 1)"),
    (["optim.part_lrs=set:0.1"], "optim.part_lrs", "'set', in 'set:0.1', is not a part of this net; they are"),
    (["optim.part_lrs=conditioners_label:0.1"], "optim.part_lrs", "they are backbone, label"),
    (["optim.part_lrs=label:0.1,label:1"], "optim.part_lrs", "names 'label' twice"),
    (["optim.part_lrs=label"], "optim.part_lrs", "'label' is not PART:VALUE"),
    (["optim.part_lrs=label:a tenth"], "optim.part_lrs", "'a tenth' is not a number"),
    (["optim.part_lrs=label:-0.1"], "optim.part_lrs", "-0.1 is not a finite number >= 0"),
    (["optim.part_lrs=label:nan"], "optim.part_lrs", "nan is not a finite"),
    (["optim.part_lrs=label:inf"], "optim.part_lrs", "inf is not a finite"),
    (["optim.part_lrs=label:0,backbone:0"], "optim.part_lrs", "nothing to train: the net's parts are backbone, label"),
    (["optim.freeze=set:always"], "optim.freeze", "'set', in 'set:always', is not a part"),
    (["optim.freeze=label:5,label:always"], "optim.freeze", "names 'label' twice"),
    (["optim.freeze=label:"], "optim.freeze", "'label:' is not PART:VALUE; write for example backbone:500"),
    (["optim.freeze=label:never"], "optim.freeze", "'never' is neither a number of updates"),
    (["optim.freeze=label:0"], "optim.freeze", "'0' is neither"),
    (["optim.freeze=label:1.5"], "optim.freeze", "'1.5' is neither"),
    (["optim.freeze=label:2147483648"], "optim.freeze", "from 1 to 2147483647"),
    (["optim.freeze=label:always,backbone:always"], "optim.freeze", "leaves nothing to train"),
    (["optim.freeze=label:always", "optim.part_lrs=backbone:0"], "optim.freeze", "leaves nothing to train"),
    (["init_parts=set:a.safetensors"], "init_parts", "'set', in 'set:a.safetensors', is not a part"),
    (["init_parts=label:a.safetensors,label:runs/b"], "init_parts", "names 'label' twice"),
    (["init_parts=label"], "init_parts", "is not PART:VALUE; write for example backbone:FILE.safetensors"),
    (["init_parts=label:/nowhere/a.safetensors"], "init_parts", "there is no file /nowhere/a.safetensors"),
    (["init_parts=label:/nowhere"], "init_parts", "/nowhere is neither a .safetensors file nor the folder of a run"),
    (["init_parts=label:/nowhere:last"], "init_parts", "'last', after the colon of /nowhere:last, must be latest"),
    (["optim.schedule=cosin"], "optim.schedule", "warmup_cosine"),
    (["train.steps=100"], "optim.warmup_cosine.warmup_steps", "leaves nothing of 100 steps"),
    (["optim.clip=hard"], "optim.clip", "none, global_norm, adaptive"),
    (["optim.global_norm.max_norm=-1"], "optim.global_norm.max_norm", "> 0"),
    (["ema.name=none"], "ema.name", "constant"),
    (["ema.every=0"], "ema.every", "at least 1"),
    (["ema.constant.decay=1"], "ema.constant.decay", "[0, 1)"),
    (["ema.name=halflife", "ema.halflife.updates=0"], "ema.halflife.updates", "not positive"),
    (["ema.name=power", "ema.power.sigma_rels=0.3"], "ema.power.sigma_rels", "(0, 0.2887)"),
    (["ema.name=power", "ema.use=0.07"], "ema.use", "'0.07' is not one of: 0.05, 0.10"),
    (["train.steps=0"], "train.steps", "at least 1"),
    (["train.max_minutes=-1"], "train.max_minutes", "at least 0"),
    (["train.max_bad_steps=0"], "train.max_bad_steps", "at least 1"),
    (["train.max_loss=-1"], "train.max_loss", "at least 0"),
    (["val.every=-1"], "val.every", "at least 0"),
    (["checkpoint.every=0"], "checkpoint.every", "at least 1"),
    (["checkpoint.resume=sometimes"], "checkpoint.resume", "auto or never"),
    (["checkpoint.best_metric=los"], "checkpoint.best_metric", "'los' is not measured by this run; allowed: loss"),
    (["checkpoint.best_metric=eval/fd", "eval.metrics=()"], "checkpoint.best_metric", "not measured"),
    (["checkpoint.best_metric=val/loss", "val.every=0"], "checkpoint.best_metric", "not measured"),
    (["checkpoint.best_mode=low"], "checkpoint.best_mode", "auto, min, max"),
    (["eval.metrics=fx"], "eval.metrics", "'fx' is not one of: fd"),
    (["eval.metrics=fid", "eval.inception.tap=768"], "eval.inception.tap", "fid is taken on 2048"),
    (["eval.perceptual=vgg"], "eval.perceptual", "lpips, classifier"),
    (["eval.guidance_scales=1", "sampler.guidance_scales=label:2"], "eval.guidance_scales", "by condition"),
    (["eval.extractor=resnet"], "eval.extractor", "classifier"),
    (["eval.reference_split=val"], "eval.reference_split", "train, test"),
    (["data.size=-1", "net.unet.mults=1,1,1,1,1"], "net.unet.mults", "must be divisible by 16"),
    (["eval.support_split=val"], "eval.support_split", "train, test"),
    (["eval.support_size=-1"], "eval.support_size", "at least 0"),
    (["eval.data=digits"], "eval.data", "training is evaluated on its own data"),
    (["eval.num_samples_per_class=0"], "eval.num_samples_per_class", "at least 1"),
    (["eval.step=last"], "eval.step", "latest, best, all or a number"),
    (["sampler.name=ddimm"], "sampler.name", "ddpm, ddim"),
    (["sampler.name=decoupled"], "sampler.name", "decoupled: this rule needs alpha = 1 - t, sigma = sqrt(t)"),
    (["sampler.name=ddpm", "sampler.ddpm.variance=learned"], "sampler.name", "ddpm: variance is 'learned', but the"),
    (["process.schedule=flow", "sampler.grid=leading"], "sampler.leading", "this schedule is continuous"),
    (["sampler.guidance_scales=label:2,label:3"], "sampler.guidance_scales", "names a condition twice"),
    (["sampler.autoguidance=runs/other:abc"], "sampler.autoguidance", "'abc', after the colon, must be latest"),
    (["sampler.autoguidance=runs/other:"], "sampler.autoguidance", "'', after the colon"),
    (["sampler.heun.s_churn=-1", "sampler.name=heun"], "sampler.heun.s_churn", "negative"),
    (["sampler.guidance_interval=3"], "sampler.guidance_interval", "two numbers"),
    (["sampler.guidance_interval=3,2"], "sampler.guidance_interval", "0 <= low < high"),
    (["sampler.guidance_rescale=1.5"], "sampler.guidance_rescale", "[0, 1]"),
    (["sampler.guidance_scales=label"], "sampler.guidance_scales", "'label' is not NAME:NUMBER"),
    (["sampler.guidance_scales=text:2"], "sampler.guidance_scales", "'text' is not one of: label"),
    (["sampler.autoguidance=/nowhere:3"], "sampler.autoguidance", "there is no /nowhere/config.json"),
    (["sample.t0=0"], "sample.t0", "(0, 1]"),
    (["sample.t0=.5"], "sample.t0", "give sample.start"),
    (["sample.mask=a.png"], "sample.mask", "give sample.start"),
    (["sample.interpolate=3", "sample.start=a.png"], "sample.interpolate", "without start"),
    (["sample.support=a.png", "sample.classes=3"], "sample.support", "take it without classes"),
    (["sampler.steps=0"], "sampler.steps", "at least 1"),
    (["sampler.grid=even"], "sampler.grid", "uniform, logsnr, karras"),
    (["sampler.grid=karras", "sampler.karras.rho=0"], "sampler.karras.rho", "rho > 0"),
    (["sampler.threshold=soft"], "sampler.threshold", "none, clip, dynamic"),
    (["sampler.threshold=dynamic", "sampler.dynamic.maximum=1"], "sampler.dynamic.maximum", "exceed 1"),
    (["sampler.ddim.eta=2"], "sampler.ddim.eta", "[0, 1]"),
    (["sample.num=0"], "sample.num", "at least 1"),
    (["sample.step=last"], "sample.step", "latest, best or a number"),
    (["usefulness.seeds=0"], "usefulness.seeds", "at least 1"),
    (["usefulness.oversample=0.5"], "usefulness.oversample", "at least 1"),
    (["usefulness.lr=0"], "usefulness.lr", "above 0"),
    (["usefulness.counts=3:0"], "usefulness.counts", "'0' where a count of 1 or more"),
    (["usefulness.counts=3:9,11:9"], "usefulness.counts", "'11' is no class"),
    (["usefulness.small=3,3"], "usefulness.small", "names a class twice"),
    (["usefulness.step=all"], "usefulness.step", "latest, best or a number"),
    (["usefulness.seed=4294967295"], "usefulness.seed", "[0, 2**32)"),
    (["mesh.data=9"], "mesh.data", "there are 8"),
    (["mesh.fsdp=0"], "mesh.fsdp", "1 leaves the state whole"),
    (["mesh.fsdp=3"], "mesh.fsdp", "does not divide the 8 devices"),
    (["mesh.fsdp=4", "mesh.data=4"], "mesh.data", "4 times mesh.fsdp=4 devices asked for; there are 8"),
    (["mesh.fsdp=2", "mesh.strict=16"], "mesh.strict", "take mesh.fsdp=1"),
    (["mesh.strict=-8"], "mesh.strict", "a power of two, or 0"),
    (["mesh.strict=24"], "mesh.strict", "a power of two, or 0"),
    (["mesh.strict=8"], "mesh.strict", "8 slices for 8 devices; at least 16 are needed"),
    (["mesh.strict=16", "mesh.data=6"], "mesh.strict", "16 slices for 6 devices; their number must be a power of two"),
    (["mesh.strict=16", "optim.micro_batches=2"], "mesh.strict", "take optim.micro_batches=1"),
    (["log.every=0"], "log.every", "at least 1"),
]


@pytest.mark.parametrize("said, field, problem", REFUSED, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_what_cannot_run_is_refused_by_the_fields_name(said, field, problem):
    with pytest.raises(ConfigError) as refused:
        built(*said)
    assert str(refused.value).startswith(f"{field}: ") and problem in str(refused.value)
    assert refused.value.status == 2 and "\n" not in str(refused.value)


def test_what_data_without_labels_cannot_have(tmp_path):
    np.savez(tmp_path / "plain.npz", images=np.zeros((10, 8, 8, 1), np.uint8))
    said = ["data.source=npz", f"data.root={tmp_path / 'plain.npz'}"]
    for more, field in (["eval.metrics=()"], "cond.names"), (["cond.names=()"], "eval.metrics"):
        with pytest.raises(ConfigError, match=f"^{field}: .*plain has no labels"):
            built(*said, *more)
    assert built(*said, "cond.names=()", "eval.metrics=()").diffusion.net.conditions == ()
    for field in ("balance.sampling", "balance.loss"):
        with pytest.raises(ConfigError, match=f"^{field}: is inverse_frequency, and plain has no labels"):
            built(*said, "cond.names=()", "eval.metrics=()", f"{field}=inverse_frequency")


@functools.cache
def attributes_read():
    """Names that the program reads as attributes of anything but a config."""
    found = set()
    for path in (REPO / "diffusion").rglob("*.py"):
        nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)]
        read = [n for n in nodes if isinstance(n.ctx, ast.Load) and not ast.unparse(n).startswith(("c.", "config."))]
        found |= {n.attr for n in read}
    return found


SETTINGS = [c for c in vars(settings).values() if dataclasses.is_dataclass(c)]


@pytest.mark.parametrize(
    "kind",
    [
        *SETTINGS,
        building.Loading,
        Sampling,
        Guidance,
        Weaker,
        building.Program,
        steps.Diffusion,
        steps.Optimiser,
    ],
    ids=lambda kind: kind.__name__,
)
def test_every_setting_is_used(kind):
    assert {field.name for field in dataclasses.fields(kind)} <= attributes_read()


@pytest.mark.parametrize(
    ("fields", "halves"),
    [
        ([], True),
        (["net.name=edm2"], True),
        (["net.name=dit"], False),
        (["net.name=jit_b_16"], False),
        (["net.name=dit", "mesh.data=1"], False),
        (["net.name=dit", "mesh.data=2"], True),
        (["net.name=dit", "mesh.fsdp=2"], True),
        (["net.name=none_such"], True),  # `build` refuses it by name
    ],
)
def test_a_cpu_is_split_for_convolutions_or_where_somebody_asks(fields, halves):
    assert building.halves_on_cpu(override(get_config().unlock(), fields)) == halves
