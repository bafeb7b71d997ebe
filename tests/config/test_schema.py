"""The keys, their meanings, their limits, and the recipes and profiles that are shipped."""

import dataclasses
import itertools
import math
import re
import runpy
import typing
from pathlib import Path

import pytest

from backend.__main__ import PROGRAMS
from backend.config import schema
from backend.config.loader import NOT_RECIPES, field_docs, fields_of, from_values, help_text, load
from backend.config.schema import (
    BinarizeConfig,
    CleanConfig,
    CrawlConfig,
    DataConfig,
    ModelConfig,
    PipelineConfig,
    SampleConfig,
    Settings,
    TrainConfig,
)
from backend.errors import ConfigError

CONFIG = Path(schema.__file__).parent
RECIPES = sorted(p.name for p in CONFIG.glob("*.py") if p.name not in NOT_RECIPES)
PROFILES = sorted(p.stem for p in (CONFIG / "hardware").glob("*.py"))
CLASSES = [
    c for c in vars(schema).values() if isinstance(c, type) and issubclass(c, Settings)
]  # fmt: skip
PROGRAM_CONFIGS = {config_type for _, config_type in PROGRAMS.values()}
# What makes a program's settings complete, where the defaults alone are not.
ENOUGH = {CrawlConfig: {"artists": ["A"]}, TrainConfig: {"tokens_per_step": 1024}}


def told(config_type, **values):
    with pytest.raises(ConfigError) as caught:
        from_values(config_type, ENOUGH.get(config_type, {}) | values)
    return str(caught.value)


# --- documentation -------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_every_field_says_its_meaning_under_itself(cls):
    own = {name for name in vars(cls).get("__annotations__", {}) if name != "origins"}
    docs = field_docs(cls)
    assert set(docs) == own
    for name, doc in docs.items():
        assert len(doc) > 8, f"{cls.__name__}.{name} has no docstring"
        assert doc.endswith((".", ")")), f"{cls.__name__}.{name}: {doc!r} is no sentence"


@pytest.mark.parametrize("cls", sorted(PROGRAM_CONFIGS, key=str), ids=lambda c: c.__name__)
def test_help_shows_every_key_with_its_default_and_whole_meaning(cls):
    said = help_text(cls, "About.")
    flat = " ".join(said.split())
    for base in cls.__mro__:
        if issubclass(base, Settings):
            for key, doc in field_docs(base).items():
                assert said.count(f"  --{key}=") == 1
                assert doc in flat
    assert max(map(len, said.splitlines())) <= 110


def test_help_of_training_is_grouped():
    said = help_text(TrainConfig, "About.")
    groups = ["Model: the shape of the GPT", "Data: ", "Optimizer: ", "System: ", "Run: "]
    places = [said.index(group) for group in groups]
    assert places == sorted(places)


@pytest.mark.parametrize("cls", sorted(PROGRAM_CONFIGS, key=str), ids=lambda c: c.__name__)
def test_every_default_has_the_type_that_is_declared(cls):
    defaults = cls().as_dict()
    given = {k: v for k, v in defaults.items() if k in fields_of(cls)}
    assert from_values(cls, given | ENOUGH.get(cls, {})).as_dict() == defaults | {
        k: tuple(v) if isinstance(v, list) else v for k, v in ENOUGH.get(cls, {}).items()
    }


@pytest.mark.parametrize("cls", sorted(PROGRAM_CONFIGS, key=str), ids=lambda c: c.__name__)
def test_settings_cannot_be_changed_once_made(cls):
    with pytest.raises(dataclasses.FrozenInstanceError):
        cls().force = True


def test_a_part_of_the_settings_keeps_its_values():
    config = TrainConfig(n_layer=3, batch_size=5, dataset="x")
    assert config.part(ModelConfig) == ModelConfig(n_layer=3)
    assert config.part(DataConfig) == DataConfig(batch_size=5, dataset="x")


def test_settings_compare_by_value_not_by_where_they_came_from():
    assert load(SampleConfig, ["--seed=1337"]) == SampleConfig()


# --- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config_type", "values", "word"),
    [
        (CrawlConfig, {"max_songs": 0}, "max_songs"),
        (CrawlConfig, {"delay_s": -1}, "delay_s"),
        (CrawlConfig, {"artists": []}, "--artists"),
        (CrawlConfig, {"source": ["files"]}, "--path"),
        (CrawlConfig, {"path": "songs"}, "--source=files"),
        (CleanConfig, {"min_lines": -1}, "min_lines"),
        (CleanConfig, {"near_duplicate": 0}, "near_duplicate"),
        (CleanConfig, {"near_duplicate": 1.1}, "near_duplicate"),
        (BinarizeConfig, {"val_fraction": 0}, "val_fraction"),
        (BinarizeConfig, {"val_fraction": 1}, "val_fraction"),
        (TrainConfig, {"block_size": 0}, "block_size"),
        (TrainConfig, {"n_head": 0}, "n_head"),
        (TrainConfig, {"n_head": 5, "n_embd": 768}, "n_embd = 768 is not a multiple of n_head = 5"),
        (TrainConfig, {"dropout": 1.0}, "dropout"),
        (TrainConfig, {"learning_rate": -1.0}, "learning_rate"),
        (TrainConfig, {"max_iters": 100, "warmup_iters": 100}, "warmup_iters"),
        (TrainConfig, {"beta2": 1.0}, "beta2"),
        (TrainConfig, {"batch_size": 0}, "batch_size"),
        (TrainConfig, {"tokens_per_step": None}, "tokens_per_step"),
        (TrainConfig, {"memory_gb": 0}, "memory_gb"),
        (TrainConfig, {"eval_interval": 0}, "eval_interval"),
        (SampleConfig, {"num_samples": 0}, "num_samples"),
        (SampleConfig, {"temperature": -0.1}, "temperature"),
        (SampleConfig, {"top_k": 0}, "top_k"),
        (PipelineConfig, {"train_overrides": ["max_iters"]}, "train_overrides"),
        (PipelineConfig, {"source": ["files"]}, "--path"),
    ],
)
def test_an_impossible_value_is_told_with_its_key(config_type, values, word):
    assert word in told(config_type, **values)


@pytest.mark.parametrize(
    ("config_type", "key"),
    [
        (config_type, key)
        for config_type in sorted(PROGRAM_CONFIGS, key=str)
        for key, hint in fields_of(config_type).items()
        if float in (hint, *typing.get_args(hint))
    ],
)
def test_no_number_accepts_not_a_number(config_type, key):
    assert key in told(config_type, **{key: math.nan})


@pytest.mark.parametrize(
    ("config_type", "values"),
    [
        (CrawlConfig, {"artists": [], "source": ["demo"]}),
        (CrawlConfig, {"artists": [], "rebuild": True}),
        (CrawlConfig, {"artists": [], "artist_file": "names.txt"}),
        (CrawlConfig, {"delay_s": 0}),
        (CleanConfig, {"near_duplicate": 1}),
        (TrainConfig, {"max_iters": 0}),
        (TrainConfig, {"max_iters": 10, "warmup_iters": 20, "decay_lr": False}),
        (TrainConfig, {"tokens_per_step": None, "batch_size": 4, "gradient_accumulation_steps": 2}),
        (SampleConfig, {"temperature": 0, "top_k": None}),
        (PipelineConfig, {"stages": ["train"], "source": ["darklyrics"]}),
    ],
)
def test_a_value_at_its_limit_is_accepted(config_type, values):
    config = from_values(config_type, ENOUGH.get(config_type, {}) | values)
    for key, value in values.items():
        assert getattr(config, key) == (tuple(value) if isinstance(value, list) else value)


# --- recipes and profiles ------------------------------------------------------------------------


def test_recipes_and_profiles_are_shipped():
    assert {"lyrics_cpu.py", "train_darklyrics.py", "test_darklyrics.py"} <= set(RECIPES)
    assert set(PROFILES) | {"auto"} == set(typing.get_args(fields_of(TrainConfig)["profile"]))


@pytest.mark.parametrize(("recipe", "profile"), list(itertools.product(RECIPES, PROFILES)))
def test_a_recipe_is_the_same_experiment_on_every_machine(recipe, profile):
    alone = load(TrainConfig, [f"config/{recipe}"])
    there = load(TrainConfig, [f"config/{recipe}", f"--profile={profile}"])
    assert there.tokens_per_step == alone.tokens_per_step is not None
    machine = set(runpy.run_path(str(CONFIG / "hardware" / f"{profile}.py"))) | {"profile"}
    kept = {k: v for k, v in there.as_dict().items() if k not in machine}
    assert kept == {k: v for k, v in alone.as_dict().items() if k not in machine}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_states_whole_sequences_per_step_and_leaves_the_machine_alone(recipe):
    config = load(TrainConfig, [f"config/{recipe}"])
    assert config.tokens_per_step % config.block_size == 0
    assert config.tokens_per_step is not None
    assert config.batch_size == "auto"
    written = runpy.run_path(str(CONFIG / recipe))
    assert not {"device", "dtype", "compile", "memory_gb", "profile"} & set(written)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_arithmetic_in_a_recipe_is_right(recipe):
    config = load(TrainConfig, [f"config/{recipe}"])
    comments = (CONFIG / recipe).read_text(encoding="utf-8")
    assert f"{config.tokens_per_step:,} tokens/step" in comments


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_states_precision_compiling_and_memory_and_nothing_of_the_experiment(profile):
    written = runpy.run_path(str(CONFIG / "hardware" / f"{profile}.py"))
    keys = {key for key in written if not key.startswith("_")}
    stated = {"device", "dtype", "compile", "memory_gb", "parallel", "activation_checkpointing"}
    assert stated <= keys <= stated | {"batch_size"}


# --- nanoGPT's keys ------------------------------------------------------------------------------

NANOGPT_TRAIN = re.findall(
    r"\w+",
    """
    out_dir eval_interval log_interval eval_iters eval_only always_save_checkpoint init_from
    wandb_log wandb_project wandb_run_name dataset gradient_accumulation_steps batch_size block_size
    n_layer n_head n_embd dropout bias learning_rate max_iters weight_decay beta1 beta2 grad_clip
    decay_lr warmup_iters lr_decay_iters min_lr backend device dtype compile
    """,
)
NANOGPT_SAMPLE = re.findall(
    r"\w+",
    """
    init_from out_dir start num_samples max_new_tokens temperature top_k seed device dtype compile
    """,
)


@pytest.mark.parametrize("key", NANOGPT_TRAIN)
def test_every_key_of_nanogpts_train_is_a_key_of_ours(key):
    assert key in fields_of(TrainConfig)


@pytest.mark.parametrize("key", NANOGPT_SAMPLE)
def test_every_key_of_nanogpts_sample_is_a_key_of_ours(key):
    assert key in fields_of(SampleConfig)
