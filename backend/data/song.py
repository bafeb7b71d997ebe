"""Songs: the raw record, the clean record, their files, and the document a model reads.

The only file that knows these formats:

    raw songs    <data_dir>/raw/crawl.sqlite, table songs(id, json); else raw/<source>/*.jsonl
    data.json    a JSON array, one clean song per line: valid JSON, and streamable
    a document   <|endoftext|>, header, text
"""

import hashlib
import json
import os
import random
import re
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, Self

from backend.errors import DataError
from backend.storage import atomic_write

Kind = Literal["song", "instrumental", "empty", "removed", "unreleased", "translation", "nonsong"]
HEADER = ("artist", "title", "album", "year", "language")  # order of a document's header lines
ENCODER = json.JSONEncoder(ensure_ascii=False)
KEEP_LINE, DROP_ALL = 0.7, 0.1  # so that a model can be asked for an artist, a title, both, neither


@dataclass(frozen=True, kw_only=True)
class Song:
    """A song as its source prints it. `lyrics` is verbatim, and absent unless there is text.

    `version_of` is what it is of which song, as `live: Tam` or `demo: Tam`, where the source or its
    title says so.
    """

    id: str
    source: str
    title: str
    kind: Kind
    url: str | None = None
    artist: str | None = None
    album: str | None = None
    year: int | None = None
    track: int | None = None
    language: str | None = None
    fetched_at: str | None = None
    version_of: str | None = None
    lyrics: str | None = None

    def to_json(self) -> str:
        """One line, without the fields that are unknown."""
        return ENCODER.encode({k: v for k, v in vars(self).items() if v is not None})

    @classmethod
    def from_json(cls, line: str) -> Self:
        """The reverse.

        Raises:
            ValueError, TypeError: it is no song.
        """
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError("not an object")
        known = {k: v for k, v in row.items() if k in RAW_FIELDS and v is not None}
        for key, value in known.items():
            if key in NUMBERS:
                known[key] = _whole(key, value)
            elif not isinstance(value, str):
                raise ValueError(f"{key} = {value!r} is no text")
            elif key in ("id", "source", "url"):
                value.encode()  # a lone surrogate is JSON, and no text: ValueError
        return cls(**known)


@dataclass(frozen=True, kw_only=True)
class CleanSong:
    """A song as data.json holds it; the first three names are NanoRapGPT's."""

    text: str
    song_name: str | None = None
    artist_name: str | None = None
    album: str | None = None
    year: int | None = None
    language: str | None = None
    source: str | None = None
    url: str | None = None
    id: str = ""
    duplicate_group: str = ""
    versions: tuple[str, ...] = ()
    performers: tuple[str, ...] = ()
    explicit: bool | None = None  # known only where clean was asked to flag it

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """From any object with a `text`; an id that is missing comes from the text itself.

        Raises:
            ValueError: a field is of another kind.
        """
        values = {k: v for k, v in row.items() if k in FIELDS and v is not None}
        for key, value in values.items():
            if key in NUMBERS:
                values[key] = _whole(key, value)
            elif key in LISTS:
                if not isinstance(value, list | tuple):
                    raise ValueError(f"{key} = {value!r} is no list")
                values[key] = tuple(map(str, value))
            elif key != "explicit":
                if isinstance(value, list | dict):
                    raise ValueError(f"{key} = {value!r} is no text")
                values[key] = str(value)
                values[key].encode()  # a lone surrogate is JSON, and no text: ValueError
        values["id"] = values.get("id") or song_id("text", row["text"])
        values["duplicate_group"] = str(values.get("duplicate_group") or values["id"])
        return cls(**values)

    def to_json(self) -> str:
        """One line."""
        row = dict(vars(self))  # asdict copies deeply, which takes longer than the rest
        if row["explicit"] is None:
            del row["explicit"]
        return ENCODER.encode(row)

    def header_fields(self) -> dict[str, str]:
        """The header lines this song can have."""
        known = {
            "artist": self.artist_name,
            "title": self.song_name,
            "album": self.album,
            "year": self.year,
            "language": self.language,
        }
        return {k: str(v) for k, v in known.items() if v not in (None, "")}


RAW_FIELDS = frozenset(f.name for f in fields(Song))
FIELDS = frozenset(f.name for f in fields(CleanSong))
NUMBERS, LISTS = ("year", "track"), ("performers", "versions")


def _whole(key: str, value: Any) -> int:
    """A year as sources write it: 1999, 1999.0, "1999"."""
    try:
        number = int(value)
        if isinstance(value, bool) or (isinstance(value, float) and number != value):
            raise ValueError
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{key} = {value!r} is no number") from None
    return number


class About(NamedTuple):
    """What the source says of the song, for rules that need it."""

    title: str = ""
    artist: str = ""


UNKNOWN = About()


def song_id(source: str, key: str) -> str:
    """16 hex digits that stay the same wherever and whenever a song is fetched.

    `key` is path and fragment for a page, the site's number, or relative path and index for a file.
    """
    return hashlib.sha256(f"{source}\n{key}".encode()).hexdigest()[:16]


# --- raw songs -----------------------------------------------------------------------------------

SONGS_TABLE = "CREATE TABLE IF NOT EXISTS songs (id TEXT PRIMARY KEY, json TEXT NOT NULL)"


def put_song(db: sqlite3.Connection, song: Song) -> bool:
    """Insert or replace; False where the same row stands already (nothing is written then)."""
    line = song.to_json()
    # `fetched_at` alone is no change: it says when the stored page came, not what it says.
    done = db.execute(
        "INSERT INTO songs VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET json = excluded.json "
        "WHERE json_remove(json, '$.fetched_at') != json_remove(excluded.json, '$.fetched_at')",
        (song.id, line),
    )
    return done.rowcount > 0


def raw_path(data_dir: Path) -> Path:
    """The store of a corpus, whether it exists or not."""
    return data_dir / "raw" / "crawl.sqlite"


def raw_files(data_dir: Path) -> list[Path]:
    """What raw songs are read from: the database where there is one, else the JSONL views."""
    if raw_path(data_dir).is_file():
        return [raw_path(data_dir)]
    return sorted((data_dir / "raw").glob("*/*.jsonl"))


def read_raw(data_dir: Path) -> Iterator[Song]:
    """Raw songs in the order of their ids.

    Raises:
        DataError: there are none, or a line is not a song.
    """
    files = raw_files(data_dir)
    in_store = files and files[0].suffix == ".sqlite"
    songs = _read_store(files[0]) if in_store else iter(_read_views(files))
    first = next(songs, None)
    if first is None:
        raise DataError(
            f"no songs in {data_dir / 'raw'}",
            mend=f'python -m backend.scrapers.crawl --artists "NAME" --data_dir={data_dir}',
        )
    yield first
    yield from songs


def _read_views(files: Iterable[Path]) -> list[Song]:
    songs = []
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{file} is not UTF-8: {error}", mend="delete it, and crawl with --rebuild"
            ) from None
        for number, line in enumerate(lines, 1):  # splitlines() would split at U+2028 too
            try:
                songs.append(Song.from_json(line))
            except (ValueError, TypeError) as error:
                raise DataError(
                    f"{file} line {number} is not a song: {error}", mend="delete or mend that line"
                ) from error
    return sorted(songs, key=lambda song: song.id)


def _read_store(path: Path) -> Iterator[Song]:
    # Writable where it can be, since a killed crawl leaves a journal that the first reader applies.
    # Where it cannot be and no journal stands there, nobody writes, and none could be made.
    writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    still = "" if Path(f"{path}-wal").exists() else "&immutable=1"
    mode = "mode=rw" if writable else f"mode=ro{still}"
    db = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True)
    try:
        for key, line in db.execute("SELECT id, json FROM songs ORDER BY id"):
            try:
                song = Song.from_json(line)
            except (ValueError, TypeError) as error:
                raise DataError(
                    f"{path}: row {key!r} is not a song: {error}",
                    mend="crawl with --force, which reads the stored pages again",
                ) from error
            yield song
    except sqlite3.DatabaseError as error:
        raise DataError(
            f"{path} is not a readable store: {error}",
            mend="crawl once more, which repairs it; if that fails, move it away: the JSONL files "
            "beside it hold the songs too",
        ) from error
    finally:
        db.close()


# --- data.json ----------------------------------------------------------------------------------


CHUNK = 2**16  # characters read at a time


def write_songs(path: Path, songs: Iterable[str]) -> int:
    """Write data.json from the JSON of CleanSongs; returns their number."""
    n = 0
    with atomic_write(path) as file:
        file.write("[")
        for song in songs:
            file.write(",\n" if n else "\n")
            file.write(song)
            n += 1
        file.write("\n]\n")
    return n


def read_songs(path: Path) -> Iterator[CleanSong]:
    """Songs of a data.json, ours streamed; any other JSON array of objects with `text` is read too.

    Raises:
        DataError: missing, empty or not such an array.
    """
    try:
        file = path.open(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(
            f"no {path.name} in {path.parent}",
            mend=f"python -m backend.data.clean --data_dir={path.parent}",
        ) from None
    n = 0
    again = f"python -m backend.data.clean --data_dir={path.parent} --force makes it again"
    with file:
        try:
            for row in json_rows(file):
                if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                    raise DataError(
                        f"{path}: song {n + 1} has no text",
                        why="a data.json is an array of objects with at least `text`",
                        mend=again,
                    )
                if row["text"].strip():
                    n += 1
                    try:
                        song = CleanSong.from_dict(row)
                    except ValueError as error:
                        raise DataError(f"{path}: song {n}: {error}", mend=again) from error
                    yield song
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{path} is not valid JSON: {error}",
                mend=again,
            ) from error
    if n == 0:
        raise DataError(
            f"{path} holds no songs",
            why="everything was dropped, or nothing was crawled; report.md says why",
            mend="crawl more artists, or relax --min_lines of python -m backend.data.clean",
        )


def json_rows(file: IO[str]) -> Iterator[Any]:
    """The elements of a JSON array one at a time, however the file is laid out.

    Raises:
        ValueError: it is no array, or not valid JSON, or ends in the middle.
    """
    decoder = json.JSONDecoder()
    text, before = "", "["  # what stands before the next element
    while True:
        text = text.lstrip()
        body = text[1:].lstrip() if text[:1] == before else text
        if body[:1] == "]" and (before == "," or body is not text):
            if (body[1:] + file.read()).strip():
                raise ValueError("something stands after the array")
            return
        if body is text and text:
            raise ValueError(f"{before!r} expected, not {text[:20]!r}")
        try:
            row, end = decoder.raw_decode(body)
        except json.JSONDecodeError as error:
            cut_off = error.msg.startswith("Unterminated") or error.pos > len(body) - 12
            if not cut_off:
                raise
            if not (more := file.read(CHUNK)):
                raise ValueError("it ends in the middle") from None
            text += more
        else:
            yield row
            text, before = body[end:], ","


# --- documents -----------------------------------------------------------------------------------


def header(known: Mapping[str, str], keep: Collection[str] = HEADER) -> str:
    """Header lines in their fixed order, a blank line after them if any line stands.

    >>> header({"title": "Tide", "artist": "Anon"})
    'artist: Anon\\ntitle: Tide\\n\\n'
    """
    lines = [
        f"{k}: {' '.join(known[k].split())}\n"
        for k in HEADER
        if k in keep and known.get(k, "").strip()
    ]
    return "".join(lines) + ("\n" if lines else "")


def split_header(text: str) -> tuple[dict[str, str], str]:
    """The reverse of `header`: the fields that a text opens with, and the rest.

    A model that is asked for nothing in particular writes its own header first.

    >>> split_header("artist: Anon\\n\\nThe tide came in")
    ({'artist': 'Anon'}, 'The tide came in')
    """
    known: dict[str, str] = {}
    rest = text
    while match := re.match(rf"({'|'.join(HEADER)}): ([^\n]+)\n", rest):
        known.setdefault(match[1], match[2])
        rest = rest[match.end() :]
    if known and rest.startswith("\n"):
        return known, rest[1:]
    return {}, text


def training_header(song: CleanSong, seed: int, copy: int = 0) -> str:
    """The header a training song gets: each line kept with p = 0.7, all dropped with p = 0.1; each
    copy of it has its own draw."""
    key = f"{seed}\n{song.id}" + (f"\n{copy}" if copy else "")
    digest = hashlib.sha256(key.encode()).digest()
    draw = random.Random(int.from_bytes(digest, "big"))
    drop_all = draw.random() < DROP_ALL
    keep = [k for k in HEADER if draw.random() < KEEP_LINE]
    return header(song.header_fields(), () if drop_all else keep)
