"""People's own lyrics: text, JSON and JSON lines -> raw songs.

songs/Robert Burns - Auld Lang Syne.txt     artist and title from the name
songs/Robert Burns/Auld Lang Syne.txt       artist from the folder
songs/Robert Burns/Songs/01 - Tam Glen.txt  artist and album from the folders, and a number
songs.json, songs.jsonl                     objects with text, song_name, artist_name; or poems
                                            with stanzas, see gutenberg.py
"""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backend.data.song import Song, song_id
from backend.errors import DataError
from backend.scrapers import gutenberg

READ = (".txt", ".json", ".jsonl")


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


def read_files(path: Path, output: Path | None = None) -> Iterator[tuple[Path, list[Song] | str]]:
    """Every file under `path` with its songs, or with the reason why it was refused.

    Args:
        output: the corpus folder, which may lie inside `path` and is no source.

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
            yield file, list(_songs(file, root))
        except (ValueError, OSError, RecursionError) as error:
            yield file, str(error)


def _songs(file: Path, root: Path) -> Iterator[Song]:
    text = decode(file.read_bytes())
    name = file.relative_to(root)
    url = file.resolve().as_uri()
    if file.suffix.lower() == ".txt":
        yield _song(name, url, 0, _from_name(name) | {"text": text})
        return
    rows: Any = (
        json.loads(text)
        if file.suffix.lower() == ".json"
        else [json.loads(line) for line in text.split("\n") if line.strip()]
    )
    if not isinstance(rows, list):
        raise ValueError("not a list of songs")
    if rows and all(isinstance(row, dict) and "stanzas" in row for row in rows):
        rows = gutenberg.from_rows(rows)
    for index, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(_words(row), str):
            raise ValueError(f"entry {index + 1} has no text")
        yield _song(name, url, index, row)


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
    text = _words(row) or ""
    text.encode()  # a lone surrogate is JSON, and no text: ValueError
    untitled = row.get("song_name") == ""  # said, where a missing one may be the file's name
    title = "" if untitled else _scalar(row, "song_name", "title") or name.stem
    year = row.get("year")
    return Song(
        id=song_id("files", f"{name.as_posix()}#{index}"),
        source="files",
        url=url,
        title=title,
        kind="song" if text.strip() else "empty",
        artist=_scalar(row, "artist_name", "artist"),
        album=_scalar(row, "album"),
        year=year if type(year) is int else None,
        track=row.get("track") if type(row.get("track")) is int else None,
        language=_scalar(row, "language"),
        lyrics=text.strip("\r\n") if text.strip() else None,
    )


def _words(row: dict[str, Any]) -> Any:
    return row["lyrics"] if row.get("text") is None and "lyrics" in row else row.get("text")


def _scalar(row: dict[str, Any], *keys: str) -> str | None:
    """The first of the keys that says something, as text."""
    for key in keys:
        value = row.get(key)
        if value in (None, ""):
            continue
        if not isinstance(value, str | int | float):
            raise ValueError(f"{key} is no text: {value!r}")
        str(value).encode()
        return str(value)
    return None


def decode(data: bytes) -> str:
    """UTF-8, UTF-16 with its mark, else Windows-1252; refused where it is none of them.

    >>> decode("Dã".encode("cp1252")), decode("né".encode("utf-16"))
    ('Dã', 'né')
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    if b"\0" in data:
        raise ValueError("not a text file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252")
