"""Figures of data: cleaning by the hundred thousand, bins and batches beside the naive way.

Part of `backend/training/bench.py`.
"""

import json
import random
import re
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from backend.config.schema import BenchConfig
from backend.data.batches import open_batches
from backend.data.bins import Bins
from backend.data.song import (
    SONGS_TABLE,
    CleanSong,
    Song,
    put_song,
    raw_path,
    read_raw,
    song_id,
    write_songs,
)
from backend.report import table
from backend.scrapers import demo_site
from backend.training.measure import measure, python

SIZES = (10_000, 30_000, 120_000, 300_000)  # songs
NEAR = 0.1  # share of copies that are versions of another song
ROUNDS = 3
BATCH, BLOCK, DRAWS, CORPUS = 32, 256, 200, 3000  # rows, tokens, batches a round, songs
SMALL, MIDDLE, LARGE = 20_000_000, 100_000_000, 1_000_000_000  # bytes of text

# What nanoGPT's prepare scripts do, in our own words; prints seconds, writes the ids.
NAIVE = {
    "char": """
import sys, time, numpy as np
began = time.perf_counter()
text = open(sys.argv[1], encoding="utf-8").read()
number = {c: i for i, c in enumerate(sorted(set(text)))}
np.array([number[c] for c in text], dtype=np.uint16).tofile(sys.argv[2])
print(time.perf_counter() - began)
""",
    "gpt2": """
import sys, time, numpy as np, tiktoken
encoding = tiktoken.get_encoding("gpt2")
began = time.perf_counter()
text = open(sys.argv[1], encoding="utf-8").read()
np.array(encoding.encode_ordinary(text), dtype=np.uint16).tofile(sys.argv[2])
print(time.perf_counter() - began)
""",
}


def clean(config: BenchConfig) -> str:
    """Cleaning and deduplicating songs by the thousand: seconds, memory, cost of each."""
    sources = _songs(config)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n in SIZES:
            corpus = Path(folder) / str(n)
            _store(corpus, _multiplied(sources, n))
            got = measure(python("backend.data.clean", f"--data_dir={corpus}"))
            counts = json.loads((corpus / "clean.manifest.json").read_text("utf-8"))["counts"]
            rows.append(
                [n, counts["out"], counts["dropped"].get("duplicate", 0), f"{got.seconds:.0f}",
                 f"{got.seconds / n * 1000:.2f}", f"{got.peak_mb:,.0f}" if got.peak_mb else "?"]
            )  # fmt: skip
    head = ["songs", "kept", "duplicates", "seconds", "ms per song", "peak memory (MB)"]
    note = (
        f"{len(sources):,} songs, each again and again with words exchanged: two in every line, "
        f"or, in {NEAR:.0%} of the copies, few enough to stay a version of the song. Memory of "
        "all processes together."
    )
    return f"{table(head, rows)}\n\n{note}"


def bins(config: BenchConfig) -> str:
    """Text to ids: rate and memory beside the naive way, in turn; the ids are compared."""
    rows, base = [], 1.0
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        texts = {n: _text(config, folder / f"{n}.txt", n) for n in (SMALL, MIDDLE, LARGE)}
        for kind, first, more in (("char", SMALL, [LARGE]), ("gpt2", MIDDLE, [])):
            theirs, ours = [], []
            for _ in range(ROUNDS):
                command = [sys.executable, "-c", NAIVE[kind], str(texts[first])]
                naive = measure([*command, str(folder / "naive")])
                theirs.append((float(naive.output.split()[-1]), naive.peak_mb or 0))
                ours.append(_ours(folder, texts[first], kind))
            _same(folder, kind)
            got = [("the naive way", first, theirs), ("ours", first, ours)]
            for size in more:
                again = [_ours(folder, texts[size], kind) for _ in range(ROUNDS)]
                got.append(("ours", size, again))
            for name, size, runs in got:
                seconds, memory = map(statistics.median, zip(*runs, strict=True))
                rate = size / seconds / 1e6
                base = rate if name != "ours" else base
                rows.append(
                    [kind, name, f"{size // 10**6:,} MB", f"{rate:.1f}", f"{rate / base:.1f}",
                     f"{memory:,.0f}"]
                )  # fmt: skip
    head = ["tokens", "", "text", "MB/s", "against the naive way", "peak memory (MB)"]
    note = (
        "The naive way, as nanoGPT's prepare scripts: the whole text, one list of ids, one array; "
        "for gpt2 one tiktoken thread. Seconds without loading Python; the same ids, compared."
    )
    return f"{table(head, rows)}\n\n{note}"


def batches(config: BenchConfig) -> str:
    """Drawing a batch: nanoGPT's way, our random windows, our rows of songs; in turn."""
    with tempfile.TemporaryDirectory() as name:
        corpus = Path(name)
        songs = (
            CleanSong(text=song.lyrics or "", song_name=song.title, artist_name=song.artist)
            for song in _multiplied(_songs(config), CORPUS)
        )
        write_songs(corpus / "data.json", (song.to_json() for song in songs))
        measure(python("backend.data.binarize", f"--data_dir={corpus}"))
        bins = Bins.open(str(corpus / "char"))
        ways: dict[str, Callable[[int], object]] = {
            "nanoGPT's way": lambda step: _get_batch(corpus / "char" / "train.bin")
        }
        for kind, title in (("random", "ours, random windows"), ("songs", "ours, rows of songs")):
            source = open_batches(kind, bins, seed=0, block_size=BLOCK, document_mask=False)

            def take(step: int, take: Callable[..., object] = source.take) -> object:
                return take(step, done=step * BATCH, of=BATCH, rows=range(BATCH))

            ways[title] = take
        times: dict[str, list[float]] = {name: [] for name in ways}
        for round_ in range(ROUNDS + 1):
            for way, draw in ways.items():
                began = time.perf_counter()
                for step in range(round_ * DRAWS, (round_ + 1) * DRAWS):
                    draw(step)
                if round_:  # the first one warms up
                    times[way].append((time.perf_counter() - began) / DRAWS * 1000)
        medians = {way: statistics.median(each) for way, each in times.items()}
        base = medians["nanoGPT's way"]
        rows = [[way, f"{ms:.2f}", f"{base / ms:.1f}"] for way, ms in medians.items()]
        tokens = len(bins.train.tokens)
    note = (
        f"{BATCH} rows of {BLOCK} characters from {tokens:,}; medians of {ROUNDS} rounds of "
        f"{DRAWS} batches, each epoch's order of the songs included. Training draws them in "
        "another thread, ahead of the step."
    )
    return f"{table(['', 'ms a batch', 'times as fast'], rows)}\n\n{note}"


def _get_batch(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """As nanoGPT's train.py draws a batch, in our own words: the file mapped anew, two copies."""
    data = np.memmap(path, dtype=np.uint16, mode="r")
    starts = torch.randint(len(data) - BLOCK, (BATCH,)).tolist()
    x, y = (
        torch.stack(
            [torch.from_numpy(data[s + o : s + o + BLOCK].astype(np.int64)) for s in starts]
        )
        for o in (0, 1)
    )
    return x, y


def _ours(folder: Path, text: Path, kind: str) -> tuple[float, float]:
    """(seconds, MB) of `corpora` on a text."""
    got = measure(
        python("backend.data.corpora", "--corpus=text", f"--path={text}", f"--tokenizer={kind}",
               f"--data_dir={folder}/bins", "--force")
    )  # fmt: skip
    manifest = folder / "bins" / kind / "corpora.manifest.json"
    return json.loads(manifest.read_text("utf-8"))["seconds"], got.peak_mb or 0


def _same(folder: Path, kind: str) -> None:
    """Both ways gave the same ids; ours has an end-of-text around each side."""
    naive = np.fromfile(folder / "naive", np.uint16)
    sides = [np.fromfile(folder / "bins" / kind / f"{s}.bin", np.uint16) for s in ("train", "val")]
    ours = np.concatenate([side[1:-1] for side in sides])
    if kind == "gpt2":  # a word may be cut where the sides meet, by nanoGPT too
        half = len(sides[0]) - 8
        assert np.array_equal(ours[:half], naive[:half])
    else:
        assert np.array_equal(ours, naive)


def _songs(config: BenchConfig) -> list[Song]:
    if config.songs:
        return [song for song in read_raw(Path(config.songs)) if song.lyrics]
    releases = [demo_site.read_release(path) for path in demo_site.songbook_files()]
    return [
        Song(id=song_id("bench", title), source="files", kind="song", artist=release.artist,
             title=title, lyrics=text)
        for release in releases for title, text in release.songs
    ]  # fmt: skip


def _multiplied(songs: Sequence[Song], n: int) -> Iterator[Song]:
    """n songs with the words of these, the same at every call."""
    words = sorted({word for song in songs for word in (song.lyrics or "").split()})

    def lines_of(i: int) -> list[str]:
        draw = random.Random(i)
        near = draw.random() < NEAR and i >= len(songs)
        lines = (songs[i % len(songs)].lyrics or "").split("\n")
        if near:  # a version of the copy before
            lines = lines_of(i - len(songs))
        for j, line in enumerate(lines):
            parts = re.split(r"(\s+)", line)
            for _ in range(draw.random() < 0.1 if near else 2):
                parts[2 * draw.randrange(len(parts) // 2 + 1)] = draw.choice(words)
            lines[j] = "".join(parts) if line else ""
        return lines

    for i in range(n):
        song = songs[i % len(songs)]
        yield Song(
            id=song_id("bench", str(i)), source="files", kind="song", artist=song.artist,
            title=f"{song.title} {i}", lyrics="\n".join(lines_of(i)),
        )  # fmt: skip


def _store(corpus: Path, songs: Iterator[Song]) -> None:
    raw_path(corpus).parent.mkdir(parents=True)
    db = sqlite3.connect(raw_path(corpus))
    with db:
        db.execute(SONGS_TABLE)
        for song in songs:
            put_song(db, song)
    db.close()


def _text(config: BenchConfig, path: Path, size: int) -> Path:
    """A text of this many bytes: the given one, or the songbook, again and again."""
    if config.text:
        once = Path(config.text).read_bytes()
    else:
        once = "\n\n".join(song.lyrics or "" for song in _songs(config)).encode()
    with path.open("wb") as file:
        for _ in range(size // len(once)):
            file.write(once)
    return path
