"""The evaluation program as its user meets it, on a model that was trained for a moment."""

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from backend.config.loader import load, program
from backend.config.schema import BinarizeConfig, EvaluateConfig, ModelConfig, TrainConfig
from backend.data import binarize
from backend.data.bins import Bins
from backend.data.song import CleanSong, write_songs
from backend.errors import CheckpointError, ConfigError, DataError
from backend.evaluation import baselines, evaluate, songs
from backend.evaluation.compare import compare
from backend.evaluation.loss import split_loss
from backend.evaluation.sounds import letters
from backend.models import checkpoint
from backend.models.gpt import GPT
from backend.models.weights import Weights
from backend.runtime import detect
from backend.training import train
from tests.conftest import ROOT
from tests.training.conftest import TINY

WORDS = "night light river stone alone down town the a of and over under moon soon sings brings"


def song(n):
    draw = random.Random(n)
    lines = [" ".join(draw.choices(WORDS.split(), k=5)) for _ in range(4)]
    text = "\n".join(["[Verse 1]", *lines, "", "[Chorus]", *lines[:2], "", "[Chorus]", *lines[:2]])
    return CleanSong(text=text, song_name=f"Song {n}", artist_name=("Ann", "Bo")[n % 2],
                     language="en", id=f"{n:016x}")  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A working folder with data/tiny/char, and out/tiny trained on it for a moment."""
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_songs(folder / "data/tiny/data.json", (song(n).to_json() for n in range(60)))
        binarize.main(BinarizeConfig(data_dir="data/tiny", val_fraction=0.2))
        settings = TINY | dict(max_iters=40, eval_interval=20, block_size=64, sample_chars=0)
        train.main(TrainConfig(**settings))
        train.main(TrainConfig(**settings | dict(out_dir="out/wide", n_embd=32)))
    return folder


@pytest.fixture
def here(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return trained


def run(*argv):
    return evaluate.main(load(EvaluateConfig, ["--device=cpu", "--dtype=float32", *argv]))


def found(out="out/tiny"):
    return json.loads(Path(out, "evaluation.json").read_text())


@pytest.mark.e2e
def test_a_run_is_evaluated_in_one_command(here, capsys):
    summary = run("--out_dir=out/tiny", "--seeds=2", "--max_new_tokens=150", "--eval_iters=3")
    said, got, bins = capsys.readouterr().out, found(), Bins.open("tiny/char")
    model = checkpoint.load_model(checkpoint.find("out/tiny"))
    loss = split_loss(model, bins.val, detect(device="cpu"))
    assert got["loss"]["bpc"] == pytest.approx(loss.bpc, rel=1e-6)
    assert got["loss"]["bpb"] == got["loss"]["bpc"]  # ASCII
    low, high = got["loss"]["bpc_interval"]
    assert low < loss.bpc < high
    assert summary.counts["bits per character"] == f"{loss.bpc:.4f}"
    floor = got["baselines"]
    assert set(floor) == {"uniform", "unigram", "5-gram", "xz"}
    assert floor["5-gram"]["bpc"] < floor["unigram"]["bpc"] < floor["uniform"]["bpc"]
    assert set(got["by"]["artist"]) == {"Ann", "Bo"}
    whole = got["by"]["language"]["en"]
    assert (whole["songs"], whole["bpc"]) == (bins.val.songs, pytest.approx(loss.bpc))
    assert 0 < got["trained"]["bpc"] < 6
    assert 0 < got["random"]["loss"] < 6
    lyrics = got["lyrics"]
    assert lyrics["songs"] == bins.val.songs
    assert set(lyrics["figures"]) == {"held out", "training", "model", "5-gram"}
    people, ours = (lyrics["figures"][name] for name in ("held out", "model"))
    assert people["chorus_agreement"]["mean"] == 1
    assert people["repeated_lines"]["mean"] > 0.1 > ours["repeated_lines"]["mean"]
    assert people["words"]["mean"] == 40
    assert people["non_words"]["mean"] == 0 < ours["non_words"]["mean"]
    assert ours["non_words"]["spread"] > 0
    assert "line_distance" in ours and "line_distance" not in people
    assert "longest_copy" in ours
    text = Path("out/tiny/evaluation.md").read_text()
    assert text in said
    assert "| 5-gram |" in text and "rhyme_density" in text
    assert Path("out/tiny/evaluation.png").stat().st_size > 10_000
    before = Path("out/tiny/evaluation.json").stat().st_mtime_ns
    again = run("--out_dir=out/tiny", "--seeds=2", "--max_new_tokens=150", "--eval_iters=3")
    assert again.skipped
    assert Path("out/tiny/evaluation.json").stat().st_mtime_ns == before
    assert text in capsys.readouterr().out


@pytest.mark.e2e
def test_a_corpus_of_copies_is_told_as_copied(here, tmp_path):
    bins = Bins.open("tiny/char")
    rows = [{"text": bins.tokenizer.decode(bins.train.document(i)[1].tolist())} for i in range(12)]
    path = tmp_path / "copies.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("--out_dir=out/tiny", "--only=lyrics", f"--songs={path}", "--seeds=1", "--force")
    got = found()["lyrics"]["figures"]["model"]
    assert got["copied_5grams"]["mean"] == 1
    assert got["longest_copy"]["mean"] == got["words"]["mean"]
    assert got["non_words"]["mean"] == 0


@pytest.mark.e2e
def test_two_processes_tell_what_one_does(here):
    keys = ["--only=loss", "--force", "--device=cpu", "--dtype=float32", "--eval_iters=0"]
    run("--out_dir=out/tiny", *keys)
    one = found()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*torchrun, "-m", "backend.evaluation.evaluate", "--out_dir=out/tiny", *keys]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("# Evaluation of tiny") == 1
    two = found()
    assert two["loss"]["tokens"] == one["loss"]["tokens"]
    assert two["loss"]["bpc"] == pytest.approx(one["loss"]["bpc"], rel=1e-9)
    assert two["loss"]["bpc_interval"] == pytest.approx(one["loss"]["bpc_interval"], rel=1e-9)
    for name, group in one["by"]["artist"].items():
        assert two["by"]["artist"][name]["bpc"] == pytest.approx(group["bpc"], rel=1e-9)


@pytest.mark.e2e
def test_runs_are_compared_by_what_they_kept(here, capsys):
    compare(["out/tiny", "out/wide/"])
    text = Path("out/comparison.md").read_text()
    assert text in capsys.readouterr().out
    rows = {row["run"]: row for row in json.loads(Path("out/comparison.json").read_text())["runs"]}
    for name, row in rows.items():
        val = [
            json.loads(line) for line in Path("out", name, "metrics.jsonl").read_text().splitlines()
        ]
        scores = [r["bpc"] for r in val if r["split"] == "val"]
        assert row["best bpc"] == min(scores)
        assert (row["last bpc"], row["steps"]) == (scores[-1], 40)
        assert row["tokens"] == pytest.approx(40 * 128, rel=0.1)
    assert "| n_embd | 16 | 32 |" in text
    assert "| dropout |" not in text
    assert Path("out/comparison.png").stat().st_size > 10_000


# --- what a user may get wrong --------------------------------------------------------------------


@pytest.mark.e2e
def test_what_does_not_fit_is_a_sentence(here, tmp_path, capsys):
    with pytest.raises(ConfigError, match="does not say what it was trained on"):
        made = Weights(ModelConfig(block_size=8, n_layer=1, n_head=1, n_embd=8), 7, {})
        model = GPT(made.config, 7)
        weights = Weights(made.config, 7, model.weights())
        tokens = Path("data/tiny/char/tokenizer.json").read_text()
        checkpoint.save_weights(tmp_path / "bare", weights, step=0, facts={}, tokenizer=tokens)
        run(f"--init_from={tmp_path / 'bare'}")
    write_songs(tmp_path / "other/data.json", (song(n).to_json() for n in range(30)))
    binarize.main(BinarizeConfig(data_dir=str(tmp_path / "other"), tokenizer="bpe", vocab_size=300))
    with pytest.raises(CheckpointError, match="has another tokenizer"):
        run("--out_dir=out/tiny", f"--dataset={tmp_path / 'other/bpe300'}")
    with pytest.raises(DataError, match="hellaswag is not here"):
        run("--out_dir=out/tiny", "--only=hellaswag")
    with pytest.raises(DataError, match="cannot be read as songs"):
        run("--out_dir=out/tiny", "--only=lyrics", "--songs=nowhere.jsonl", "--force")
    with pytest.raises(CheckpointError, match="nowhere"):
        run("--out_dir=out/nowhere")
    with pytest.raises(DataError, match="there is no out/nowhere"):
        run("--compare", "out/tiny", "out/nowhere")
    assert program(evaluate.main, EvaluateConfig, ["--stride=0", "--only=rhymes"]) == 2
    assert "stride" in capsys.readouterr().err


@pytest.mark.e2e
def test_weights_that_know_characters_alone_are_evaluated_and_it_is_said(here, tmp_path, capsys):
    model = checkpoint.load_model(checkpoint.find("out/tiny"))
    size = model.vocab_size - 2  # as nanoGPT's own: no end of text, no unknown
    tensors = {
        k: v[:size] if "wte" in k or "lm_head" in k else v for k, v in model.weights().items()
    }
    tokens = Path("out/tiny/tokenizer.json").read_text()
    weights = Weights(model.config, size, tensors)
    checkpoint.save_weights(tmp_path / "chars", weights, step=0, facts={}, tokenizer=tokens)
    keys = [f"--init_from={tmp_path / 'chars'}", "--dataset=tiny/char", f"--out_dir={tmp_path}"]
    run(*keys, "--only=loss")
    assert f"knows {size} of the {size + 2} ids" in capsys.readouterr().out
    bare = found(tmp_path)["loss"]["bpc"]
    whole = split_loss(model, Bins.open("tiny/char").val, detect(device="cpu")).bpc
    assert whole < bare < whole + 1


@pytest.mark.e2e
def test_weights_that_are_no_numbers_are_told_before_hours_are_spent(here, tmp_path):
    source = checkpoint.find("out/tiny")
    model = checkpoint.load_model(source)
    with torch.no_grad():
        model.transformer.wte.weight[3, 0] = math.nan
    weights = Weights(model.config, model.vocab_size, model.weights())
    tokens = Path("out/tiny/tokenizer.json").read_text()
    checkpoint.save_weights(tmp_path / "nan", weights, step=0, facts={}, tokenizer=tokens)
    with pytest.raises(CheckpointError, match=r"no numbers, in transformer\.wte\.weight"):
        run(f"--init_from={tmp_path / 'nan'}", "--dataset=tiny/char")


# --- songs ----------------------------------------------------------------------------------------


def test_songs_are_compared_at_the_same_lengths_and_short_ones_left_out():
    long, short = " ".join(WORDS.split() * 3), "one two three"
    held_out = songs.HeldOut([long, long, long], [[0]] * 3, ["en"] * 3)
    written = {
        "training": songs.Written([long, short, long]),
        "model": songs.Written([" ".join(WORDS.split()), long, "xx " * 40], ended=1.0),
        "5-gram": songs.Written([long, long, long]),
    }
    got, left_out = songs.figures(
        [written, written], held_out, known={*WORDS.split()}, sound=lambda language: letters
    )
    assert left_out == 2  # the second row of each seed
    assert got["model"]["non_words"] == {"mean": 0.5, "spread": 0.0}
    assert got["held out"]["non_words"]["mean"] == 0
    assert "non_words" not in got["training"]
    assert got["model"]["ended"]["mean"] == 1
    assert got["model"]["words"]["mean"] == pytest.approx((17 + 51 + 40) / 3)
    assert got["5-gram"]["line_distance"]["mean"] == 0


def test_an_interval_holds_what_songs_alike_have_and_is_none_for_one():
    nats, chars = torch.full((50,), 20.0).numpy(), torch.full((50,), 10.0).numpy()
    low, high = evaluate._interval(nats, chars, seed=1)
    assert low == high == pytest.approx(2 / math.log(2))
    assert evaluate._interval(nats[:1], chars[:1], seed=1) is None
    wild = nats.copy()
    wild[::2] *= 3
    low, high = evaluate._interval(wild, chars, seed=1)
    error = 2 / math.sqrt(50) / math.log(2)  # of a mean of 2 and 6
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15)


@pytest.mark.e2e
def test_training_songs_of_a_split_of_their_own_are_scored_as_there(here):
    bins = Bins.open("tiny/char")
    few = evaluate._few(bins, seed=0)
    assert few.songs == min(bins.val.songs, evaluate.TRAINED)
    for i in range(few.songs):
        head, text = few.document(i)
        assert any(
            text.tolist() == bins.train.document(j)[1].tolist() for j in range(bins.train.songs)
        )
    assert few.chars == sum(len(few.document(i)[1]) for i in range(few.songs))


@pytest.mark.e2e
def test_baselines_that_are_slow_are_kept_for_the_next_evaluation(here):
    bins = Bins.open("tiny/char")
    first = baselines.baselines(bins, counted=lambda: baselines.ngram(bins))
    assert baselines.baselines(bins, counted=lambda: pytest.fail("asked again")) == first
