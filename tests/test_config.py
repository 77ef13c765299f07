import ast
import inspect
from dataclasses import FrozenInstanceError, fields
from itertools import pairwise

import pytest

from bertkit import config
from bertkit.config import DeviceConfig, EvalConfig, PredictConfig, TrainConfig, build, parse_overrides
from bertkit.errors import ConfigError

KINDS = [TrainConfig, EvalConfig, PredictConfig, DeviceConfig]


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_in_range(kind):
    kind()


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_has_a_docstring(kind):
    body = ast.parse(inspect.getsource(kind)).body[0].body
    for node, after in pairwise(body):
        if isinstance(node, ast.AnnAssign) and node.target.id != "section":
            assert isinstance(after, ast.Expr), node.target.id


def test_config_is_frozen():
    with pytest.raises(FrozenInstanceError):
        TrainConfig().epochs = 2


def test_later_layers_win():
    made = build(TrainConfig, {"epochs": 2, "batch_size": 8}, {"epochs": 1})
    assert (made.epochs, made.batch_size, made.learning_rate) == (1.0, 8, 5e-5)
    assert isinstance(made.epochs, float)


def test_whole_float_is_a_whole_number():
    assert build(TrainConfig, {"batch_size": 16.0}).batch_size == 16


def test_all_unknown_and_wrong_settings_are_named_together():
    with pytest.raises(ConfigError) as caught:
        build(
            TrainConfig, {"lerning_rate": 1, "epochs": "x", "batch_size": 1.5, "group_by_length": 1, "on_long": "cut"}
        )
    text = str(caught.value)
    for part in (
        "train.lerning_rate is not a setting. Did you mean 'learning_rate'?",
        "train.epochs is 'x', and must be a number",
        "train.batch_size is 1.5, and must be a whole number",
        "train.group_by_length is 1, and must be true or false",
        "train.on_long is 'cut', and must be one of 'truncate', 'head-tail', 'window', 'error'",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("kind", "key", "value", "allowed"),
    [
        (TrainConfig, "learning_rate", 0, "above 0"),
        (TrainConfig, "learning_rate", float("nan"), "above 0"),
        (TrainConfig, "learning_rate", float("inf"), "finite"),
        (TrainConfig, "epochs", -1, "above 0"),
        (TrainConfig, "epochs", float("inf"), "finite"),
        (TrainConfig, "max_steps", -1, "at least 0"),
        (TrainConfig, "batch_size", 0, "at least 1"),
        (TrainConfig, "batch_size", True, "a whole number"),
        (TrainConfig, "micro_batch_tokens", 0, "at least 1"),
        (TrainConfig, "max_length", 7, "at least 8"),
        (TrainConfig, "warmup_ratio", 1.1, "between 0 and 1"),
        (TrainConfig, "adam_beta1", 1.0, "at least 0 and below 1"),
        (TrainConfig, "adam_beta2", -0.1, "at least 0 and below 1"),
        (TrainConfig, "adam_epsilon", 0, "above 0"),
        (TrainConfig, "weight_decay", -1, "at least 0"),
        (TrainConfig, "max_grad_norm", -1, "at least 0"),
        (TrainConfig, "label_smoothing", 1, "at least 0 and below 1"),
        (TrainConfig, "eval_steps", -1, "at least 0"),
        (TrainConfig, "save_steps", -1, "at least 0"),
        (TrainConfig, "keep_checkpoints", -1, "at least 0"),
        (TrainConfig, "patience", -1, "at least 0"),
        (EvalConfig, "batch_tokens", -1, "at least 0"),
        (EvalConfig, "resamples", 50, "0, or at least 100"),
        (PredictConfig, "column", "", "not empty"),
        (PredictConfig, "column", 3, "a text"),
        (PredictConfig, "chunk", 0, "at least 1"),
        (DeviceConfig, "device", "tpu", "auto, cpu, cuda, cuda:N or mps"),
        (DeviceConfig, "device", "cpu:1", "auto, cpu, cuda, cuda:N or mps"),
        (DeviceConfig, "threads", -1, "at least 0"),
    ],
)
def test_value_out_of_range_is_named(kind, key, value, allowed):
    with pytest.raises(ConfigError, match=rf"{kind.section}\.{key} is .*must be .*{allowed}"):
        build(kind, {key: value})


@pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:1"])
def test_devices_are_accepted(device):
    assert build(DeviceConfig, {"device": device}).device == device


def test_overrides_are_toml_or_text():
    settings = ["train.epochs=2", "train.learning_rate = 2e-5", "columns.label=stars", "a=x=y", 'labels=["a", "b"]']
    assert parse_overrides([*settings, "b=", "c=true", "d=1\ne=2"]) == {
        "train": {"epochs": 2, "learning_rate": 2e-5},
        "columns": {"label": "stars"},
        "a": "x=y",
        "labels": ["a", "b"],
        "b": "",
        "c": True,
        "d": "1\ne=2",
    }


@pytest.mark.parametrize("setting", ["train.epochs", "=2", "train.=2", ".a=1"])
def test_override_without_key_or_value_is_refused(setting):
    with pytest.raises(ConfigError, match=r"--set takes KEY=VALUE, for example --set train\.epochs=2, and got '"):
        parse_overrides([setting])


def test_override_below_a_value_is_refused():
    with pytest.raises(ConfigError, match="goes below 'train', which another --set gives a value"):
        parse_overrides(["train=1", "train.epochs=2"])


def test_override_of_a_whole_table_is_refused_after_its_parts():
    with pytest.raises(ConfigError, match="'train=1' replaces the whole of 'train', below which another --set goes"):
        parse_overrides(["train.epochs=2", "train=1"])


def test_first_difference_names_the_leaf():
    assert config.first_difference({"a": {"b": 1}}, {"a": {"b": 1}}) is None
    assert config.first_difference({"a": {"b": 1}}, {"a": {"b": 2}}) == "a.b is 1 now and was 2"
    assert config.first_difference({}, {"c": 1}) == "c is None now and was 1"
    assert config.first_difference({"c": None}, {}) is None


def test_describe_gives_every_setting():
    assert set(config.describe(TrainConfig())) == {f.name for f in fields(TrainConfig)}
