"""From text to a checked config: what is understood, and what is refused with the field's name."""

import json

import pytest

from configs.default import get_config
from diffusion.config import checked, from_json, load, override
from diffusion.errors import ConfigError

READ = [  # what the command line says, the field, its value
    ("seed=7", "seed", 7),
    ("seed=1_000", "seed", 1000),
    ("train.steps=2e3", "train.steps", 2000),
    ("optim.lr=3", "optim.lr", 3.0),
    ("optim.lr=1e-4", "optim.lr", 1e-4),
    ("sampler.guidance_scale=-1", "sampler.guidance_scale", -1.0),
    ("log.wandb=true", "log.wandb", True),
    ("log.tensorboard=False", "log.tensorboard", False),
    ("log.wandb=1", "log.wandb", True),
    ("sample.classes=3,3,7", "sample.classes", "3,3,7"),
    ("data.root=a=b", "data.root", "a=b"),
    ("data.root=", "data.root", ""),
    ("net.unet.mults=3", "net.unet.mults", (3,)),
    ("net.unet.mults=(1,2)", "net.unet.mults", (1, 2)),
    ("net.unet.mults=(1,)", "net.unet.mults", (1,)),
    ("net.unet.mults=1,2", "net.unet.mults", (1, 2)),
    ("net.unet.mults= [1, 2] ", "net.unet.mults", (1, 2)),
    ("net.unet.attention=()", "net.unet.attention", ()),
    ("net.unet.attention=", "net.unet.attention", ()),
    ("eval.metrics=fd", "eval.metrics", ("fd",)),
    ("eval.metrics=fd, kid", "eval.metrics", ("fd", "kid")),
    ("eval.metrics=('fd','kid')", "eval.metrics", ("fd", "kid")),
    ("resume.allow=optim.lr", "resume.allow", ("optim.lr",)),
]
REFUSED = [  # what the command line says, the field that is named, what else is said
    ("optim.lrr=1", "optim.lrr", "did you mean optim.lr?"),
    ("optin.lr=1", "optin.lr", "did you mean optim?"),
    ("net.unet.channel=8", "net.unet.channel", "did you mean net.unet.channels?"),
    ("zzz=1", "zzz", "the config has augment, balance, bench, checkpoint, cluster, "),
    ("=1", ": ", "there is no such field"),
    ("optim.adamw.zzz=1", "optim.adamw.zzz", "optim.adamw has b1, b2, eps, weight_decay"),
    ("optim.lr.x=1", "optim.lr.x", "optim.lr is a value, not a section"),
    ("optim=adamw", "optim", "this is a section; its fields are adam, adamw, "),
    ("seed", "seed", "no value given; write --config.seed=VALUE"),
    ("seed=many", "seed", "'many' is not a whole number"),
    ("seed=1.5", "seed", "1.5' is not a whole number"),
    ("seed=1.5e0", "seed", "1.5 is not a whole number"),
    ("seed=1e999", "seed", "not a whole number"),
    ("seed=True", "seed", "'True' is not a whole number"),
    ("seed=", "seed", "'' is not a whole number"),
    ("optim.lr=fast", "optim.lr", "'fast' is not a number"),
    ("optim.lr=nan", "optim.lr", "not a finite number"),
    ("optim.lr=-inf", "optim.lr", "not a finite number"),
    ("log.wandb=yes", "log.wandb", "'yes' is neither true nor false"),
    ("log.wandb=2", "log.wandb", "'2' is neither true nor false"),
    ("net.unet.mults=(1,", "net.unet.mults", "is not a list; write --config.net.unet.mults=a,b"),
    ("net.unet.mults=a,b", "net.unet.mults", "'a' is not a whole number"),
    ("net.unet.mults=1,2.5", "net.unet.mults", "2.5 is not a whole number"),
    ("net.unet.mults=(1, (2, 3))", "net.unet.mults", "(2, 3) is not a whole number"),
]
VALUES = [  # what a file says, the field that is named, what else is said
    ({"seed": True}, "seed", "True is not a whole number"),
    ({"seed": 1.0}, "seed", "1.0 is not a whole number"),
    ({"seed": None}, "seed", "None is not a whole number"),
    ({"seed": {"a": 1}}, "seed.a", "seed is a value, not a section"),
    ({"optim": {"lr": True}}, "optim.lr", "True is not a number"),
    ({"optim": {"lr": float("nan")}}, "optim.lr", "nan is not a finite number"),
    ({"optim": {"lrr": 1.0}}, "optim.lrr", "did you mean optim.lr?"),
    ({"optim": 3}, "optim", "this is a section"),
    ({"log": {"wandb": 1}}, "log.wandb", "1 is not true or false"),
    ({"net": {"name": 1}}, "net.name", "1 is not text"),
    ({"net": {"unet": {"mults": 1}}}, "net.unet.mults", "1 is not a list"),
    ({"net": {"unet": {"mults": ("1",)}}}, "net.unet.mults", "'1' is not a whole number"),
]


def value_of(config, path):
    for name in path.split("."):
        config = config[name]
    return config


@pytest.mark.parametrize("said, path, value", READ)
def test_what_the_command_line_says_is_understood(said, path, value):
    found = value_of(override(get_config().unlock(), [said]), path)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("said, field, problem", REFUSED)
def test_what_cannot_be_meant_is_refused(said, field, problem):
    with pytest.raises(ConfigError) as refused:
        override(get_config().unlock(), [said])
    assert str(refused.value).startswith(field) and problem in str(refused.value)
    assert "\n" not in str(refused.value) and refused.value.status == 2


@pytest.mark.parametrize("values, field, problem", VALUES)
def test_a_file_is_checked_like_the_command_line(values, field, problem):
    with pytest.raises(ConfigError) as refused:
        checked(values, get_config())
    assert str(refused.value).startswith(f"{field}: ") and problem in str(refused.value)


def test_types_are_the_defaults_whatever_was_set_before():
    config = override(get_config().unlock(), ["net.unet.attention=()"], get_config())
    with pytest.raises(ConfigError, match="'a' is not a whole number"):
        override(config, ["net.unet.attention=a"], get_config())


def test_a_later_assignment_wins_and_the_default_stays_as_it_was():
    default = get_config()
    config = override(get_config().unlock(), ["seed=1", "seed=2"], default)
    assert config.seed == 2 and default.seed == 0


FILES = [  # a config file, what is said about it
    ("def get_config():\n    return 1 / 0\n", "{path}:2 does not make a config: ZeroDivisionError: division by zero"),
    ("import nowhere_at_all\n", "{path}:1 does not make a config: ModuleNotFoundError"),
    ("def get_config(:\n", "{path}:1 does not make a config: SyntaxError"),
    ("x = 1\n", "{path} does not make a config: AttributeError"),
    ("def get_config():\n    return None\n", "does not make a config: AttributeError"),
    ("def get_config():\n    raise KeyError('a\\nb')\n", "{path}:2 does not make a config: KeyError"),
    (
        "from configs.default import get_config as d\ndef get_config():\n    c = d()\n    c.sed = 1\n    return c\n",
        "{path}:4 does not make a config: AttributeError",
    ),
    (
        "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict(dict(optim=dict(lrr=1)))\n",
        "optim.lrr: there is no such field; did you mean optim.lr?",
    ),
]


@pytest.mark.parametrize("source, said", FILES)
def test_a_config_file_that_fails_is_named_with_its_line(tmp_path, source, said):
    path = tmp_path / "mine.py"
    path.write_text(source)
    with pytest.raises(ConfigError) as refused:
        load(str(path), get_config())
    assert said.format(path=path) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "spec, said",
    [
        ("configs/digit.py", "there is no file configs/digit.py; did you mean configs/digits.py?"),
        ("digits.py", "did you mean configs/digits.py?"),
        ("elsewhere/nothing_like_it.txt", "there is no file elsewhere/nothing_like_it.txt"),
        ("pyproject.toml", "is not a Python file"),
        ("configs", "there is no file configs"),
        ("configs/from_json.py:nowhere.json", "--config: there is no nowhere.json"),
    ],
)
def test_a_file_that_is_not_a_config_is_named(spec, said):
    with pytest.raises(ConfigError) as refused:
        load(spec, get_config())
    assert said in str(refused.value)


def test_the_programs_own_configs_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load("configs/digits.py", get_config()).name == "digits"
    (tmp_path / "configs").mkdir()
    mine = "from configs.default import get_config as d\ndef get_config():\n    c = d().unlock()\n    c.name = 'mine'\n"
    (tmp_path / "configs" / "digits.py").write_text(mine + "    return c\n")
    assert load("configs/digits.py", get_config()).name == "mine", "the file that is here comes first"


def test_the_resolved_config_runs_again_and_is_the_same(tmp_path):
    said = ["net.unet.mults=1,2,4", "optim.lr=1e-5", "eval.metrics=()", "log.wandb=true", "sample.classes=3,3"]
    config = override(load("configs/digits.py", get_config()).unlock(), said)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.to_dict(), allow_nan=False))
    again = load(f"configs/from_json.py:{path}", get_config())
    assert again.to_dict() == config.to_dict() != get_config().to_dict()


@pytest.mark.parametrize(
    "text, said",
    [
        (None, "there is no"),
        ("{", "is not JSON"),
        ("[1]", "does not hold a config"),
        ('{"seed": NaN}', "seed: nan is not a whole number"),
        ('{"optim": {"lr": Infinity}}', "optim.lr: inf is not a finite number"),
        ('{"sed": 1}', "sed: there is no such field; did you mean seed?"),
    ],
)
def test_a_json_that_is_no_config_is_refused(tmp_path, text, said):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        from_json(path, get_config(), "--workdir")
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["0.05,0.10", "(0.05, 0.10)", "[0.05,0.10]", "('0.05', '0.10')"])
def test_items_of_a_list_of_text_stay_what_was_written(text):
    """An average is called 0.10, which as a number would be 0.1."""
    found = override(get_config().unlock(), [f"eval.emas={text}"]).eval.emas
    assert found == ("0.05", "0.10")
