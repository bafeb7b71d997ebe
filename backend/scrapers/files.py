"""People's own lyrics, and what other programs collected: files -> raw songs.

songs/Robert Burns - Auld Lang Syne.txt     artist and title from the name
songs/Robert Burns/Auld Lang Syne.txt       artist from the folder
songs/Robert Burns/Songs/01 - Tam Glen.txt  artist and album from the folders, and a number
all_lyrics.txt                              ATOM-GPT's: ### BAND ###, === album ===, --- title ---
*.json, *.jsonl     objects with text, song_name, artist_name, or lyrics, title, artist: this
                    project's, NanoRapGPT's data.json and meta.json, lyricsgenius's songs, albums
                    and artists; poems with stanzas, see gutenberg.py
*.csv, *.tsv        a song a line; which column is what is told, or known by its usual names
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

from backend.data.song import Kind, Song, song_id
from backend.errors import DataError
from backend.scrapers import gutenberg
from backend.scrapers.encoding import file_text
from backend.scrapers.names import version_of

READ = (".txt", ".json", ".jsonl", ".csv", ".tsv")
BAND, ALBUM, TITLE = (re.compile(rf"{c * 3} (.+) {c * 3}") for c in "#=-")
RULE = "=" * 50
NOT_THERE = "[Lyrics not available or could not be extracted]"  # ATOM-GPT, in place of a text
CSV_NAMES = {  # what people call the columns; the first that is there counts
    "text": ("text", "lyrics", "lyric", "song_lyrics", "lyrics_text", "body", "content"),
    "song_name": ("song_name", "title", "song", "song_title", "track_name", "track", "name"),
    "artist_name": ("artist_name", "artist", "band", "singer", "performer", "artists", "author"),
    "album": ("album", "album_name", "album_title", "release"),
    "year": ("year", "release_year", "released"),
    "language": ("language", "lang"),
}
LONGEST_FIELD = 2**24  # characters of one cell


class Found(NamedTuple):
    """What a file held, and as what it was read."""

    songs: list[Song]
    how: str


def song_files(path: Path, output: Path | None = None) -> list[Path]:
    """The files to read under `path`: no hidden ones, and nothing that we write ourselves."""
    if not path.is_dir():
        return [path] if path.is_file() else []
    ours = output.resolve() if output else None
    return sorted(
        file
        for file in path.rglob("*")
        if file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and not (ours and file.resolve().is_relative_to(ours))
    )


def read_files(
    path: Path, output: Path | None = None, columns: Mapping[str, str] | None = None
) -> Iterator[tuple[Path, Found | str]]:
    """Every file under `path` with its songs, or with the reason why it was refused.

    Args:
        output: the corpus folder, which may lie inside `path` and is no source.
        columns: of .csv files: our name of a field -> theirs.

    Raises:
        DataError: `path` is not there.
    """
    if not path.exists():
        raise DataError(
            f"no such file or folder: {path}", mend="--path=DIR_OR_FILE with your lyrics"
        )
    root = path if path.is_dir() else path.parent
    for file in song_files(path, output):
        if file.suffix.lower() not in READ:
            yield file, f"not one of {', '.join(READ)}"
            continue
        try:
            text, encoding = file_text(file.read_bytes())
            rows, shape = _rows(file, root, text, columns or {})
            name, url = file.relative_to(root), file.resolve().as_uri()
            songs = [_song(name, url, index, row) for index, row in enumerate(rows)]
            yield file, Found(songs, f"{shape}, {encoding}")
        except (ValueError, OSError, RecursionError, csv.Error) as error:
            yield file, str(error)


def _rows(
    file: Path, root: Path, text: str, columns: Mapping[str, str]
) -> tuple[list[dict[str, Any]], str]:
    """The songs of a file as objects, and the file's shape.

    Raises:
        ValueError: it has none of the shapes.
    """
    suffix = file.suffix.lower()
    if suffix == ".txt":
        lines = text.replace("\r\n", "\n")
        if all(re.search(rf"^{head.pattern}$", lines, re.M) for head in (BAND, TITLE)):
            return list(_atom_gpt(lines)), "ATOM-GPT's all_lyrics"
        return [_from_name(file.relative_to(root)) | {"text": text}], "a song"
    if suffix in (".csv", ".tsv"):
        return _csv(text, columns)
    if suffix == ".jsonl":
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        shape = "lines of JSON"
    else:
        rows, shape = _json(json.loads(text))
    if rows and all(isinstance(row, dict) and "stanzas" in row for row in rows):
        rows, shape = gutenberg.from_rows(rows), "poems"
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not _may_be_song(row):
            raise ValueError(f"entry {number} has no text")
    return rows, shape


def _json(value: Any) -> tuple[list[Any], str]:
    """The songs of a JSON file, whoever wrote it."""
    if isinstance(value, list):
        return value, "a list of songs"
    if isinstance(value, dict):
        if isinstance(value.get("artists"), list):  # lyricsgenius before 3.7, several artists
            return [song for one in value["artists"] for song in _json(one)[0]], "artists"
        if isinstance(value.get("songs"), list):  # lyricsgenius, an artist
            return [_with(song, artist=value.get("name")) for song in value["songs"]], "an artist"
        if isinstance(value.get("tracks"), list):  # lyricsgenius, an album
            return [
                _with(
                    track.get("song"), artist=value.get("artist"), album=value.get("name"),
                    track=track.get("number"),
                ) if isinstance(track, dict) else track
                for track in value["tracks"]
            ], "an album"  # fmt: skip
        if _may_be_song(value):
            return [value], "a song"
        numbered = [song for key, song in value.items() if key.isdecimal()]
        if numbered and len(numbered) >= len(value) - 1:  # NanoRapGPT's meta.json, and its counts
            return numbered, "numbered songs"
    raise ValueError("not a list of songs, nor a dump of one that we know")


def _with(song: Any, **known: Any) -> Any:
    """A song of a dump with what the dump says of all of them."""
    if not isinstance(song, dict):
        return song
    return song | {key: v for key, v in known.items() if v is not None and not song.get(key)}


def _may_be_song(row: dict[str, Any]) -> bool:
    """A text, or the place for one that is empty, or a record of ours that says what it is."""
    words = [row[key] for key in ("text", "lyrics") if key in row]
    if not words:
        return row.get("kind") in set(get_args(Kind)) - {"song"}
    return all(word is None or isinstance(word, str) for word in words)


def _csv(text: str, columns: Mapping[str, str]) -> tuple[list[dict[str, Any]], str]:
    csv.field_size_limit(LONGEST_FIELD)
    try:
        dialect: Any = csv.Sniffer().sniff(text.partition("\n")[0], delimiters=",;\t|")
    except csv.Error:  # one column
        dialect = csv.excel
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=dialect.delimiter, strict=True)
    heads = list(reader.fieldnames or ())
    by_name = {head.strip().lower().replace(" ", "_"): head for head in reversed(heads)}
    chosen = {
        ours: next((by_name[name] for name in names if name in by_name), None)
        for ours, names in CSV_NAMES.items()
    } | dict(columns)
    for ours, theirs in chosen.items():
        if theirs is not None and theirs not in heads:
            raise ValueError(f"no column {theirs!r} for {ours}; there are {', '.join(heads)}")
    if chosen["text"] is None:
        raise ValueError(f"no column of lyrics among {', '.join(heads)}; --columns text=NAME")
    known = {ours: theirs for ours, theirs in chosen.items() if theirs is not None}
    rows = [{ours: row[theirs] for ours, theirs in known.items()} for row in reader]
    return rows, "csv: " + ", ".join(f"{ours}={theirs}" for ours, theirs in known.items())


def _atom_gpt(text: str) -> Iterator[dict[str, Any]]:
    """Songs of all_lyrics.txt, which has no stanzas; its albums are named as in their address."""
    band = album = title = None
    lines: list[str] = []

    def song() -> dict[str, Any]:
        words = "\n".join(lines).strip("\n")
        return {
            "artist_name": band, "album": album, "song_name": title,
            "text": "" if words.strip() == NOT_THERE else words,
        }  # fmt: skip

    for line in [*text.split("\n"), RULE]:
        heads = [pattern.fullmatch(line) for pattern in (BAND, ALBUM, TITLE)]
        if not any(heads) and line != RULE:
            lines.append(line)
            continue
        if title is not None:
            yield song()
        lines = []
        title = heads[2][1] if heads[2] else None
        album = heads[1][1] if heads[1] else None if heads[0] else album
        band = heads[0][1] if heads[0] else band


def _from_name(name: Path) -> dict[str, Any]:
    """Artist, album, number and title as folders and the file's name tell them."""
    folders = name.parts[:-1]
    left, dash, right = name.stem.partition(" - ")
    if dash and not left.isdecimal():
        return {"artist_name": left, "song_name": right}
    return {
        "artist_name": folders[0] if folders else "",
        "album": folders[1] if len(folders) > 1 else "",
        "track": int(left) if dash else None,
        "song_name": right if dash else name.stem,
    }


def _song(name: Path, url: str, index: int, row: dict[str, Any]) -> Song:
    text = row.get("text") if row.get("text") is not None else row.get("lyrics")
    text = text if text and text.strip() else None
    if text:
        text.encode()  # a lone surrogate is JSON, and no text: ValueError
    untitled = row.get("song_name") == ""  # said, where a missing one may be the file's name
    title = "" if untitled else _scalar(row, "song_name", "title", "song") or name.stem
    kind: Kind = "song" if text else "empty"
    if row.get("kind") in get_args(Kind) and not (row["kind"] == "song" and not text):
        kind = cast(Kind, row["kind"])
    elif row.get("instrumental") is True or (
        text and re.fullmatch(r"\s*[\[(]?instrumental[\])]?\s*", text, re.IGNORECASE)
    ):
        kind = "instrumental"
    dated = row.get("release_date_components")
    return Song(
        id=song_id("files", f"{name.as_posix()}#{index}"),
        source="files",
        url=url,
        title=title,
        kind=kind,
        artist=_scalar(row, "artist_name", "artist", "primary_artist"),
        album=_scalar(row, "album"),
        year=_number(row.get("year")) or _number(dated and dict(dated).get("year")),
        track=_number(row.get("track")),
        language=_scalar(row, "language"),
        version_of=_scalar(row, "version_of") or version_of(title),
        lyrics=text.strip("\r\n") if text and kind != "instrumental" else None,
    )


def _scalar(row: dict[str, Any], *keys: str) -> str | None:
    """The first of the keys that says something, as text; an artist or album by its name."""
    for key in keys:
        value = row.get(key)
        if isinstance(value, dict) and isinstance(value.get("name"), str):
            value = value["name"]
        if value in (None, ""):
            continue
        if not isinstance(value, str | int | float):
            raise ValueError(f"{key} is no text: {value!r}")
        name = str(value).replace("\0", "")  # which no database can compare
        name.encode()
        if name:
            return name
    return None


def _number(value: Any) -> int | None:
    """A year or number as people write it: 1785, "1785", "1785-06-01"; else unknown."""
    if type(value) is int:
        return value
    match = re.match(r"\s*(\d{1,4})(?!\d)", value) if isinstance(value, str) else None
    return int(match[1]) if match else None
