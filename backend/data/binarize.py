"""Binarize: data.json -> token ids on disk, split by song.

    python -m backend.data.binarize --data_dir=data/demo --tokenizer=char

Reads <data_dir>/data.json, never whole. Writes <data_dir>/{char,gpt2,bpe4096}/: train.bin and
val.bin, an index of songs, tokenizer.json and meta.json, as backend/data/bins.py describes them.
"""

import itertools
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from backend.config.loader import program
from backend.config.schema import BinarizeConfig
from backend.data import tokenizers
from backend.data.bins import Bins, Document, Writer, batched, discard, draw, restore
from backend.data.song import CleanSong, header, read_songs, training_header
from backend.errors import DataError
from backend.storage import Stage, Summary, alone

VERSION = 2
FEW = 20  # below this many songs a split by song leaves too little on one side


def main(config: BinarizeConfig) -> Summary:
    with alone(Path(config.data_dir)):
        return _binarize(config)


def _binarize(config: BinarizeConfig) -> Summary:
    source = Path(config.data_dir) / "data.json"
    given = Path(config.tokenizer_file) if config.tokenizer_file else None
    tokenizer = tokenizers.load(given) if given else None
    size = str(config.vocab_size) if config.tokenizer == "bpe" and not given else ""
    name = tokenizers.folder(config.tokenizer, config.vocab_size)
    if tokenizer and given:
        name = f"{tokenizer.kind}-{_owner(given)}"
    folder = Path(config.data_dir) / name
    restore(folder)
    settings = {k: v for k, v in config.as_dict().items() if k not in ("force", "data_dir")}
    settings["vocab_size"] = size
    stage = Stage(
        "binarize", VERSION, folder, settings=settings, inputs=[source, *([given] if given else [])]
    )
    if not config.force and (done := stage.unchanged()):
        discard(folder)
        print(done.line())
        return done
    if not config.force and (folder / "corpora.manifest.json").is_file():
        raise DataError(
            f"{folder} holds bins that corpora made of other texts", mend="--force replaces them"
        )

    notes: list[str] = []
    split_by, sides = _sides(source, config, notes)
    if tokenizer is None:
        # characters of all songs, so that validation has no unknown one; merges of training songs
        learnt = (s for side, s in _sides(source, config, [])[1] if side == "train")
        seen = read_songs(source) if config.tokenizer == "char" else learnt
        texts = (header(song.header_fields()) + song.text for song in seen)
        tokenizer = tokenizers.make(config.tokenizer, texts, config.vocab_size)
    with Writer(folder, tokenizer) as writer:
        documents = (_document(side, song, config.seed) for side, song in sides)
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
    if split_by != "contiguous" and not config.val_fraction / 2 <= share <= config.val_fraction * 2:
        notes.append(
            f"{share:.0%} of the songs are held out, though {config.val_fraction:.0%} were asked "
            f"for: there are few of what the split goes by ({split_by})"
        )
    summary = stage.finish(outputs, counts, notes)
    print("\n".join([summary.line(), *(f"  note: {note}" for note in notes)]))
    print(Bins.open(str(folder)).excerpts())
    return summary


def _document(side: str, song: CleanSong, seed: int) -> Document:
    train = side == "train"
    head = training_header(song, seed) if train else header(song.header_fields())
    return Document(side, head, song.text)


def _owner(tokenizer_file: Path) -> str:
    """The run that a tokenizer.json is of."""
    folder = Path(os.path.normpath(tokenizer_file.absolute())).parent
    for parent in folder.parents:
        if parent.name.startswith("models--"):  # Hugging Face's cache
            return parent.name.removeprefix("models--").replace("--", "-")
    return folder.parent.name if folder.name.startswith("export-") else folder.name


def _sides(
    source: Path, config: BinarizeConfig, notes: list[str]
) -> tuple[str, Iterable[tuple[str, CleanSong]]]:
    """How it is split, and (train | val, song) in the order of data.json.

    All versions of a song go to one side, and with them their whole album or artist where that is
    what the split goes by.
    """
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
