"""Binarize: data.json -> token ids on disk, split by song.

    python -m backend.data.binarize --data_dir=data/demo --tokenizer=char

Reads <data_dir>/data.json, never whole. Writes <data_dir>/{char,gpt2,bpe4096}/: train.bin and
val.bin, an index of songs, tokenizer.json and meta.json, as backend/data/bins.py describes them.
"""

import itertools
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from backend.config.loader import program
from backend.config.schema import BinarizeConfig
from backend.data import tokenizers
from backend.data.bins import Bins, Document, Writer, batched, discard, draw, restore
from backend.data.duplicates import normal_lines
from backend.data.sections import sung_lines
from backend.data.song import CleanSong, header, read_songs, training_header
from backend.errors import ConfigError, DataError
from backend.storage import Stage, Summary, alone

VERSION = 2
BY_HASH = ("song", "album", "artist")
SONG_LINES = 60  # a text of stanzas with at most so many sung lines is like a song
FEW = 20  # below this many songs a split by song leaves too little on one side


def main(config: BinarizeConfig) -> Summary:
    with alone(Path(config.data_dir)):
        return _binarize(config)


def _binarize(config: BinarizeConfig) -> Summary:
    source = Path(config.data_dir) / "data.json"
    given = Path(config.tokenizer_file) if config.tokenizer_file else None
    if config.tokenizer == "lyrics-base":
        given = tokenizers.LYRICS_BASE / "tokenizer.json"
        if not given.is_file():
            raise DataError(f"lyrics-base is not whole: no {given}", mend=tokenizers.RESTORE)
    tokenizer = tokenizers.load(given) if given else None
    size = str(config.vocab_size) if config.tokenizer == "bpe" and not given else ""
    name = tokenizers.folder(config.tokenizer, config.vocab_size)
    if tokenizer and given and config.tokenizer != "lyrics-base":
        name = f"{tokenizer.kind}-{_owner(given)}"
    folder = Path(config.data_dir) / name
    restore(folder)
    settings = {k: v for k, v in config.as_dict().items() if k not in ("force", "data_dir")}
    settings["vocab_size"] = size
    listed = _listed(Path(config.held_out)) if config.held_out else None
    read = [Path(path) for path in (given, config.held_out) if path]
    stage = Stage("binarize", VERSION, folder, settings=settings, inputs=[source, *read])
    if not config.force and (done := stage.unchanged()):
        discard(folder)
        print(done.line())
        return done
    if not config.force and (folder / "corpora.manifest.json").is_file():
        raise DataError(
            f"{folder} holds bins that corpora made of other texts", mend="--force replaces them"
        )

    notes: list[str] = []
    split_by, sides = _sides(source, config, listed, notes)
    if tokenizer is None:
        # characters of all songs, so that validation has no unknown one; merges of training songs
        learnt = (s for side, s in _sides(source, config, listed, [])[1] if side == "train")
        seen = read_songs(source) if config.tokenizer == "char" else learnt
        texts = (header(song.header_fields()) + song.text for song in seen)
        tokenizer = tokenizers.make(config.tokenizer, texts, config.vocab_size)
    with Writer(folder, tokenizer) as writer:
        documents = itertools.chain.from_iterable(
            _documents(side, song, config) for side, song in sides
        )
        for batch in batched(documents):
            writer.add(batch)
        outputs = writer.publish(
            {
                "split_by": split_by,
                "val_fraction": config.val_fraction,
                "seed": config.seed,
                "source_sha256": stage.sha256(source),
            }
        )
    if writer.unseen:
        unknown = [c for c in sorted(writer.unseen) if tokenizer.unseen(tokenizer.nearest(c))]
        known = [
            f"{c!r} is {tokenizer.nearest(c)!r}" for c in sorted(writer.unseen) if c not in unknown
        ]
        become = [f"{' '.join(map(repr, unknown))} {tokenizers.UNKNOWN}"] if unknown else []
        notes.append(f"{given} does not know all characters: {', '.join([*known, *become])} now")
    train, val = writer.counts["train"], writer.counts["val"]
    counts = {
        "songs to train on": train.songs,
        "songs held out": val.songs,
        "tokens": train.tokens + val.tokens,
        "in the vocabulary": tokenizer.vocab_size,
    }
    share = val.songs / max(1, train.songs + val.songs)
    if split_by in BY_HASH and not config.val_fraction / 2 <= share <= config.val_fraction * 2:
        notes.append(
            f"{share:.0%} of the songs are held out, though {config.val_fraction:.0%} were asked "
            f"for: there are few of what the split goes by ({split_by})"
        )
    summary = stage.finish(outputs, counts, notes)
    print("\n".join([summary.line(), *(f"  note: {note}" for note in notes)]))
    print(Bins.open(str(folder)).excerpts())
    return summary


def _documents(side: str, song: CleanSong, config: BinarizeConfig) -> Iterator[Document]:
    """A song as often as it is written."""
    if side == "val":
        yield Document(side, header(song.header_fields()), song.text)
        return
    in_stanzas = "\n\n" in song.text and len(sung_lines(song.text)) <= SONG_LINES
    for copy in range(config.song_copies if in_stanzas else 1):
        yield Document(side, training_header(song, config.seed, copy), song.text)


def _listed(path: Path) -> frozenset[str]:
    """Entries of a list of what to hold out: what stands before a tab, if one does."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read held_out = {path}: {error}", mend="a text file in UTF-8, one entry a line"
        ) from None
    entries = (line.partition("\t")[0].strip().casefold() for line in lines if line[:1] != "#")
    return frozenset(entries) - {""}


def _owner(tokenizer_file: Path) -> str:
    """The run that a tokenizer.json is of."""
    folder = Path(os.path.normpath(tokenizer_file.absolute())).parent
    for parent in folder.parents:
        if parent.name.startswith("models--"):  # Hugging Face's cache
            return parent.name.removeprefix("models--").replace("--", "-")
    return folder.parent.name if folder.name.startswith("export-") else folder.name


def _sides(
    source: Path, config: BinarizeConfig, listed: frozenset[str] | None, notes: list[str]
) -> tuple[str, Iterable[tuple[str, CleanSong]]]:
    """How it is split, and (train | val, song) in the order of data.json.

    All versions of a song go to one side, and with them their whole album or artist where that is
    what the split goes by.
    """
    if listed is not None:
        return "list", _by_list(source, listed, notes)
    # Held out only where the hash of every member says so. Then no song that was trained on is held
    # out later: what joins a group can only take it to training. (Of albums and artists that holds
    # as long as the version that is kept of a song stays on one of them.)
    worst: dict[str, float] = defaultdict(float)  # unit -> largest draw of its members
    leader: dict[str, str] = {}  # unit -> another of the same side, where a song links them
    group_of: dict[str, str] = {}  # duplicate group -> one of its units

    def find(unit: str) -> str:
        while (above := leader.get(unit, unit)) != unit:
            unit = above
        return unit

    n = 0
    for song in read_songs(source):
        unit = _unit(song, config.split_by)
        ids = (song.id, song.duplicate_group, *song.versions)
        members = ids if unit == song.duplicate_group else (unit,)
        a, b = find(unit), find(group_of.setdefault(song.duplicate_group, unit))
        if a != b:
            leader[b] = a
            worst[a] = max(worst[a], worst.pop(b))
        worst[a] = max(worst[a], *(draw(config.seed, key) for key in members))
        n += 1
    if n < FEW:
        notes.append(
            f"only {n} songs: the last {config.val_fraction:.0%} of the text is held out, "
            "cut inside a song; a split by song starts at 20"
        )
        return "contiguous", _contiguous(source, config.val_fraction)
    held_out = {unit for unit, draw in worst.items() if draw < config.val_fraction}
    if not held_out:  # happens to small corpora: one in eight has none at 20 songs
        held_out = {min(worst, key=worst.__getitem__)}
        notes.append(f"the hash held out no {config.split_by}, so the one nearest to it was taken")
    if len(held_out) == len(worst):
        raise DataError(
            f"val_fraction = {config.val_fraction} leaves no {config.split_by} to train on",
            mend="--val_fraction=0.1",
        )
    return config.split_by, (
        ("val" if find(_unit(song, config.split_by)) in held_out else "train", song)
        for song in read_songs(source)
    )


def _unit(song: CleanSong, split_by: str) -> str:
    """What goes to one side together; a song by itself where its artist or album is unknown."""
    artist, album = song.artist_name, song.album
    if split_by == "artist" and artist:
        return f"artist\n{artist.casefold()}"
    if split_by == "album" and artist and album:
        return f"album\n{artist.casefold()}\n{album.casefold()}"
    return song.duplicate_group


def _by_list(
    source: Path, listed: frozenset[str], notes: list[str]
) -> Iterator[tuple[str, CleanSong]]:
    """Held out is what a list names. A song that has half its lines from one of these, or one of
    these half its lines from it, is on neither side: an excerpt, or a version that clean keeps.

    Raises:
        DataError: the list names no song, or all of them.
    """
    groups: set[str] = set()
    named: set[str] = set()
    for song in read_songs(source):
        url = song.url or ""
        names = (song.id, url, url.partition("#")[0], song.artist_name, song.album)
        if found := listed & {name.casefold() for name in names if name}:
            named |= found
            groups.add(song.duplicate_group)
    notes += [f"held_out: {entry!r} names no song here" for entry in sorted(listed - named)]
    if not groups:
        raise DataError("held_out names no song", mend="ids, urls, artists or albums of data.json")

    sizes: list[int] = []  # lines of each song that is held out
    having: dict[str, list[int]] = defaultdict(list)  # a line -> those that have it
    for song in read_songs(source):
        if song.duplicate_group in groups:
            lines = normal_lines(song.text)
            for line in lines:
                having[line].append(len(sizes))
            sizes.append(len(lines))
    n_train, near = 0, []
    for song in read_songs(source):
        if song.duplicate_group in groups:
            yield "val", song
            continue
        lines = normal_lines(song.text)
        shared = Counter(itertools.chain.from_iterable(having.get(line, ()) for line in lines))
        if any(2 * n >= min(len(lines), sizes[other]) for other, n in shared.items()):
            near.append(song.song_name or song.id)
        else:
            n_train += 1
            yield "train", song
    if near:
        notes.append(
            f"{len(near):,} songs are on neither side, whose lines the held-out ones have: "
            + ", ".join(near[:3])
        )
    if not n_train:
        raise DataError("held_out leaves no song to train on", mend="fewer entries")


def _contiguous(source: Path, val_fraction: float) -> Iterator[tuple[str, CleanSong]]:
    """The first part of the text, then the last, as nanoGPT splits; the song at the cut is divided
    at a line break into two documents.

    Raises:
        DataError: one side would be empty.
    """
    lengths = [len(song.text) for song in read_songs(source)]
    cut = round(sum(lengths) * (1 - val_fraction))
    chars = {"train": 0, "val": 0}
    for song, start in zip(read_songs(source), itertools.accumulate([0, *lengths]), strict=False):
        within = min(max(cut - start, 0), len(song.text))
        if 0 < within < len(song.text) and (line_end := song.text.rfind("\n", 0, within + 1)) > 0:
            within = line_end
        parts = {"train": song.text[:within].strip("\n"), "val": song.text[within:].strip("\n")}
        for side, text in parts.items():
            chars[side] += len(text)
            if text:
                yield side, replace(song, text=text)
    if not all(chars.values()):
        raise DataError(
            f"val_fraction = {val_fraction} of {sum(lengths):,} characters leaves one side empty",
            mend="--val_fraction=0.1, or more songs",
        )


if __name__ == "__main__":
    sys.exit(program(main, BinarizeConfig))
