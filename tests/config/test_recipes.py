"""The recipes say in their comments what their keys do: arithmetic, size, data, warm-up."""

import itertools
import re
import runpy
from pathlib import Path

import pytest

from backend.config import schema
from backend.config.loader import NOT_RECIPES, find_config, load
from backend.config.schema import PRESETS, CorporaConfig, ModelConfig, TrainConfig
from backend.data.corpora import CORPORA
from backend.errors import ConfigError
from backend.models.gpt import n_params, on_meta

CONFIG = Path(schema.__file__).parent
RECIPES = sorted(p.name for p in CONFIG.glob("*.py") if p.name not in NOT_RECIPES)
PROFILES = sorted(p.name for p in (CONFIG / "hardware").glob("*.py"))
# homomorphic-attention's, nanoGPT's and the others', by the names that their users know
PREDECESSORS = {
    "train_darklyrics", "test_darklyrics", "finetune_lyrics", "train_gpt2", "eval_gpt2",
    "eval_gpt2_medium", "eval_gpt2_large", "eval_gpt2_xl", "train_shakespeare_char",
    "finetune_shakespeare", "train_11", "pa", "eval", "train_finewebedu", "train_openwebtext",
}  # fmt: skip
# lyrics_cpu is older than these rules: its figures stand in docs/benchmarks.md
TOLD = [name for name in RECIPES if name != "lyrics_cpu.py"]


def number(text):
    return float(text.replace(",", ""))


def comments(recipe):
    """The comment lines of a file, as running text."""
    lines = (CONFIG / recipe).read_text(encoding="utf-8").splitlines()
    return " ".join(line[2:] for line in lines if line.startswith("# "))


def shape(config):
    """The shape of the model: of the weights that a run starts from, where it does."""
    if config.base == "lyrics-base":
        return shape(load(TrainConfig, ["config/train_lyrics_base.py"]))
    weights = PRESETS.get(config.init_from, {})
    return ModelConfig(**(config.part(ModelConfig).as_dict() | weights))


def test_every_recipe_of_the_predecessors_is_here():
    assert {f"{name}.py" for name in PREDECESSORS} <= set(RECIPES)
    assert {"lyrics_cpu.py", "lyrics_laptop.py", "lyrics_gpu.py"} <= set(RECIPES)


@pytest.mark.parametrize(("recipe", "profile"), list(itertools.product(RECIPES, PROFILES)))
def test_every_recipe_goes_with_every_profile(recipe, profile):
    config = load(TrainConfig, [f"config/{recipe}", f"config/hardware/{profile}"])
    assert not list(config.problems())
    own = runpy.run_path(str(CONFIG / "hardware" / profile))
    for key in ("device", "dtype", "compile", "memory_gb", "parallel", "activation_checkpointing"):
        assert getattr(config, key) == own[key]


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_warm_up_is_shorter_than_the_run(recipe):
    config = load(TrainConfig, [f"config/{recipe}"])
    assert config.eval_only or config.warmup_iters < config.max_iters
    if not config.eval_only:
        assert config.eval_interval <= config.max_iters


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_data_are_named_with_the_command_that_makes_them(recipe):
    config = load(TrainConfig, [f"config/{recipe}"])
    corpus, tokenizer = config.dataset.split("/")
    assert re.fullmatch(r"char|gpt2|bpe\d+|lyrics-base", tokenizer)
    if config.init_from in PRESETS:
        assert tokenizer == "gpt2"
    assert (tokenizer == "lyrics-base") == (config.base == "lyrics-base")
    said = comments(recipe)
    assert f"config/{recipe}" in said
    for name in re.findall(r"config/[\w/]+\.py", said):
        assert find_config(name).is_file()
    if recipe not in TOLD:
        return
    kind = "" if tokenizer == "char" else f" --tokenizer={re.sub('(?<=bpe)[0-9]+', '', tokenizer)}"
    if corpus in CORPORA:
        assert f"python -m backend.data.corpora --corpus={corpus}{kind}" in said
        load(CorporaConfig, [f"--corpus={corpus}", *kind.split()])
    else:
        assert re.search(f"python -m backend.data.binarize[^#]*?{kind}", said)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_arithmetic_of_a_step_and_of_the_run_is_right(recipe):
    config = load(TrainConfig, [f"config/{recipe}"])
    said = comments(recipe)
    step = re.search(
        r"([\d,]+) sequences? x ([\d,]+) (?:tokens|characters)(?: x ([\d,]+) micro-batch(?:es)?)?"
        r" = ([\d,]+) tokens/step",
        said,
    )
    sequences, length, micro, tokens = (number(group or "1") for group in step.groups())
    assert sequences * length * micro == tokens == config.tokens_per_step
    assert length == config.block_size
    if recipe in TOLD and not config.eval_only:
        steps, total = map(number, re.search(r"([\d,]+) steps = ([\d,.]+) M tokens", said).groups())
        assert steps == config.max_iters
        assert total * 1e6 == pytest.approx(steps * tokens, rel=0.03)
    if found := re.search(r"([\d,]+) tokens to train on: ([\d,.]+) steps an epoch", said):
        corpus, epoch = map(number, found.groups())
        assert epoch == pytest.approx(corpus / tokens, rel=0.01)
        if turns := re.search(r"steps an epoch, ([\d.]+) epochs", said):
            assert float(turns[1]) == pytest.approx(config.max_iters / epoch, rel=0.05)


@pytest.mark.parametrize("recipe", TOLD)
def test_the_size_of_the_model_is_right(recipe):
    said = comments(recipe)
    config = load(TrainConfig, [f"config/{recipe}"])
    if recipe == "eval.py":  # whose size is that of the run
        return
    size = number(re.search(r"([\d,.]+) M\s+parameters", said)[1])
    vocabulary = int(number(re.search(r"vocabulary of ([\d,]+\d)", said)[1]))
    assert n_params(on_meta(shape(config), vocabulary)) / 1e6 == pytest.approx(size, abs=0.06)
    if config.dataset.endswith("/gpt2"):
        assert vocabulary == 50_257


@pytest.mark.parametrize("recipe", TOLD)
def test_a_recipe_says_what_to_expect_and_never_guesses(recipe):
    said = comments(recipe)
    assert "Expected:" in said
    assert "Minutes:" in said
    assert "measured" in said


def test_a_rate_that_never_falls_has_no_warm_up():
    """nanoGPT ignores warmup_iters with decay_lr=False: its finetuning starts at full rate."""
    for recipe in ("finetune_lyrics.py", "finetune_shakespeare.py"):
        config = load(TrainConfig, [f"config/{recipe}"])
        assert (config.schedule, config.warmup_iters) == ("constant", 0)


def test_a_misspelt_key_of_a_recipe_would_be_told(tmp_path):
    (tmp_path / "mine.py").write_text("learnin_rate = 1e-3\ntokens_per_step = 1024\n")
    with pytest.raises(ConfigError, match="learning_rate"):
        load(TrainConfig, [str(tmp_path / "mine.py")])
