"""A tiny corpus and a tiny recipe, seconds from start to end."""

import pytest

from backend.config.schema import BinarizeConfig, TrainConfig
from backend.data import binarize
from backend.data.song import CleanSong, write_songs

TINY = dict(
    block_size=32, n_layer=2, n_head=2, n_embd=16, dropout=0.1, tokens_per_step=128, batch_size=2,
    learning_rate=1e-2, min_lr=1e-3, warmup_iters=2, max_iters=12, eval_interval=4, log_interval=1,
    sample_chars=8, dataset="data/tiny/char", out_dir="out/tiny", device="cpu", dtype="float32",
)  # fmt: skip


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """The working folder, with data/tiny/char in it."""
    monkeypatch.chdir(tmp_path)
    songs = [
        CleanSong(
            text="\n".join(f"The {word} goes round {n} times" for n in range(6)),
            song_name=f"Song {word}",
            artist_name="Anon",
        )
        for word in ("wheel", "wind", "world", "year", "tale", "cup")
    ]
    write_songs(tmp_path / "data/tiny/data.json", (song.to_json() for song in songs))
    binarize.main(BinarizeConfig(data_dir="data/tiny"))
    return tmp_path


@pytest.fixture
def tiny():
    def config(**changes):
        return TrainConfig(**(TINY | changes))

    return config
