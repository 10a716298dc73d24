"""deploy.toml: what is read, and what is said about a file that is wrong."""

from dataclasses import fields
from pathlib import Path

import pytest

from edgec.pipeline import config as reader
from edgec.pipeline.config import load, target
from edgec.pipeline.config_limits import LIMITS
from edgec.pipeline.core.errors import ConfigError
from edgec.pipeline.core.records import Precision
from edgec.pipeline.core.settings import Config, TargetSettings, TransportKind
from edgec.pipeline.toml_lines import line_of, lines_from

ROOT = Path(__file__).resolve().parents[2]

GOOD = """\
schema = 1
[model]
builder = "net:build"
weights = "w/net.safetensors"
[data]
name = "fashion-mnist-small"
"""


def read(tmp_path: Path, text: str, environment: dict[str, str] | None = None, overrides: dict[str, str] | None = None) -> Config:
    file = tmp_path / "deploy.toml"
    file.write_text(text, encoding="utf-8")
    return load(file, environment=environment or {}, overrides=overrides or {})


def problems(tmp_path: Path, text: str, environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, environment)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    return list(caught.value.problems) or [caught.value.what]


BAD = {
    "unknown key": ("[train]\nbtach = 3", "deploy.toml:8: [train] btach is unknown; did you mean batch?"),
    "key of another table": ("[prune]\nbatch = 3", "deploy.toml:8: [prune] batch is unknown; batch belongs to [train] or [measure]"),
    "unknown table": ("[trian]\nbatch = 3", "deploy.toml:7: the table [trian] is unknown; did you mean [train]?"),
    "text for a whole number": ('[train]\nbatch = "many"', "deploy.toml:8: [train] batch must be a whole number, is 'many'"),
    "digits in quotes": ('[train]\nbatch = "32"', "deploy.toml:8: [train] batch must be a whole number, is '32'"),
    "fraction for a whole number": ("[train]\n\nbatch = 1.5", "deploy.toml:9: [train] batch must be a whole number, is 1.5"),
    "true for a number": ("[train]\nlr = true", "deploy.toml:8: [train] lr must be a number, is true"),
    "text for a switch": ('[train]\naugment = "yes"', "deploy.toml:8: [train] augment must be true or false, is 'yes'"),
    "number for a text": ("[train]\ndevice = 1", "deploy.toml:8: [train] device must be a text in quotes, is 1"),
    "text for a list": ('[objective]\nsubject_to = "x"', "deploy.toml:8: [objective] subject_to must be a list, is 'x'"),
    "closed list": ('[train]\ndevice = "tpu"', "deploy.toml:8: [train] device must be one of auto, cpu, cuda, is 'tpu'"),
    "enum": ('[quantise]\nprecision = "int4"', "deploy.toml:8: [quantise] precision must be one of auto, fp32, fp16, int8, is 'int4'"),
    "list item": (
        '[gate]\nprovenance = ["measured", "guessed"]',
        "deploy.toml:8: [gate] provenance must list only values one of measured, emulated, replayed, simulated, is 'guessed'",
    ),
    "open range": ("[prune]\nstep = 1.0", "deploy.toml:8: [prune] step must be between 0 and 1, is 1.0"),
    "rewind without weights": (
        '[prune]\nrewind = "weights+lr"',
        'deploy.toml:8: [prune] rewind "weights+lr" needs rewind_weights, the dense network\'s weights at an early epoch (safetensors)',
    ),
    "weights without rewind": (
        '[prune]\nrewind_weights = "early.safetensors"',
        'deploy.toml:8: [prune] rewind_weights is only read with rewind = "weights+lr"',
    ),
    "negative epochs": ("[train]\nepochs = -1", "deploy.toml:8: [train] epochs must be at least 0, is -1"),
    "not a number": ("[train]\nlr = nan", "deploy.toml:8: [train] lr must be greater than 0, is nan"),
    "infinite": ("[measure.rule]\nmax_time_s = inf", "deploy.toml:8: [measure.rule] max_time_s must be greater than 0, is inf"),
    "nested unknown": ("[measure.probe]\nmin_cuont = 1", "deploy.toml:8: [measure.probe] min_cuont is unknown; did you mean min_count?"),
    "inline table": ("[measure]\nrule = { block_s = 0 }", "deploy.toml:8: [measure.rule] block_s must be greater than 0, is 0"),
    "argument": ("[model.arguments]\na = [1]", "deploy.toml:8: [model.arguments] a must be a text, a number or true/false, is a list"),
    "single brackets": ('[target]\nname = "a"', "deploy.toml:7: targets are written as [[target]], in two brackets"),
    "target without name": ('[[target]]\nhost = "h"', "deploy.toml:7: [[target]] 1 name is missing"),
    "target transport": (
        '[[target]]\nname = "a"\ntransport = "usb"',
        "deploy.toml:9: [[target]] 1 transport must be 'local' or 'ssh', is 'usb'",
    ),
    "target port": (
        '[[target]]\nname = "a"\n[[target]]\nname = "b"\nport = 0',
        "deploy.toml:11: [[target]] 2 port must be from 1 to 65535, is 0",
    ),
    "two of a name": (
        '[[target]]\nname = "a"\n[[target]]\nname = "a"',
        "deploy.toml:10: two targets have the name 'a': a name is used once",
    ),
    "name as a path": (
        '[[target]]\nname = "../a"',
        "deploy.toml:8: [[target]] 1 name must be a name of letters, digits, '-', '_' and '.', is '../a'",
    ),
    "our own field": ("[targets]\nx = 1", "deploy.toml:7: the table [targets] is unknown; did you mean [[target]]?"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_value_is_told_with_line_and_remedy(tmp_path: Path, case: str) -> None:
    text, expected = BAD[case]
    assert problems(tmp_path, GOOD + text) == [expected]


def test_network_of_ours_is_named(tmp_path: Path) -> None:
    config = read(tmp_path, GOOD.replace('builder = "net:build"', 'name = "shufflenet_v2"'))
    assert config.model.builder == "shufflenet_v2"
    assert config.origins["model.builder"] == "deploy.toml:3"
    assert read(tmp_path, GOOD, {"EDGEC_MODEL_BUILDER": "resnet20"}).model.builder == "resnet20"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            'name = "vgg8"\nbuilder = "net:build"',
            "deploy.toml:3: [model] has both name and builder: a name stands for a builder of edgec's own",
        ),
        (
            'name = "VGG-8"',
            "deploy.toml:3: [model] builder must be written \"package.module:callable\", or a network of edgec's, is 'VGG-8'",
        ),
        ("name = 8", "deploy.toml:3: [model] builder must be a text in quotes, is 8"),
    ],
)
def test_wrong_network_name_is_told(tmp_path: Path, line: str, expected: str) -> None:
    assert problems(tmp_path, GOOD.replace('builder = "net:build"', line)) == [expected]


def test_top_level_values_are_told(tmp_path: Path) -> None:
    found = problems(tmp_path, 'seeed = 3\nprune = 1\napp = "a/b"\nkeep = 0\n' + GOOD)
    assert found == [
        "deploy.toml:1: seeed is unknown; did you mean seed?",
        "deploy.toml:2: prune must be a table, is 1",
        "deploy.toml:3: app must be a name of letters, digits, '-', '_' and '.', is 'a/b'",
        "deploy.toml:4: keep must be at least 1, is 0",
    ]


def test_all_problems_are_told_at_once_in_the_order_of_lines(tmp_path: Path) -> None:
    text = 'schema = 1\n[data]\nnmae = "x"\n[train]\nbatch = "many"\nepochs = -1\n'
    assert problems(tmp_path, text) == [
        "deploy.toml: the table [model] is missing: it needs builder and weights",
        "deploy.toml:2: [data] name is missing",
        "deploy.toml:3: [data] nmae is unknown; did you mean name?",
        "deploy.toml:5: [train] batch must be a whole number, is 'many'",
        "deploy.toml:6: [train] epochs must be at least 0, is -1",
    ]


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ("", "deploy.toml: schema is missing: write schema = 1 as the first line"),
        ("schema = 2\n", "deploy.toml:1: schema 2 was made for a newer edgec, this one reads 1: update edgec"),
        ("schema = '1'\n", "deploy.toml:1: schema must be 1, is '1'"),
    ],
)
def test_schema(tmp_path: Path, schema: str, expected: str) -> None:
    assert problems(tmp_path, schema + GOOD.removeprefix("schema = 1\n")) == [expected]


def test_invalid_toml_names_line_and_column(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, "schema = 1\n[train\nbatch = 1\n")
    assert found.startswith("deploy.toml is not valid TOML: ")
    assert "line 2, column 7" in found


@pytest.mark.parametrize("text", ["", " \n\t\n"])
def test_empty_file(tmp_path: Path, text: str) -> None:
    (found,) = problems(tmp_path, text)
    assert found.endswith("deploy.toml is empty")


def test_missing_file_points_to_init(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file") as caught:
        load(tmp_path / "deploy.toml", environment={}, overrides={})
    assert "edgec init" in caught.value.hint


def test_unreadable_files_are_errors_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'app = "\xe9"')
    for name, words in (("latin.toml", "UTF-8"), (".", "cannot be read")):
        with pytest.raises(ConfigError, match=words):
            load(tmp_path / name, environment={}, overrides={})


def test_strength_is_flag_then_variable_then_file_then_default(tmp_path: Path) -> None:
    text = "seed = 1\n" + GOOD + "[train]\nbatch = 2\nthreads = 3\n"
    variables = {"EDGEC_TRAIN_THREADS": "4", "EDGEC_SEED": "5", "EDGEC_MEASURE_RULE_MIN_COUNT": "6", "EDGEC_PRUNE_ENABLED": "false"}
    config = read(tmp_path, text, variables, {"seed": "7"})
    assert (config.seed, config.train.threads, config.train.batch, config.train.epochs) == (7, 4, 2, 2.0)
    assert config.measure.rule.min_count == 6
    assert config.prune.enabled is False
    wanted = ("seed", "train.threads", "train.batch", "train.epochs")
    assert [config.origins[key] for key in wanted] == ["flag", "EDGEC_TRAIN_THREADS", "deploy.toml:9", "default"]


def test_bad_variables_are_told_by_their_name(tmp_path: Path) -> None:
    variables = {"EDGEC_TRAIN_THREADS": "two", "EDGEC_TRAIN_EPOHCS": "1", "EDGEC_PRUNE_STEP": "2", "EDGEC_TEST_LOG": "x"}
    assert problems(tmp_path, GOOD, variables) == [
        "EDGEC_PRUNE_STEP: [prune] step must be between 0 and 1, is 2",
        "EDGEC_TRAIN_THREADS: [train] threads must be a whole number, is 'two'",
        "environment: EDGEC_TRAIN_EPOHCS is no setting; did you mean EDGEC_TRAIN_EPOCHS?",
    ]


def test_paths_are_relative_to_the_file_of_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir("/")
    config = read(tmp_path, GOOD + 'root = "/data"\n[[target]]\nname = "pi"\nidentity_file = "~/.ssh/key"\n')
    assert config.model.weights == tmp_path / "w/net.safetensors"
    assert config.data.root == Path("/data")
    assert config.targets[0].identity_file == tmp_path / "home/.ssh/key"
    assert read(tmp_path, GOOD, {"EDGEC_MODEL_WEIGHTS": "here.bin"}).model.weights == Path("/here.bin")


def test_target_by_name(tmp_path: Path) -> None:
    config = read(tmp_path, GOOD + '[[target]]\nname = "jetson-nano"\ntags = ["lab"]\n')
    assert target(config, "jetson-nano").tags == ("lab",)
    assert target(config, "localhost").transport is TransportKind.LOCAL
    with pytest.raises(ConfigError, match="did you mean 'jetson-nano'"):
        target(config, "jetson")


@pytest.mark.parametrize("file", ["deploy.toml", "pipeline/templates/deploy.toml"])
def test_our_own_files_are_read(file: str) -> None:
    config = load(ROOT / file, environment={}, overrides={})
    assert target(config, "localhost").python == "auto"
    assert config.quantise.precision is Precision.INT8
    assert config.origins["model.builder"].startswith("deploy.toml:")


def test_every_setting_has_its_own_variable() -> None:
    names = [reader.variable(key) for key, _ in reader.settings_keys()]
    assert len(names) == len(set(names))


def test_every_limit_is_one_of_a_setting() -> None:
    known = {key for key, _ in reader.settings_keys()} | {("target", field.name) for field in fields(TargetSettings)}
    limited = {(*filter(None, section.split(".")), key.removesuffix(".*")) for section, limits in LIMITS.items() for key in limits}
    assert limited <= known


def test_lines_are_found_past_strings_brackets_and_comments() -> None:
    text = '''\
a = """
[not.a.table]
b = 1
"""
list = [
  1, # ]
  "]",
]
"quoted key".inner = '#'
[x.y]
z = { k = 1 }
[[t]]
n = 1
[t.sub]
m = 1
[[t]]
n = 2
'''
    lines = lines_from(text)
    assert lines == {
        ("a",): 1,
        ("list",): 5,
        ("quoted key", "inner"): 9,
        ("x", "y"): 10,
        ("x", "y", "z"): 11,
        ("t", 0): 12,
        ("t", 0, "n"): 13,
        ("t", 0, "sub"): 14,
        ("t", 0, "sub", "m"): 15,
        ("t", 1): 16,
        ("t", 1, "n"): 17,
    }
    assert line_of(("x", "y", "z", "k"), lines) == 11
    assert line_of(("absent",), lines) is None
