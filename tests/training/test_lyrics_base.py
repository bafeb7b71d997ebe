"""lyrics-base: found by its name, checked, refused in words, finetuned by one command."""

import json
import shutil

import pytest
import torch

from backend.config.loader import load
from backend.config.schema import (
    PRESETS,
    BinarizeConfig,
    ExportConfig,
    ModelConfig,
    SampleConfig,
    TrainConfig,
)
from backend.data import binarize, tokenizers
from backend.data.bins import Bins
from backend.errors import CheckpointError, ConfigError, DataError
from backend.evaluation.loss import split_loss
from backend.models import checkpoint
from backend.models.checkpoint import Source
from backend.models.gpt import GPT
from backend.models.weights import Weights
from backend.runtime import detect
from backend.scrapers import demo_site
from backend.training import begin, export, sample, train

SHAPE = {"block_size": 64, "n_layer": 1, "n_head": 2, "n_embd": 32}
VERSE = "The wheel goes round and the mill goes on, and over the river the night is gone"


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A tiny lyrics-base of random weights, exported as the real one is, in the place of it."""
    monkeypatch.chdir(tmp_path)
    learnt = tokenizers.ByteBPE.train([VERSE], 300)
    torch.manual_seed(0)
    shape = ModelConfig(**(PRESETS["modern"] | {"bigram": 0, "zero_init": False} | SHAPE))
    model = GPT(shape, learnt.vocab_size)
    weights = Weights(model.config, learnt.vocab_size, model.weights())
    made = tmp_path / "made"
    checkpoint.save_weights(made, weights, step=7, facts={}, tokenizer=learnt.to_json())
    place = tmp_path / "assets" / "lyrics-base"
    monkeypatch.setattr(tokenizers, "LYRICS_BASE", place)
    export.main(
        ExportConfig(
            init_from=str(made), format="safetensors", dtype="bfloat16", export_dir=str(place)
        )
    )
    return place


@pytest.fixture
def songs(tmp_path):
    """Forty songs of two voices, in English."""
    rows = [
        {"text": f"{VERSE}\nsong {i} of {voice}\n\n{VERSE}", "artist_name": voice, "id": f"{i}"}
        for i, voice in enumerate(["Ann", "Bo"] * 20)
    ]
    folder = tmp_path / "data" / "mine"
    folder.mkdir(parents=True)
    (folder / "data.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def finetune(**changes):
    small = dict(
        dataset="mine/lyrics-base", out_dir="out/mine", init_from="auto", base="lyrics-base",
        block_size=32, tokens_per_step=64, max_iters=4, warmup_iters=1, eval_interval=2,
        sample_chars=0, device="cpu", threads=1, learning_rate=1e-3, min_lr=0,
    )  # fmt: skip
    words = [f"--{key}={value}" for key, value in (small | changes).items()]
    return train.main(load(TrainConfig, words))


def binarized(songs):
    binarize.main(BinarizeConfig(data_dir=str(songs), tokenizer="lyrics-base"))
    return songs / "lyrics-base"


def test_the_base_is_bfloat16_on_disk_and_its_rounded_numbers_in_memory(base, tmp_path):
    made = checkpoint.read(Source(tmp_path / "made"))
    read = checkpoint.read(checkpoint.find("lyrics-base"))
    for name, tensor in read.tensors.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, made.tensors[name].bfloat16().float())
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (base, tmp_path / "made")]
    assert sizes[0] < 0.55 * sizes[1]
    assert str(checkpoint.find("lyrics-base")) == "lyrics-base, step 7"


def test_the_weights_in_the_repository_know_songs_they_never_read(tmp_path):
    """A damaged or mixed-up file would be no better than chance, 3.9 bits per character."""
    rows = [
        {"text": text, "artist_name": release.artist, "song_name": title, "id": f"{i}-{title}"}
        for i, release in enumerate(map(demo_site.read_release, demo_site.songbook_files()))
        for title, text in release.songs
        if release.artist in ("Ernestine Boone", "Gravenwick", "The Threefoot Navy")
    ]
    assert len(rows) > 10
    (tmp_path / "data.json").write_text(json.dumps(rows), encoding="utf-8")
    binarize.main(BinarizeConfig(data_dir=str(tmp_path), tokenizer="lyrics-base"))
    bins = Bins.open(str(tmp_path / "lyrics-base"))
    model = checkpoint.load_model(checkpoint.find("lyrics-base"))
    assert split_loss(model, bins.val, detect(device="cpu")).bpc < 2.0


def test_songs_are_written_in_its_tokens_and_it_learns_them(base, songs, capsys):
    bins = binarized(songs)
    assert (bins / "tokenizer.json").read_text() == (base / "tokenizer.json").read_text()
    summary = finetune()
    assert not summary.skipped
    newest = checkpoint.steps(songs.parents[1] / "out/mine")[-1]
    facts = checkpoint.facts_of(newest)
    assert facts["from"] == "lyrics-base, step 7"
    assert (facts["model"]["n_embd"], facts["model"]["block_size"]) == (32, 32)
    trained, begun = checkpoint.read(newest), checkpoint.read(checkpoint.find("lyrics-base"))
    moved = [k for k, v in trained.tensors.items() if not torch.equal(v, begun.tensors[k])]
    assert moved
    assert all((trained.tensors[k] - v).abs().max() < 0.1 for k, v in begun.tensors.items())


def test_auto_begins_from_it_goes_on_and_knows_when_it_is_done(base, songs, capsys):
    binarized(songs)
    finetune()
    assert finetune().skipped
    assert "out/mine held another run" not in capsys.readouterr().out
    whole = checkpoint.read(checkpoint.find("out/mine", "last")).tensors
    shutil.rmtree("out/mine/checkpoints/step_00000004")  # as if it had been stopped
    (songs.parents[1] / "out/mine/train.manifest.json").unlink()
    finetune()
    out = capsys.readouterr().out
    assert "out/mine, steps 2 to 4" in out
    again = checkpoint.read(checkpoint.find("out/mine", "last")).tensors
    assert all(torch.equal(again[k], whole[k]) for k in whole)

    finetune(max_iters=3)  # another experiment: aside with the run, and from the base again
    out = capsys.readouterr().out
    assert "out/mine held another run (max_iters changed)" in out
    assert checkpoint.facts_of(checkpoint.steps(songs.parents[1] / "out/mine")[-1])["from"]
    finetune(max_iters=3, block_size=16)
    assert "(block_size changed)" in capsys.readouterr().out


def test_a_run_from_scratch_in_the_folder_makes_room(base, songs, capsys):
    binarized(songs)
    scratch = TrainConfig().as_dict()
    assert scratch["base"] is None
    finetune(base="none", n_layer=1, n_head=2, n_embd=16, max_iters=2)
    finetune()
    out = capsys.readouterr().out
    assert "held another run (it began from scratch)" in out
    assert len(list(songs.parents[1].glob("out/mine*"))) == 2


def test_what_is_wrong_with_it_is_told_with_the_command_that_restores_it(base, songs):
    weights = base / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged") as error:
        checkpoint.read(checkpoint.find("lyrics-base"))
    assert error.value.mend.startswith("git checkout -- assets/lyrics-base")
    weights.unlink()
    with pytest.raises(CheckpointError, match="lyrics-base is not whole: no") as error:
        checkpoint.find("lyrics-base")
    assert error.value.mend.startswith("git checkout -- assets/lyrics-base")
    shutil.rmtree(base)
    with pytest.raises(DataError, match="lyrics-base is not whole: no") as error:
        binarized(songs)
    assert error.value.mend.startswith("git checkout -- assets/lyrics-base")


def test_a_damaged_tokenizer_is_told_before_anything_is_read(base):
    (base / "tokenizer.json").write_text((base / "tokenizer.json").read_text() + " ")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is damaged"):
        checkpoint.find("lyrics-base")


def test_other_tokens_and_other_shapes_are_refused_with_what_to_do(base, songs):
    binarize.main(BinarizeConfig(data_dir=str(songs)))
    with pytest.raises(CheckpointError, match="lyrics-base, step 7 has another tokenizer") as error:
        finetune(dataset="mine/char")
    assert error.value.mend.endswith("binarize --data_dir=data/mine --tokenizer=lyrics-base")
    with pytest.raises(DataError, match=r"no train\.bin in data/mine/lyrics-base") as error:
        finetune()
    assert error.value.mend.endswith("--data_dir=data/mine --tokenizer=lyrics-base")
    binarized(songs)
    with pytest.raises(CheckpointError, match="n_embd = 48"):
        finetune(n_embd=48)
    with pytest.raises(ConfigError, match="init_from = scratch has no base"):
        finetune(init_from="scratch")


def test_few_songs_and_another_language_are_told(base, songs):
    bins, source = Bins.open(str(binarized(songs))), checkpoint.find("lyrics-base")
    (few,) = begin.advise(source, bins)
    assert "characters are few to finetune on" in few
    rows = [{"text": "Река уносит мой корабль\n" * 20 + str(i), "id": str(i)} for i in range(30)]
    (songs / "data.json").write_text(json.dumps(rows), encoding="utf-8")
    (language,) = begin.advise(source, Bins.open(str(binarized(songs))))
    assert "lyrics-base knows English alone" in language
    assert not list(begin.advise(None, bins))


def test_sample_writes_with_it_as_it_is(base):
    sample.main(SampleConfig(init_from="lyrics-base", num_samples=1, max_new_tokens=20))
    assert list((base.parents[1] / "out" / "lyrics-base" / "lyrics").glob("*.txt"))


def test_only_our_own_format_holds_rounded_numbers():
    assert list(ExportConfig(format="hf", dtype="bfloat16").problems())
