"""Where a run begins: weights bring their shape, and what cannot be meant is refused in words."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from backend.config.loader import load
from backend.config.schema import BinarizeConfig, ModelConfig, TrainConfig
from backend.data import binarize
from backend.data.bins import Bins
from backend.data.song import CleanSong, write_songs
from backend.errors import CheckpointError, ConfigError, DataError
from backend.models import checkpoint, huggingface, nanogpt
from backend.models.gpt import GPT
from backend.models.weights import WPE, Weights
from backend.storage import sha256
from backend.training import begin, train
from backend.training.log import read_metrics
from tests.training.conftest import TINY

SHAPE = dict(block_size=32, n_layer=2, n_head=2, n_embd=16)  # TINY's
SHORT = dict(max_iters=1, warmup_iters=0, eval_interval=1, sample_chars=0)
STILL = SHORT | dict(learning_rate=0.0, min_lr=0.0)  # a run that keeps its weights as they began


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch):
    """The loss curve is test_train's, and most of the time that a run of one step takes."""
    monkeypatch.setattr(train, "plot_loss", lambda run, *_: (run / "loss.png").write_bytes(b""))


def random_weights(vocab_size, **shape):
    torch.manual_seed(0)
    model = GPT(ModelConfig(**(SHAPE | shape)), vocab_size)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return Weights(model.config, vocab_size, {k: v.clone() for k, v in model.weights().items()})


@pytest.fixture
def base(corpus):
    """out/base: weights of TINY's shape as an exported folder, and their tokenizer."""

    def make(name="out/base", **shape):
        bins = Bins.open("tiny/char")
        weights = random_weights(bins.tokenizer.vocab_size, **shape)
        text = bins.tokenizer.to_json()
        checkpoint.save_weights(Path(name), weights, step=9, facts={}, tokenizer=text)
        return weights

    return make


def argv(*words, **changes):
    """A command line without the shape, which comes from somewhere else."""
    rest = {k: v for k, v in (TINY | SHORT | changes).items() if k in changes or k not in SHAPE}
    return [*words, *(f"--{k}={v}" for k, v in rest.items())]


def recipe(**values):
    """A config file, recipe.py."""
    Path("recipe.py").write_text("".join(f"{k} = {v!r}\n" for k, v in values.items()))
    return "recipe.py"


def begun(words):
    """The settings as a run with this command line would have them."""
    config = begin.spelt_out(load(TrainConfig, words))
    return begin.with_shape_of(config, begin.find_source(config))


def last(run):
    return checkpoint.find(run, "last")


def tensors(run):
    return checkpoint.read(last(run)).tensors


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# --- the shape ---


def test_a_shape_that_nobody_said_is_that_of_the_weights(base, capsys):
    weights = base(activation="gelu", bias=False, n_layer=3)
    train.main(load(TrainConfig, argv(init_from="out/base", **STILL)))
    assert "note:" not in capsys.readouterr().out
    assert same(tensors("out/tiny"), weights.tensors)
    config = checkpoint.describe(last("out/tiny"))[0]
    assert replace(config, dropout=0.0) == weights.config
    saved = json.loads(Path("out/tiny/config.json").read_text())
    assert (saved["n_layer"], saved["activation"], saved["bias"]) == (3, "gelu", False)


@pytest.mark.parametrize(
    ("key", "value", "theirs"),
    [
        ("n_layer", 4, 2),
        ("n_embd", 48, 16),
        ("n_head", 4, 2),
        ("bias", False, True),
        ("activation", "relu2", "gelu_tanh"),
        ("tied_head", False, True),
        ("position", "rotary", "learned"),
        ("qk_norm", True, False),
        ("logit_softcap", 15.0, None),
        ("bigram", 64, 0),
    ],
)
def test_a_recipe_that_says_otherwise_loses_and_is_told(base, capsys, key, value, theirs):
    base()
    config = begun(argv(recipe(**{key: value}), init_from="out/base"))
    assert getattr(config, key) == theirs
    said = f"note: {key} = {theirs}, as in the weights, not {value} (recipe.py)"
    assert said in capsys.readouterr().out


def test_a_value_of_the_weights_is_not_shown_as_the_recipes(base):
    base()
    config = begun(argv(recipe(n_layer=4, dropout=0.25), init_from="out/base"))
    assert config.n_layer == 2
    assert config.origins.get("n_layer") != "recipe.py"
    assert "n_layer = 2  (recipe.py)" not in config.shown()


def test_a_recipe_that_says_the_same_is_no_news(base, capsys):
    base()
    begun(argv(recipe(**SHAPE, attn_type="SM", bias=True), init_from="out/base"))
    assert "note:" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "value"),
    [("n_layer", 3), ("n_embd", 48), ("bias", False), ("activation", "gelu"), ("n_head", 4),
     ("tied_head", False), ("position", "alibi"), ("qk_norm", True), ("bigram", 8)],
)  # fmt: skip
def test_a_command_line_that_contradicts_the_weights_is_refused(base, key, value):
    base()
    with pytest.raises(CheckpointError, match=rf"(?s)another shape: {key} = {value}.*leave these"):
        begun(argv(init_from="out/base", **{key: value}))


def test_all_contradictions_are_told_at_once(base):
    base()
    with pytest.raises(CheckpointError, match="n_layer = 3 .*n_embd = 48"):
        begun(argv(init_from="out/base", n_layer=3, n_embd=48))


def test_a_preset_counts_as_said_where_it_was_said(base):
    base()
    with pytest.raises(CheckpointError, match="n_layer = 4 .*n_head = 4 .*n_embd = 64"):
        begun(argv(init_from="out/base", preset="xxs"))
    assert begun(argv(recipe(preset=("xxs",)), init_from="out/base")).n_layer == 2


def test_a_caller_in_python_is_held_to_its_word_too(base, tiny):
    base()
    with pytest.raises(CheckpointError, match="n_layer = 3"):
        train.main(tiny(init_from="out/base", n_layer=3))


def test_how_weights_would_have_been_initialised_is_no_contradiction(base):
    base()
    config = begun(argv(init_from="out/base", init="fan_in", zero_init=True))
    assert config.n_layer == 2


def test_dropout_is_the_recipes_and_not_the_weights(base, capsys):
    base(dropout=0.3)
    config = begun(argv(init_from="out/base", dropout=0.0))
    assert config.dropout == 0.0
    assert "note:" not in capsys.readouterr().out


# --- the block ---


@pytest.mark.parametrize("where", ["recipe", "command line"])
def test_a_shorter_block_crops_the_positions_and_is_told(base, capsys, where):
    weights = base()
    words = [recipe(block_size=16)] if where == "recipe" else []
    more = {} if words else {"block_size": 16}
    train.main(load(TrainConfig, argv(*words, init_from="out/base", **STILL, **more)))
    assert "note: block_size = 16" in capsys.readouterr().out
    assert checkpoint.describe(last("out/tiny"))[0].block_size == 16
    assert torch.equal(tensors("out/tiny")[WPE], weights.tensors[WPE][:16])


def test_a_longer_block_from_the_command_line_extends_them_and_is_told(base, capsys):
    weights = base()
    train.main(load(TrainConfig, argv(init_from="out/base", block_size=64, **STILL)))
    assert "note: block_size = 64; the weights were trained with 32" in capsys.readouterr().out
    assert checkpoint.describe(last("out/tiny"))[0].block_size == 64
    assert torch.equal(tensors("out/tiny")[WPE], weights.tensors[WPE].repeat(2, 1))


def test_a_longer_block_from_a_recipe_loses_and_is_told(base, capsys):
    base()
    config = begun(argv(recipe(block_size=64), init_from="out/base"))
    assert config.block_size == 32
    assert "note: block_size = 32, as in the weights, not 64 (recipe.py)" in capsys.readouterr().out


# --- the kind of attention ---


@pytest.mark.parametrize(("attn_type", "scale"), [("GK", "none"), ("PA_relu", "row")])
def test_another_kind_from_the_command_line_is_told_and_kept(base, capsys, attn_type, scale):
    weights = base()
    train.main(load(TrainConfig, argv(init_from="out/base", attn_type=attn_type, **STILL)))
    shown = capsys.readouterr().out
    assert f"note: attn_type = {attn_type}; the weights were trained with SM" in shown
    config = checkpoint.describe(last("out/tiny"))[0]
    assert (config.attn_type, config.attn_scale) == (attn_type, scale)
    assert same(tensors("out/tiny"), weights.tensors)


def test_weights_of_another_kind_keep_it_where_nobody_says_one(base):
    base(attn_type="PA_relu", attn_scale="row_sqrt")
    config = begun(argv(init_from="out/base"))
    assert (config.attn_type, config.attn_scale) == ("PA_relu", "row_sqrt")


def test_softmax_from_the_command_line_takes_its_own_scale(base):
    base(attn_type="PA_relu")
    config = begun(argv(init_from="out/base", attn_type="SM"))
    assert (config.attn_type, config.resolved().attn_scale) == ("SM", "none")


def test_another_kind_in_a_recipe_loses_and_only_that_is_told(base, capsys):
    base()
    config = begun(argv(recipe(attn_type="PA_relu"), init_from="out/base"))
    assert (config.attn_type, config.resolved().attn_scale) == ("SM", "none")
    notes = re.findall("note: .*", capsys.readouterr().out)
    assert notes == ["note: attn_type = SM, as in the weights, not PA_relu (recipe.py)"]


# --- resuming ---


def test_what_is_said_when_resuming_must_agree(corpus, capsys):
    train.main(load(TrainConfig, argv(**SHAPE)))
    for key, value in dict(attn_type="GK", block_size=16, n_layer=1, activation="gelu").items():
        with pytest.raises(CheckpointError, match=rf"(?s){key} = {value}.*the run has.*resuming"):
            begun(argv(init_from="resume", **{key: value}))
        with pytest.raises(CheckpointError, match=rf"(?s){key} = {value} \(recipe\.py"):
            begun(argv(recipe(**{key: value}), init_from="resume"))
    assert begun(argv(init_from="resume")).n_layer == 2  # nothing said: the run's own
    assert begun(argv(init_from="resume", **SHAPE, attn_type="SM")).n_layer == 2
    assert "note:" not in capsys.readouterr().out


def test_a_run_of_another_kind_resumes_without_saying_so_and_with(corpus):
    train.main(load(TrainConfig, argv(**SHAPE, attn_type="PA_relu", attn_scale="row_sqrt")))
    for said in ({}, {"attn_type": "PA_relu"}, {"attn_scale": "row_sqrt", "attn_type": "PA_relu"}):
        config = begun(argv(init_from="resume", **said))
        assert (config.attn_type, config.attn_scale) == ("PA_relu", "row_sqrt")


def test_the_command_that_began_from_weights_resumes_with_resume_in_it(base):
    """train's own promise: the same command with --init_from=resume goes on."""
    base()
    file = recipe(n_layer=4, n_embd=48, block_size=64, attn_type="GK")  # all of it lost
    train.main(load(TrainConfig, argv(file, init_from="out/base")))
    again = argv(file, init_from="resume", max_iters=2)
    train.main(load(TrainConfig, again))
    assert last("out/tiny").step == 2
    assert checkpoint.describe(last("out/tiny"))[0].n_layer == 2


YOUNG = {  # keys that the first version did not know
    "attn_type", "attn_scale", "position", "qk_norm", "tied_head", "zero_init", "init",
    "logit_softcap", "bigram", "preset", "lora_rank", "lora_alpha", "activation",
}  # fmt: skip


def make_old(run):
    """A run as the first version wrote it."""
    for step in checkpoint.steps(run):
        file = step.path / "model.json"
        values = json.loads(file.read_text())
        for part in ("model", "experiment"):
            values[part] = {k: v for k, v in values[part].items() if k not in YOUNG}
        file.write_text(json.dumps(values))
        complete = json.loads((step.path / "COMPLETE").read_text())
        complete["model.json"] = [file.stat().st_size, sha256(file)]
        (step.path / "COMPLETE").write_text(json.dumps(complete))
    for name, part in (("config.json", None), ("train.manifest.json", "settings")):
        values = json.loads((run / name).read_text())
        holder = values[part] if part else values
        for key in YOUNG & holder.keys():
            del holder[key]
        (run / name).write_text(json.dumps(values))


def test_a_run_of_the_first_version_resumes_bit_for_bit(corpus, tiny, capsys):
    end = dict(eval_interval=3, sample_chars=0, lr_decay_iters=6)
    train.main(tiny(**end, out_dir="out/whole", max_iters=6))
    train.main(tiny(**end, out_dir="out/old", max_iters=3))
    make_old(Path("out/old"))
    capsys.readouterr()
    train.main(tiny(**end, out_dir="out/old", max_iters=6, init_from="resume"))
    assert "with other values than before for: max_iters\n" in capsys.readouterr().out
    assert same(tensors("out/old"), tensors("out/whole"))


def test_a_run_of_the_first_version_is_the_same_experiment(corpus, tiny, capsys):
    train.main(tiny(init_from="auto", **SHORT))
    before, rows = tensors("out/tiny"), read_metrics(Path("out/tiny"))
    make_old(Path("out/tiny"))
    capsys.readouterr()
    train.main(tiny(init_from="auto", **SHORT))
    assert "changed" not in capsys.readouterr().out
    assert [p.name for p in Path("out").iterdir()] == ["tiny"]  # nothing was moved aside
    assert same(tensors("out/tiny"), before)
    assert read_metrics(Path("out/tiny")) == rows
    assert train.main(tiny(init_from="auto", **SHORT)).skipped


def test_what_a_run_began_from_is_remembered_through_a_resume(base):
    base()
    train.main(load(TrainConfig, argv(init_from="out/base")))
    train.main(load(TrainConfig, argv(init_from="resume", max_iters=2)))
    assert checkpoint.facts_of(last("out/tiny"))["from"] == "out/base, step 9"


# --- finetune, the old word ---


def test_finetune_writes_beside_the_run_and_leaves_it_alone(corpus, tiny, capsys):
    train.main(tiny(**SHORT))
    before = {p: p.stat().st_mtime_ns for p in sorted(Path("out/tiny").rglob("*"))}
    train.main(tiny(**STILL, init_from="finetune", seed=5))
    assert "finetuning out/tiny into out/tiny-finetune" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in sorted(Path("out/tiny").rglob("*"))} == before
    assert same(tensors("out/tiny-finetune"), checkpoint.read(checkpoint.find("out/tiny")).tensors)
    saved = json.loads(Path("out/tiny-finetune/config.json").read_text())
    assert (saved["init_from"], saved["out_dir"]) == ("out/tiny", "out/tiny-finetune")
    with pytest.raises(CheckpointError, match="out/tiny-finetune holds a run already"):
        train.main(tiny(**STILL, init_from="finetune"))


def test_finetune_without_a_run_is_a_sentence(corpus, tiny):
    with pytest.raises(CheckpointError, match="no checkpoint in out/tiny"):
        train.main(tiny(init_from="finetune"))
    assert not Path("out").exists()


# --- tokenizers ---


def other_corpus():
    """data/other, with characters that the first corpus has not."""
    songs = [
        CleanSong(text="\n".join(f"{word.upper()}! ?zq {n}" for n in range(30)), song_name=word,
                  artist_name="Nobody")
        for word in ("moor", "fen", "glen")
    ]  # fmt: skip
    write_songs(Path("data/other/data.json"), (song.to_json() for song in songs))
    binarize.main(BinarizeConfig(data_dir="data/other"))


def follow(error):
    """Run the command that an error names; the folder of bins that it makes."""
    words = shlex.split(error.mend)
    assert words[:3] == ["python", "-m", "backend.data.binarize"]
    return binarize.main(load(BinarizeConfig, words[3:])).folder


@pytest.mark.parametrize("source", ["run", "export", "hugging face", "nanogpt"])
def test_another_tokenizer_is_refused_with_a_command_that_makes_it_work(base, tiny, source):
    other_corpus()
    vocab_size = Bins.open("tiny/char").tokenizer.vocab_size
    tokenizer = Path("data/tiny/char/tokenizer.json")
    name = f"out/{source.replace(' ', '-')}"
    if source == "run":
        train.main(tiny(out_dir=name, **SHORT))
    elif source == "export":
        base(name)
    elif source == "hugging face":
        hugging_face_folder(name, random_weights(vocab_size), tokenizer)
    else:
        weights = random_weights(vocab_size, activation="gelu")
        nanogpt.write(Path(name) / "ckpt.pt", weights, step=0, loss=1.0, dataset="tiny")
        shutil.copyfile(tokenizer, Path(name) / "tokenizer.json")
    words = argv(init_from=name, out_dir="out/fine", dataset="other/char")
    with pytest.raises(CheckpointError, match="another tokenizer") as caught:
        train.main(load(TrainConfig, words))
    assert not Path("out/fine").exists()
    folder = follow(caught.value)
    assert folder.parent == Path("data/other")
    words = argv(init_from=name, out_dir="out/fine", dataset=str(folder))
    train.main(load(TrainConfig, words))
    assert last("out/fine").step == 1
    theirs = checkpoint.load_tokenizer(last("out/fine"))
    assert theirs.vocabulary() == Bins.open("tiny/char").tokenizer.vocabulary()


def test_weights_without_a_tokenizer_are_refused_before_anything_is_written(base):
    weights = random_weights(Bins.open("tiny/char").tokenizer.vocab_size)
    hugging_face_folder("hf", weights, None)
    with pytest.raises(CheckpointError, match=r"no tokenizer.*"):
        train.main(load(TrainConfig, argv(init_from="hf")))
    assert not Path("out").exists()


# --- weights from elsewhere ---


def hugging_face_folder(name, weights, tokenizer):
    """A folder as transformers itself saves one."""
    from transformers import GPT2Config, GPT2LMHeadModel

    values = huggingface.to_settings(weights.config, weights.vocab_size, eot=0)
    model = GPT2LMHeadModel(GPT2Config(**values))
    model.load_state_dict(huggingface.to_tensors(weights), strict=False)
    model.save_pretrained(name)
    if tokenizer:
        shutil.copyfile(tokenizer, Path(name) / "tokenizer.json")


def test_a_hugging_face_folder_trains_from_step_0_with_a_fresh_optimizer(base, tiny):
    base("scratch")
    weights = random_weights(Bins.open("tiny/char").tokenizer.vocab_size)
    hugging_face_folder("hf", weights, "data/tiny/char/tokenizer.json")
    train.main(load(TrainConfig, argv(init_from="hf", **STILL)))
    assert [s.step for s in checkpoint.steps(Path("out/tiny"))] == [0, 1]
    assert same(tensors("out/tiny"), weights.tensors)
    assert checkpoint.facts_of(last("out/tiny"))["from"] == "hf"
    first = load_file(Path("out/tiny/checkpoints/step_00000000/trainer.safetensors"))
    assert not any(v.any() for k, v in first.items() if not k.startswith("rng"))  # moments
    assert read_metrics(Path("out/tiny"))[0]["step"] == 0


@pytest.mark.parametrize("name", ["nano", "nano/ckpt.pt"])
def test_nanogpts_checkpoint_trains_from_step_0_with_its_exact_gelu(base, name, capsys):
    weights = random_weights(Bins.open("tiny/char").tokenizer.vocab_size, activation="gelu")
    nanogpt.write(Path("nano/ckpt.pt"), weights, step=250, loss=1.0, dataset="tiny")
    shutil.copyfile("data/tiny/char/tokenizer.json", "nano/tokenizer.json")
    train.main(load(TrainConfig, argv(init_from=name, **STILL)))
    assert [s.step for s in checkpoint.steps(Path("out/tiny"))] == [0, 1]
    assert checkpoint.describe(last("out/tiny"))[0].activation == "gelu"
    assert same(tensors("out/tiny"), weights.tensors)
    assert "note:" not in capsys.readouterr().out


def test_nanogpts_own_characters_get_rows_for_the_two_special_tokens(base):
    bins = Bins.open("tiny/char")
    weights = random_weights(bins.tokenizer.vocab_size - 2, activation="gelu")
    nanogpt.write(Path("nano/ckpt.pt"), weights, step=250, loss=1.0, dataset="tiny")
    shutil.copyfile("data/tiny/char/tokenizer.json", "nano/tokenizer.json")
    train.main(load(TrainConfig, argv(init_from="nano", **STILL)))
    rows = tensors("out/tiny")["transformer.wte.weight"]
    assert len(rows) == bins.tokenizer.vocab_size
    assert torch.equal(rows[:-2], weights.tensors["transformer.wte.weight"])


def test_weights_begin_in_no_folder_that_holds_a_run_unless_it_may_go(base, tiny):
    base()
    train.main(tiny(**SHORT))
    before = tensors("out/tiny")
    words = argv(init_from="out/base", **STILL)
    with pytest.raises(CheckpointError, match=r"(?s)out/tiny holds a run.*resume.*--overwrite"):
        train.main(load(TrainConfig, words))
    assert same(tensors("out/tiny"), before)
    train.main(load(TrainConfig, [*words, "--overwrite"]))
    assert not same(tensors("out/tiny"), before)


def test_missing_data_are_told_before_any_weights_are_looked_for(corpus, tiny):
    with pytest.raises(DataError, match="nope"):
        train.main(tiny(dataset="nope/char", init_from="out/nothing"))


# --- LoRA ---

LORA = dict(lora_rank=4, lora_alpha=6.0)
SIX = dict(max_iters=6, eval_interval=3, lr_decay_iters=6, sample_chars=0)


def adapters(run):
    return load_file(last(run).path / "adapter_model.safetensors")


@pytest.fixture
def lora_run(base, tiny):
    """out/tiny: adapters on the weights of out/base."""
    weights = base()
    train.main(tiny(init_from="out/base", **LORA, **SIX))
    return weights


def test_lora_trains_the_adapters_and_leaves_the_base(lora_run, capsys):
    step = last("out/tiny")
    assert step.step == 6
    assert same(checkpoint.read(step, merge=False).tensors, lora_run.tensors)
    assert any(v.any() for k, v in adapters("out/tiny").items() if "lora_B" in k)
    assert not same(checkpoint.read(step).tensors, lora_run.tensors)
    moments = load_file(step.path / "trainer.safetensors")
    assert all("lora_" in k or k.startswith("rng") for k in moments)
    losses = [row["loss"] for row in read_metrics(Path("out/tiny")) if row["split"] == "val"]
    assert losses[-1] < losses[0]


def test_a_stopped_lora_run_resumed_equals_an_uninterrupted_one_bit_for_bit(lora_run, tiny):
    begun = dict(out_dir="out/parts", init_from="out/base") | LORA
    train.main(tiny(**SIX | begun | dict(max_iters=2)))
    # nothing said of LoRA: the run knows
    train.main(tiny(**SIX, out_dir="out/parts", init_from="resume"))
    assert same(adapters("out/parts"), adapters("out/tiny"))
    whole, parts = (load_file(last(r).path / "trainer.safetensors")
                    for r in ("out/tiny", "out/parts"))  # fmt: skip
    assert same(whole, parts)


def test_a_lora_run_resumes_without_the_weights_it_began_from(lora_run, tiny):
    shutil.rmtree("out/base")
    train.main(tiny(init_from="resume", max_iters=7))
    assert last("out/tiny").step == 7
    assert checkpoint.facts_of(last("out/tiny"))["from"] == "out/base, step 9"
    shutil.rmtree("out/tiny/base")
    with pytest.raises(CheckpointError, match="base is gone"):
        train.main(tiny(init_from="resume", max_iters=8))


@pytest.mark.parametrize(("key", "value"), [("lora_rank", 8), ("lora_alpha", 3.0)])
def test_another_rank_or_strength_is_refused_when_resuming(lora_run, tiny, key, value):
    with pytest.raises(CheckpointError, match=rf"{key} = {value} \(the run has"):
        train.main(tiny(init_from="resume", max_iters=7, **{key: value}))
    train.main(tiny(init_from="resume", max_iters=7, **LORA))
    assert last("out/tiny").step == 7


def test_a_strength_that_was_not_said_again_is_that_of_the_run(lora_run, tiny):
    train.main(tiny(init_from="resume", max_iters=7, lora_rank=LORA["lora_rank"]))
    assert checkpoint.facts_of(last("out/tiny"))["lora"] == {"rank": 4, "alpha": 6.0}


def test_lora_for_a_run_that_trains_all_weights_is_refused_when_resuming(corpus, tiny):
    train.main(tiny(**SHORT))
    with pytest.raises(CheckpointError, match=r"lora_rank = 4 \(the run has 0"):
        train.main(tiny(init_from="resume", max_iters=2, warmup_iters=0, lora_rank=4))


@pytest.mark.parametrize("init_from", ["scratch", "auto"])
def test_lora_needs_weights_to_adapt(corpus, tiny, init_from):
    with pytest.raises(ConfigError, match=rf"(?s)lora_rank = 4 .*{init_from}.*--init_from=gpt2"):
        train.main(tiny(init_from=init_from, lora_rank=4))
    assert not Path("out").exists()


def test_auto_knows_a_finished_lora_run(lora_run, tiny):
    before = adapters("out/tiny")
    assert train.main(tiny(init_from="auto", **LORA, **SIX)).skipped
    assert same(adapters("out/tiny"), before)


def test_a_run_can_start_from_a_lora_run_as_from_any_other(lora_run, tiny):
    merged = checkpoint.read(checkpoint.find("out/tiny")).tensors
    train.main(tiny(out_dir="out/full", init_from="out/tiny", **STILL))
    assert same(tensors("out/full"), merged)
    train.main(tiny(out_dir="out/lora", init_from="out/tiny", lora_rank=2, **STILL))
    assert same(checkpoint.read(last("out/lora"), merge=False).tensors, merged)
    assert checkpoint.facts_of(last("out/lora"))["lora"] == {"rank": 2, "alpha": 4.0}


def test_the_trained_share_is_on_the_screen(base, tiny, capsys):
    base()
    train.main(tiny(init_from="out/base", **LORA, **SHORT))
    rows = 4 * ((16 + 48) + (16 + 16) + (16 + 64) + (64 + 16)) * 2
    assert f"({rows:,} of them trained, LoRA)" in capsys.readouterr().out


def test_auto_never_replaces_a_run_that_began_from_weights_by_one_from_scratch(corpus, tiny):
    train.main(tiny(out_dir="out/base", max_iters=2))
    train.main(tiny(out_dir="out/fine", init_from="out/base", max_iters=4))
    before = sorted((corpus / "out").iterdir())
    with pytest.raises(CheckpointError, match=r"(?s)began from out/base.*seed.*--init_from"):
        train.main(tiny(out_dir="out/fine", init_from="auto", max_iters=4, seed=7))
    assert sorted((corpus / "out").iterdir()) == before


def test_auto_and_eval_only_evaluate_the_kind_that_was_trained(corpus, tiny, capsys):
    train.main(tiny(out_dir="out/gk", max_iters=2, attn_type="GK"))
    capsys.readouterr()
    scores = []
    for init_from in ("resume", "auto"):
        train.main(tiny(out_dir="out/gk", init_from=init_from, max_iters=2, eval_only=True))
        scores.append(re.search(r"[0-9.]+ bits/char", capsys.readouterr().out)[0])
    assert scores[0] == scores[1]


@pytest.mark.parametrize("kind", ["export", "huggingface", "nanogpt"])
def test_a_run_never_starts_in_a_folder_that_holds_other_weights(corpus, tiny, kind):
    folder = corpus / "mine"
    folder.mkdir()
    files = {"export": "COMPLETE", "huggingface": "config.json", "nanogpt": "ckpt.pt"}
    (folder / files[kind]).write_text('{"model_type": "gpt2"}')
    with pytest.raises(CheckpointError, match="weights that are no run"):
        train.main(tiny(out_dir="mine"))
    with pytest.raises(CheckpointError, match=r"(?s)no run in mine.*--init_from=mine"):
        train.main(tiny(out_dir="mine", init_from="resume"))
    assert [f.name for f in folder.iterdir()] == [files[kind]]


# --- a recipe that names the weights it begins from ---


def test_another_kind_in_the_recipe_that_names_the_weights_is_honoured_and_told(base, capsys):
    base()
    words = argv(recipe(init_from="out/base", attn_type="PA_relu"))
    config = begun(words)
    assert (config.attn_type, config.resolved().attn_scale) == ("PA_relu", "row")
    said = "note: attn_type = PA_relu; the weights were trained with SM"
    assert said in capsys.readouterr().out
    train.main(load(TrainConfig, words))
    train.main(load(TrainConfig, [*words, "--init_from=resume", "--max_iters=2"]))
    assert checkpoint.describe(last("out/tiny"))[0].attn_type == "PA_relu"


def test_a_recipe_that_names_weights_of_another_shape_is_refused(base):
    base()
    with pytest.raises(CheckpointError, match=r"n_layer = 3 \(recipe\.py; the weights have 2"):
        begun(argv(recipe(init_from="out/base", n_layer=3)))


def test_the_pointwise_recipe_trains_gpt2_with_pointwise_attention(base, monkeypatch):
    base()
    real = checkpoint.find
    places = {"gpt2": "out/base"}
    monkeypatch.setattr(checkpoint, "find", lambda place, which="best": real(places[place], which))
    assert begun(["config/pa.py", "--dataset=tiny/char"]).attn_type == "PA_gelu"


def test_adapters_are_not_sharded_also_where_only_the_run_knows_of_them(lora_run, tiny):
    with pytest.raises(ConfigError, match="fsdp does not go with lora_rank"):
        begin.with_shape_of(tiny(init_from="resume", parallel="fsdp"), last("out/tiny"))
