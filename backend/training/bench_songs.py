"""Figures on songs: what an evaluation takes, which tokenizer learns most in equal time, and what a
base of other artists, or lyrics-base, is worth.

Part of `backend/training/bench.py`. Every run is a process of its own, measured in bits per
character of the same held-out songs.
"""

import json
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from backend.config.schema import BenchConfig
from backend.data.bins import Bins
from backend.data.song import CleanSong, read_songs, split_header, write_songs
from backend.errors import ConfigError
from backend.evaluation import baselines, lyrics
from backend.evaluation.compare import read_metrics
from backend.models import checkpoint
from backend.models.gpt import n_params
from backend.report import table
from backend.storage import atomic_write
from backend.training.bench_model import checkout
from backend.training.bench_train import OURS, THEIR_EVALUATION, Race, Run, data_json, link
from backend.training.measure import measure, python

LYRICS = 1000  # songs whose figures are timed
LEAST_SONGS = 100  # of an artist to finetune on
FINETUNE = 0.25  # of the base's seconds
GENTLE = ("--muon_lr=0.0025", "--learning_rate=1.2e-3")  # a third of the recipe's
EVALUATIONS = 10
TRIAL = 100  # iterations of nanoGPT that say what one costs
WRITTEN = ("non_words", "end_rhyme_rate", "repeated_lines", "words_per_line", "longest_copy",
           "copied_5grams", "ended")  # fmt: skip
WRITTEN_SEEDS = 2
LINES = 12  # of a song that is shown
CURVES = "lyrics_base.png"  # beside train's picture
SMALL = 300_000  # characters, as in the flow
TOKENIZERS = (("char",), ("bpe", "--vocab_size=1024"), ("bpe", "--vocab_size=4096"), ("gpt2",))


def lacks_songs(config: BenchConfig) -> str | None:
    return None if config.songs else "it needs --songs=FOLDER with a data.json"


def evaluation(config: BenchConfig) -> str:
    """Seconds and memory of `evaluate` on the whole validation split, and of lyric figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        race = Race(config, folder, _binarized(config, folder / "songs", "char"), plain=False)
        run = race.ours(OURS, 10, seed=config.seed, name="a model of ten steps")
        command = python("backend.evaluation.evaluate", f"--out_dir={run.place}", "--device=cpu")
        rows = []
        for what, keys in (
            ("loss, 5-gram and xz made", ("--only=loss",)),
            ("loss, baselines kept", ("--only=loss", "--force")),
            ("lyrics, 50 songs, 3 seeds", ("--only=lyrics",)),
        ):
            got = measure([*command, *keys], folder)
            memory = f"{got.peak_mb:,.0f}" if got.peak_mb else "unknown"
            rows.append([what, f"{got.seconds:.1f}", f"{got.cpu_seconds:.1f}", memory])
            print("  ".join(rows[-1]), flush=True)
        val = race.bins.val
        note = f"{val.songs:,} held-out songs, {val.chars:,} characters, windows of 128."
    texts = [
        song.text for song, _ in zip(read_songs(data_json(config)), range(LYRICS), strict=False)
    ]
    began = time.process_time()
    for text in texts:
        lyrics.quality(text)
    for n in (1, 2, 3):
        lyrics.distinct(texts, n)
    lyrics.self_bleu(texts[:200])
    took = time.process_time() - began
    rows.append([f"figures of {len(texts):,} songs, without language", "", f"{took:.1f}", ""])
    return table(["", "seconds", "CPU seconds", "peak memory (MB)"], rows) + f"\n\n{note}"


def tokenizers(config: BenchConfig) -> str:
    """Characters, trained BPEs and GPT-2's, for equal time."""
    rows, left_out = [], []
    with tempfile.TemporaryDirectory() as name:
        for i, (kind, *words) in enumerate(TOKENIZERS):
            folder = Path(name) / str(i)
            folder.mkdir()
            try:
                bins = _binarized(config, folder / "songs", kind, *words)
            except ConfigError as error:  # GPT-2's vocabulary is downloaded
                left_out.append(f"{kind} could not be made: {error.what.splitlines()[-1]}")
                continue
            race = Race(config, folder, bins, plain=False)
            label = bins.folder.name
            runs = race.in_time(config.seconds, OURS, config.seeds, label)
            scores = [_best(run) for run in runs]
            per_token = bins.train.chars / len(bins.train.tokens)
            model = checkpoint.load_model(checkpoint.find(runs[0].place, "last"))
            read = statistics.median(run.tokens * per_token for run in runs) / 1e6
            rows.append([label, bins.tokenizer.vocab_size, f"{per_token:.2f}", n_params(model),
                         f"{read:.2f}", f"{statistics.median(scores):.4f}",
                         f"{max(scores) - min(scores):.4f}"])  # fmt: skip
            print("  ".join(map(str, rows[-1])), flush=True)
    head = ["tokenizer", "vocabulary", "characters a token", "parameters",
            "million characters read", "bits/char", "spread"]  # fmt: skip
    note = (
        f"`{OURS[0]}`, {config.seconds} s of training each, median of {config.seeds} seeds. A "
        "block is 128 tokens of any kind, so that longer tokens see more of a song."
    )
    return "\n\n".join([table(head, rows), note, *left_out])


def transfer(config: BenchConfig) -> str:
    """One artist alone, against a base trained on all others and finetuned on that artist."""
    songs = [*read_songs(data_json(config))]
    artist = config.artist or _artist(songs)
    groups = {
        "own": [song for song in songs if song.artist_name == artist],
        "others": [song for song in songs if song.artist_name != artist],
    }
    if not all(groups.values()):
        raise ConfigError(f"{config.songs} has no songs of {artist!r} and of others to compare")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = _binarized(config, folder / "songs", "char").folder / "tokenizer.json"
        bins = {}
        for side, chosen in groups.items():
            place = folder / side
            write_songs(place / "data.json", (song.to_json() for song in chosen))
            given = f"--tokenizer_file={tokenizer}"
            measure(python("backend.data.binarize", f"--data_dir={place}", given))
            made = next(path.parent for path in place.glob("*/meta.json"))
            bins[side] = Bins.open(str(made))
        own, others = (Race(config, folder / f"{s}-runs", bins[s], plain=False) for s in bins)
        for race in (own, others):
            race.folder.mkdir()
        rows = []

        def row(label: str, seconds: float, scores: Sequence[float], steps: int) -> None:
            spread = f"{max(scores) - min(scores):.4f}"
            rows.append(
                [label, steps, f"{seconds:.0f}", f"{statistics.median(scores):.4f}", spread]
            )
            print("  ".join(map(str, rows[-1])), flush=True)

        seconds = float(config.seconds)
        whole = (1 + FINETUNE) * seconds
        alone = [
            own.ours(OURS, steps, seed=seed, evaluations=EVALUATIONS, name=f"alone, seed {seed}")
            for seed, steps in _seeds(config, own.cost(OURS), whole)
        ]
        row(f"{artist} alone", whole, [_best(run) for run in alone], alone[0].steps)
        base = others.in_time(seconds, OURS, 1, "base")[0]
        row("base of all others, as it is", seconds, [own.losses(base)[0]], base.steps)
        words = (*OURS, f"--init_from={base.place}", *GENTLE)
        tuned = [
            own.ours(words, steps, seed=seed, evaluations=EVALUATIONS, name=f"tuned, seed {seed}")
            for seed, steps in _seeds(config, own.cost(words), FINETUNE * seconds)
        ]
        row("base, finetuned", whole, [_best(run) for run in tuned], tuned[0].steps)
    note = (
        f"{len(groups['own']):,} songs of {artist}, {len(groups['others']):,} of others; measured "
        f"on {bins['own'].val.songs} held-out songs of {artist}, best of {EVALUATIONS} looks, "
        f"median of {config.seeds} seeds. `{OURS[0]}`; finetuning with {' '.join(GENTLE)}. Seconds "
        "are of all training behind the figure."
    )
    head = ["", "steps", "seconds", "bits/char", "spread"]
    return table(head, rows) + f"\n\n{note}"


def base(config: BenchConfig) -> str:
    """lyrics-base finetuned, and the same songs from scratch, on the demo songbook and on the songs
    that were named."""
    parts = []
    with tempfile.TemporaryDirectory() as name:
        demo = Path(name) / "data" / "demo"
        measure(python("backend.scrapers.crawl", "--source=demo", f"--data_dir={demo}"))
        measure(python("backend.data.clean", f"--data_dir={demo}"))
        for corpus in (demo, *map(Path, [config.songs] if config.songs else [])):
            print(f"{corpus.name}:", flush=True)
            own = replace(config, songs=str(corpus))
            parts += [f"#### {corpus.name}", *_tuned_and_scratch(own, corpus == demo)]
    return "\n\n".join(parts)


def _tuned_and_scratch(config: BenchConfig, drawn: bool) -> list[str]:
    """One corpus: bits per character over the seconds, by our recipe from scratch and by that of
    lyrics-base, beside nanoGPT's recipe and a 5-gram; then what each writes."""
    ways = {"char": "", "lyrics-base": "config/finetune_lyrics_base.py"}
    with tempfile.TemporaryDirectory() as name:
        races, runs, looks = {}, {}, {}
        for kind in ways:
            folder = Path(name) / kind
            bins = _binarized(config, folder / "songs", kind)
            races[kind] = Race(config, folder, bins, plain=False)
        bins = races["char"].bins
        small = bins.train.chars < SMALL
        ways["char"] = f"config/lyrics_{'small' if small else 'cpu'}.py"
        floor = baselines.baselines(bins, counted=lambda: baselines.ngram(bins))["5-gram"].bpc
        for kind, race in races.items():
            words = (ways[kind],)
            runs[kind] = [
                race.ours(words, steps, seed=seed, evaluations=EVALUATIONS, name=f"{kind}, {seed}")
                for seed, steps in _seeds(config, race.cost(words), config.seconds)
            ]
            curves = [
                [float(r["bpc"]) for r in read_metrics(run.place) if r["split"] == "val"]
                for run in runs[kind]
            ]
            looks[kind] = [statistics.median(column) for column in zip(*curves, strict=True)]
        beside = ""
        if checkout(config):
            race = races["char"]
            trial = race.nanogpt(TRIAL)
            steps = round(config.seconds * TRIAL / trial.seconds / THEIR_EVALUATION)
            theirs = race.nanogpt(THEIR_EVALUATION * max(1, steps))
            beside = f" nanoGPT's recipe reaches {race.losses(theirs)[0]:.4f} in "
            beside += f"{theirs.seconds:.0f} s."
        written: list[list[str]] = []
        songs = []
        for kind, race in races.items():
            place = runs[kind][0].place
            figures = _of_its_songs(place)
            if not written:
                written = [[who, *figures[who]] for who in ("held out", "training", "5-gram")]
            written.append([f"`{ways[kind]}`", *figures["model"]])
            songs.append(f"`{ways[kind]}`, asked for the first held-out song:")
            songs.append(_a_song(place, race.bins))
    memory = {kind: max(run.process.peak_mb or 0.0 for run in runs[kind]) for kind in ways}
    seconds = [config.seconds * i / EVALUATIONS for i in range(EVALUATIONS + 1)]
    rows = [
        [f"{at:.0f}", f"{scratch:.4f}", f"{tuned:.4f}"]
        for at, scratch, tuned in zip(seconds, *looks.values(), strict=False)
    ]
    picture = Path(config.picture).with_name(CURVES)
    if drawn:
        _draw(picture, seconds, looks, floor)
    scratch, tuned = map(min, looks.values())
    note = (
        f"{bins.train.chars:,} characters to train on, {bins.val.songs} songs held out; seeds: "
        f"{config.seeds}. A 5-gram of characters has {floor:.4f} bits/char.{beside} At best "
        f"{tuned:.4f} against {scratch:.4f} from scratch, {1 - tuned / scratch:.1%} fewer, and "
        f"{1 - tuned / floor:.1%} fewer than the 5-gram. Memory: {memory['lyrics-base']:,.0f} MB "
        f"against {memory['char']:,.0f}."
    )
    return [
        table(["seconds of training", *(f"`{way}`" for way in ways.values())], rows),
        note,
        *[f"![Bits per character over the seconds]({link(picture, Path(config.file))})"] * drawn,
        f"What they write for the held-out songs, by `evaluate` ({WRITTEN_SEEDS} seeds):",
        table(["", *(key.replace("_", " ") for key in WRITTEN)], written),
        *songs,
    ]


def _draw(
    path: Path, seconds: Sequence[float], looks: Mapping[str, Sequence[float]], floor: float
) -> None:
    """Bits per character over the seconds, with the 5-gram's as a level."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3.8), layout="constrained")
    axes.axhline(floor, color="grey", linestyle=":", label=f"a 5-gram: {floor:.2f}")
    for (kind, curve), color, label in zip(
        looks.items(), ("#d55e00", "#0072b2"), ("from scratch", "lyrics-base, finetuned"),
        strict=True,
    ):  # fmt: skip
        at = seconds[: len(curve)]
        style = "s--" if kind == "char" else "o-"
        axes.plot(at, curve, style, color=color, markersize=4, label=f"{label}: {min(curve):.2f}")
    axes.set_ylim(min(map(min, looks.values())) - 0.2, floor + 1.2)
    axes.set_xlabel("seconds of training on a CPU", fontsize=12)
    axes.set_ylabel("bits per character", fontsize=12)
    axes.tick_params(labelsize=11)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=12, frameon=False)
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png", dpi=110)
    pyplot.close(figure)


def _of_its_songs(place: Path) -> dict[str, list[str]]:
    """Who wrote them -> the figures of WRITTEN, of a run at its best step."""
    only = ("--only=lyrics", f"--seeds={WRITTEN_SEEDS}", "--device=cpu")
    measure(python("backend.evaluation.evaluate", f"--out_dir={place}", *only))
    found = json.loads((place / "evaluation.json").read_text(encoding="utf-8"))["lyrics"]
    return {
        who: [f"{each[key]['mean']:.3f}" if key in each else "" for key in WRITTEN]
        for who, each in found["figures"].items()
    }


def _a_song(place: Path, bins: Bins) -> str:
    """The first lines of what a run writes for the header of the first held-out song."""
    known, _ = split_header(bins.tokenizer.decode(bins.val.document(0)[0].tolist()))
    asked = [f"--{key}={known[key]}" for key in ("artist", "title") if key in known]
    measure(python("backend.training.sample", f"--out_dir={place}", "--num_samples=1", *asked))
    [path] = (place / "lyrics").glob("*.jsonl")
    text = json.loads(path.read_text(encoding="utf-8").splitlines()[0])["text"]
    lines = "\n".join(text.strip().splitlines()[:LINES]).rstrip()
    return f"```text\n{lines}\n```"


def _binarized(config: BenchConfig, folder: Path, kind: str, *words: str) -> Bins:
    """Bins of the corpus, in a folder of their own.

    Raises:
        ConfigError: they cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(data_json(config), folder / "data.json")
    measure(python("backend.data.binarize", f"--data_dir={folder}", f"--tokenizer={kind}", *words))
    return Bins.open(str(next(path.parent for path in folder.glob("*/meta.json"))))


def _artist(songs: Sequence[CleanSong]) -> str:
    """Who has the fewest songs of those that have enough."""
    counts = Counter(song.artist_name for song in songs if song.artist_name)
    enough = {name: n for name, n in counts.items() if n >= LEAST_SONGS}
    if len(enough) < 2:
        raise ConfigError(
            f"fewer than two artists have {LEAST_SONGS} songs", mend="--artist=NAME, or --songs="
        )
    return min(enough, key=lambda name: (enough[name], name))


def _seeds(config: BenchConfig, cost: float, seconds: float) -> list[tuple[int, int]]:
    """(seed, steps) of each run of so many seconds."""
    steps = EVALUATIONS * max(1, round(seconds / cost / EVALUATIONS))
    return [(seed, steps) for seed in range(config.seed, config.seed + config.seeds)]


def _best(run: Run) -> float:
    """Bits per character at the best evaluation."""
    return min(float(row["bpc"]) for row in read_metrics(run.place) if row["split"] == "val")
