"""What people ask a trained model for: form, artists, novelty, the best of several, all again."""

import io
import json
import math
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from backend.config.loader import load, program
from backend.config.schema import BinarizeConfig, SampleConfig, TrainConfig
from backend.data import binarize
from backend.data.bins import Bins
from backend.data.sections import sung_lines
from backend.data.song import CleanSong, header, write_songs
from backend.errors import CheckpointError, ConfigError
from backend.evaluation.novelty import Novelty, words
from backend.models import checkpoint, packed
from backend.runtime import cpu_has_bfloat16
from backend.training import sample, train
from tests.conftest import ROOT
from tests.training.conftest import TINY

pytestmark = pytest.mark.e2e  # a run that has learnt a little

WORDS = words("wheel wind world year tale cup road river stone bell harbour candle winter")
ARTISTS = ("Anon", "Björk Band", "The Paper Lamps")


def text_of(i):
    said = WORDS[i % len(WORDS) :] + WORDS[: i % len(WORDS)]
    verses = [f"The {a} goes round the {b}" for a, b in zip(said, said[2:6], strict=False)]
    return (
        "[Verse 1]\n" + "\n".join(verses) + f"\n\n[Chorus]\nOh {said[0]}, oh {said[1]}\nCome home"
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a small corpus and a run that has learnt a little of it."""
    folder = tmp_path_factory.mktemp("songs")
    songs = [
        CleanSong(
            text=text_of(i), song_name=f"Song {i}", artist_name=ARTISTS[i % 3], id=f"{i:016x}"
        )
        for i in range(30)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_songs(folder / "data/tale/data.json", (song.to_json() for song in songs))
        binarize.main(BinarizeConfig(data_dir="data/tale"))
        shape = dict(block_size=64, n_embd=32, max_iters=60, eval_interval=60, tokens_per_step=512)
        own = dict(dataset="data/tale/char", out_dir="out/tale", batch_size=8)
        train.main(TrainConfig(**(TINY | shape | own)))
    return folder


@pytest.fixture(autouse=True)
def _there(place, monkeypatch):
    monkeypatch.chdir(place)


@pytest.fixture
def sung(capsys):
    """sung(settings): the rows, and what was on the screen."""

    def write(**changes):
        settings = dict(out_dir="out/tale", num_samples=2, max_new_tokens=120) | changes
        before = set((checkpoint.Path("out/tale/lyrics")).glob("*.jsonl"))
        capsys.readouterr()
        summary = sample.main(SampleConfig(**settings))
        shown = capsys.readouterr().out
        new = set(summary.folder.glob("*.jsonl")) - before
        path = new.pop() if new else summary.folder / summary.counts.get("file", "none.txt")
        path = path.with_suffix(".jsonl")
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return SimpleNamespace(
            rows=[json.loads(line) for line in lines], shown=shown, path=path, summary=summary
        )

    return write


def index():
    return Novelty.open(Bins.open("data/tale/char"))


# --- form -----------------------------------------------------------------------------------------


def test_a_whole_song_is_written_by_sections_and_streamed_as_it_is_kept(sung):
    got = sung(structure="verse 1, chorus, verse 2, chorus", lines=2, title="Tide", num_samples=3)
    assert len(got.rows) == 3
    for row in got.rows:
        if row["finish"] == "length":
            continue
        parts = re.split(r"(?m)^(\[.+\])$", row["text"])[1:]
        assert parts[::2] == ["[Verse 1]", "[Chorus]", "[Verse 2]", "[Chorus]"]
        assert [len(sung_lines(part)) for part in parts[1::2]] == [2] * 4
        assert parts[3].strip() == parts[7].strip()
        assert row["structure"] == "verse 1, chorus, verse 2, chorus"
        assert row["title"] == "Tide"
    assert sum(row["finish"] == "end" for row in got.rows) >= 1
    kept = got.path.with_suffix(".txt").read_text(encoding="utf-8")
    songs_shown = got.shown[got.shown.index("─") :].rpartition("sample ")[0]
    assert songs_shown.strip() == kept.strip()


def test_lines_that_are_kept_stay_and_the_others_are_written_anew(sung):
    start = text_of(3)
    lines = sung_lines(start)
    got = sung(start=start, keep="1,3-4", max_new_tokens=600)
    for row in got.rows:
        new = sung_lines(row["text"])
        assert len(new) == len(lines)
        assert [new[i] for i in (0, 2, 3)] == [lines[i] for i in (0, 2, 3)]
        assert row["text"].split("\n")[0] == "[Verse 1]"
    assert got.rows[0]["text"] != got.rows[1]["text"]
    for wrong in ("9", "0", "1-99", "1-6"):
        with pytest.raises(ConfigError, match="keep"):
            sung(start=start, keep=wrong)


def test_each_prompt_of_a_file_gets_its_songs_the_same_as_alone(sung, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("The wheel\n---\nOh river, oh\nCome\n-----\n", encoding="utf-8")
    got = sung(start=f"FILE:{path}")
    begins = ["The wheel", "The wheel", "Oh river, oh\nCome", "Oh river, oh\nCome"]
    assert [row["prompt"] for row in got.rows] == begins
    assert all(row["text"].startswith(row["prompt"]) for row in got.rows)
    assert len({row["id"] for row in got.rows}) == 4
    alone = sung(start="Oh river, oh\nCome")
    assert [row["text"] for row in alone.rows] == [row["text"] for row in got.rows[2:4]]


def test_a_prompt_longer_than_the_context_is_read_in_part_and_told(sung):
    got = sung(start=text_of(1), num_samples=1)
    assert "the model sees 64" in got.shown
    assert got.rows[0]["text"].startswith(text_of(1))


# --- who ------------------------------------------------------------------------------------------


def test_an_artist_is_found_without_case_and_accents_and_an_unknown_one_is_told(sung):
    got = sung(artist="bjork BAND", num_samples=1)
    assert got.rows[0]["artist"] == "Björk Band"
    assert got.rows[0]["prompt"].startswith("artist: Björk Band\n")
    assert "no artist" not in got.shown
    got = sung(artist="The Paper Lamp", num_samples=1)
    assert "no artist The Paper Lamp" in got.shown
    assert "the nearest: The Paper Lamps" in got.shown
    assert got.rows[0]["artist"] == "The Paper Lamp"


# --- novelty --------------------------------------------------------------------------------------


def test_every_song_says_what_of_it_stood_in_which_training_song_beside_peoples_songs(sung):
    novelty = index()
    number = next(i for i in range(30) if f"{i:016x}" in {name.id for name in novelty.names})
    copied = "\n".join(sung_lines(text_of(number))[:3])
    got = sung(start=copied, num_samples=1)
    [row] = got.rows
    run = novelty.longest_run(row["text"])
    assert row["novelty"]["longest_words"] == run.n_words >= len(words(copied))
    assert row["novelty"]["song_id"] == run.song.id
    assert row["novelty"]["share_5gram"] == pytest.approx(novelty.seen_share(row["text"]), abs=1e-4)
    assert row["novelty"]["human"] == vars(novelty.human)
    assert f"longest run from a training song: {run.n_words} words" in got.shown
    assert run.song.title in got.shown
    assert "; held-out songs: " in got.shown
    assert len(got.shown.strip().split("\n\n")[-1].splitlines()) <= 2  # one line, and the summary


def test_every_song_says_how_likely_it_is_to_the_model(sung):
    likely, unlikely = (sung(temperature=t, num_samples=1) for t in (0.3, 1.5))
    assert 0 < likely.rows[0]["bpc"] < unlikely.rows[0]["bpc"]
    assert f"; {likely.rows[0]['bpc']:.2f} bits per character; " in likely.shown


def test_the_last_line_is_grey_on_a_terminal_alone(sung, monkeypatch):
    assert "\033" not in sung(seed=11).shown
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    got = sung(seed=12)
    assert "\033[90m(seed 12;" in got.shown
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033" not in sung(seed=13).shown


def test_without_the_training_songs_novelty_is_unknown_and_says_why(sung, place):
    (place / "data/tale").rename(place / "data/gone")
    try:
        got = sung(seed=5)
        assert "novelty unknown: the training songs are not here" in got.shown
        assert got.rows[0]["novelty"]["longest_words"] is None
        with pytest.raises(ConfigError, match="max_copy"):
            sung(max_copy=3)
        got = sung(seed=5, dataset="data/gone/char")
        assert got.rows[0]["novelty"]["longest_words"] is not None
    finally:
        (place / "data/gone").rename(place / "data/tale")


def test_no_run_longer_than_max_copy_is_taken_from_a_training_song(sung):
    novelty = index()
    free = sung(temperature=0.3, num_samples=4)
    assert max(row["novelty"]["longest_words"] for row in free.rows) > 2
    got = sung(temperature=0.3, num_samples=4, max_copy=2)
    for row in got.rows:
        said = words(row["text"])
        whole = said if row["finish"] != "length" else said[:-1]
        assert not any(novelty.copied(whole[i : i + 3]) for i in range(len(whole) - 2))
    assert "words of a training song" in got.shown
    assert any(row["refused"].get("words of a training song") for row in got.rows)


# --- the best of several --------------------------------------------------------------------------


def likelihood(row):
    """Nats a character, token by token, by the whole model."""
    source = checkpoint.find("out/tale")
    model, tokenizer = checkpoint.load_model(source), checkpoint.load_tokenizer(source)
    head = tokenizer.encode(header({"title": "T"})).tolist()
    text = tokenizer.encode(row["text"]).tolist()
    ids = [tokenizer.eot, *head, *text, tokenizer.eot]
    assert len(ids) <= 65
    with torch.no_grad():
        logs = model(torch.tensor([ids[:-1]]))[0][0].log_softmax(-1)
    scored = range(len(head), len(ids) - 1)
    return sum(logs[i, ids[i + 1]].item() for i in scored) / len(text)


def test_the_best_of_several_is_kept_by_weights_that_are_shown(sung):
    how = dict(title="T", max_new_tokens=50, num_samples=2)
    got = sung(**how, best_of=3, rank_by=("likelihood=1",))
    for i, row in enumerate(got.rows):
        seeds = [1337 + i + j * sample.CANDIDATE for j in range(3)]
        each = [sung(**how | dict(num_samples=1), seed=seed).rows[0] for seed in seeds]
        assert row["text"] == max(each, key=likelihood)["text"]
        assert row["best_of"]["likelihood"] == pytest.approx(likelihood(row), abs=2e-4)
        assert all(f"{seed:,}" in got.shown for seed in seeds)
    assert "likelihood (weight 1)" in got.shown
    got = sung(**how, best_of=3, rank_by=("rhyme=2", "novelty=0.5", "repetition=1"))
    for name in ("rhyme (weight 2)", "novelty (weight 0.5)", "repetition (weight 1)"):
        assert name in got.shown
    assert set(got.rows[0]["best_of"]["weights"]) == {"rhyme", "novelty", "repetition"}


# --- again ----------------------------------------------------------------------------------------


def test_songs_are_made_again_from_their_file_and_other_weights_are_refused(sung, place):
    asked = dict(
        structure="Verse 1, Chorus", artist="anon", ban=("river",), stop=("Come",), top_p=0.9
    )
    first = sung(**asked, start="The ")
    for path in (first.path, first.path.with_suffix(".txt")):
        again = sung(repeat=str(path), out_dir=None)
        assert f"the same 2 songs as in {path}" in again.shown
        assert again.summary.skipped
        for row in first.rows:
            assert row["text"] in again.shown
    with pytest.raises(CheckpointError, match="other weights"):
        sung(repeat=str(first.path), out_dir="out/tale", checkpoint="best", init_from=_other(place))
    for wrong in ("nope.jsonl", "out/tale/config.json", "out/tale/checkpoints/index.json"):
        with pytest.raises(ConfigError, match="holds no songs"):
            sung(repeat=wrong)


def _other(place):
    train.main(
        TrainConfig(**(TINY | dict(dataset="data/tale/char", out_dir="out/other", max_iters=1)))
    )
    return str(place / "out/other")


def test_what_was_finished_is_kept_when_somebody_interrupts(sung, monkeypatch, capsys):
    real = sample.generate

    def interrupted(model, rows, how):
        for row, token in real(model, rows, how):
            yield row, token
            if rows[0].done or rows[0].left == 0:
                raise KeyboardInterrupt

    monkeypatch.setattr(sample, "generate", interrupted)
    before = set(checkpoint.Path("out/tale/lyrics").glob("*.jsonl"))
    with pytest.raises(KeyboardInterrupt):
        sung(num_samples=2, seed=77, stop=("e",))
    [path] = set(checkpoint.Path("out/tale/lyrics").glob("*.jsonl")) - before
    assert "songs were done" in capsys.readouterr().out
    rows = path.read_text(encoding="utf-8").splitlines()
    assert json.loads(rows[0])["seed"] == 77


# --- the prompt loop ------------------------------------------------------------------------------


def test_a_prompt_loop_works_with_lines_that_are_piped_in(sung, monkeypatch, capsys):
    said = """The river

/again
/artist bjork band
/temp 0.5
/set lines=2
/set ban="oh no" river
/set-nonsense
/temp hot
/set out_dir=x
Oh
/save
/save
/title Tide
/again
"""
    monkeypatch.setattr(sys, "stdin", io.StringIO(said))
    before = set(checkpoint.Path("out/tale/lyrics").glob("*.jsonl"))
    capsys.readouterr()
    config = SampleConfig(out_dir="out/tale", interactive=True, max_new_tokens=60)
    assert sample.main(config).counts["songs"] == 4
    shown = capsys.readouterr().out
    [path] = set(checkpoint.Path("out/tale/lyrics").glob("*.jsonl")) - before
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["prompt"] for row in rows] == [
        "The river", "The river", "artist: Björk Band\n\nOh",
    ]  # fmt: skip
    assert rows[0]["text"] != rows[1]["text"]
    assert rows[2]["settings"]["lines"] == 2
    assert rows[2]["settings"]["temperature"] == 0.5
    assert rows[2]["settings"]["ban"] == ["oh no", "river"]
    for told in ("no command /set-nonsense", "temperature", "out_dir cannot be changed", "/help",
                 "3 songs: out/tale", "no song to save", "1 songs were not saved"):  # fmt: skip
        assert told in shown
    again = sung(repeat=str(path), out_dir=None)
    assert "the same 3 songs" in again.shown


# --- precision ------------------------------------------------------------------------------------


def test_int8_says_what_it_costs(sung, monkeypatch):
    monkeypatch.setattr(packed, "LEAST", 1)
    got = sung(quantize="int8", num_samples=1)
    told = re.search(
        r"int8: +loss of held-out songs ([\d.]+) -> ([\d.]+) \(([+-][\d.]+)%\)", got.shown
    )
    before, after, change = map(float, told.groups())
    assert 100 * (after / before - 1) == pytest.approx(change, abs=0.01)
    assert abs(change) < 0.5
    assert before < math.log(40)


def test_bfloat16_writes_and_ranks_too(sung, monkeypatch):
    if not cpu_has_bfloat16():
        pytest.skip("this processor has no bfloat16")
    monkeypatch.setattr(packed, "LEAST", 1)
    got = sung(dtype="bfloat16", best_of=2, num_samples=2, max_new_tokens=60)
    exact = sung(best_of=2, num_samples=2, max_new_tokens=60)
    for rough, row in zip(got.rows, exact.rows, strict=True):
        assert rough["best_of"]["likelihood"] == pytest.approx(
            row["best_of"]["likelihood"], rel=0.3
        )


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        ["--temperature=-1"], ["--temperature=inf"], ["--temperature=nan"], ["--top_k=0"],
        ["--top_p=1.1"], ["--top_p=-0.1"], ["--min_p=2"], ["--repetition_penalty=0"],
        ["--repetition_penalty=inf"], ["--presence_penalty=-1"], ["--no_repeat_ngram=0"],
        ["--lines=0"], ["--best_of=0"], ["--max_copy=0"], ["--num_samples=0"],
        ["--max_new_tokens=0"], ["--structure=,"], ["--keep=1"], ["--start=x", "--keep=a"],
        ["--start=x", "--keep=1", "--lines=2"], ["--stanzas=2", "--lines=2"],
        ["--word_bias", "river"], ["--word_bias", "river=much"], ["--rank_by", "beauty=1"],
        ["--stop", ""], ["--repeat=x", "--interactive"], ["--quantize=int4"],
    ],
)  # fmt: skip
def test_impossible_values_are_refused_before_anything_is_loaded(argv):
    with pytest.raises(ConfigError) as error:
        load(SampleConfig, argv)
    assert argv[-1].lstrip("-").partition("=")[0] in error.value.what or "stop" in error.value.what


@pytest.mark.parametrize(
    "settings",
    [
        dict(temperature=0), dict(temperature=1e-8), dict(temperature=1e30), dict(top_k=10**6),
        dict(top_p=0.0), dict(top_p=1.0, min_p=1.0), dict(top_k=None), dict(start=""),
        dict(ban=tuple("abcdefghijklmnopqrstuvwxyz")), dict(no_repeat_ngram=1),
        dict(word_bias=("the=50", "zebra=-50")), dict(repetition_penalty=100.0),
    ],
    ids=str,
)  # fmt: skip
def test_extreme_values_still_write_songs(sung, settings):
    got = sung(**settings, num_samples=1, max_new_tokens=40)
    assert all(isinstance(row["text"], str) for row in got.rows)
    if settings.get("temperature") in (0, 1e-8):
        other = sung(**settings, num_samples=1, max_new_tokens=40, seed=9)
        assert got.rows[0]["text"] == other.rows[0]["text"]


def test_a_console_that_is_not_utf_8_and_a_pipe_that_closes_end_without_a_traceback():
    command = [sys.executable, "-m", "backend.training.sample", "--out_dir=out/tale"]
    plain = dict(os.environ, PYTHONPATH=str(ROOT), PYTHONIOENCODING="ascii", LC_ALL="C")
    done = subprocess.run(
        [*command, "--start=Oh, ö", "--max_new_tokens=30"], env=plain, capture_output=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"Oh, ?" in done.stdout
    with subprocess.Popen(
        [*command, "--max_new_tokens=3000", "--seed=3"], env=plain, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:  # fmt: skip
        child.stdout.read(10)
        child.stdout.close()
        told = child.stderr.read()
    assert b"Traceback" not in told
    assert child.returncode == 130


def test_a_folder_without_weights_and_a_foreign_file_are_sentences(tmp_path, capsys):
    (tmp_path / "ckpt.pt").write_bytes(b"no weights")
    for argv in (["--out_dir=out/nope"], [f"--init_from={tmp_path / 'ckpt.pt'}"]):
        assert program(sample.main, SampleConfig, argv) == 2
        told = capsys.readouterr().err
        assert told.startswith("error: ")
        assert "Traceback" not in told
