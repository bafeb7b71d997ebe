"""Clean: raw songs of all sources -> data.json, dropped.jsonl, report.md.

    python -m backend.data.clean --data_dir=data/demo

Reads <data_dir>/raw/. Writes data.json (songs to train on), dropped.jsonl (every other row with its
reason and its text: nothing vanishes), report.md with report.png, and dataset_card.md beside it.
Cleaning twice changes nothing, and neither does the number of workers.
"""

import itertools
import json
import re
import sys
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tqdm import tqdm

from backend.config.loader import program
from backend.config.schema import CleanConfig
from backend.data import corpus_report
from backend.data.duplicates import Fingerprints, duplicate_groups, is_version, representative
from backend.data.repeats import repeats
from backend.data.rules import characters, clean_text, notice, split_translation
from backend.data.sections import strip_headers, sung_lines
from backend.data.song import About, CleanSong, Song, raw_files, read_raw, write_songs
from backend.errors import ConfigError
from backend.storage import Stage, Summary, alone, atomic_write
from backend.workers import in_order

T = TypeVar("T")
VERSION = 2
PIECE = 256  # songs that a worker takes at a time
WORDS = Path(__file__).resolve().parents[2] / "assets" / "explicit_words.txt"


def main(config: CleanConfig) -> Summary:
    data_dir = Path(config.data_dir)
    folder = Path(config.save_dir) if config.save_dir else data_dir
    if raw_files(data_dir):
        folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        return _clean_all(config, data_dir, folder)


def _clean_all(config: CleanConfig, data_dir: Path, folder: Path) -> Summary:
    exclude = Path(config.exclude or data_dir / "exclude.txt")
    words = Path(config.explicit_words) if config.explicit_words else WORDS
    read = [exclude] if config.exclude or exclude.is_file() else []
    read += [words] if config.explicit != "keep" else []
    # where things are and how many work on it decide nothing
    free = ("force", "data_dir", "save_dir", "workers", "exclude", "explicit_words")
    settings = {k: v for k, v in config.as_dict().items() if k not in free}
    inputs = [*raw_files(data_dir), *read]
    stage = Stage("clean", VERSION, folder, settings=settings, inputs=inputs)
    if not config.force and (done := stage.unchanged()):
        print(done.line())
        return done

    excluded = {_folded(line): line for line in _lines(exclude)} if exclude in read else {}
    excluded.pop("", None)
    explicit = _any_of(words) if words in read else None
    work = partial(_clean, config=config, excluded=frozenset(excluded), explicit=explicit)
    n_in = n_split = 0
    changed: Counter[str] = Counter()
    matched: set[str] = set()
    asked: set[str] = set()
    again: list[str] = []
    kept: dict[str, Kept] = {}
    dropped: list[Dropped] = []
    prints: list[Fingerprints] = []
    pieces = _pieces(_once(read_raw(data_dir), again), PIECE)
    pieces = itertools.chain([next(pieces)], pieces)  # read_raw says it where there are none
    with tempfile.TemporaryFile(dir=folder, prefix=".tmp-clean-") as file:
        rows = Rows(file)
        songs = tqdm(unit=" songs", disable=None, leave=False)
        for piece in in_order(work, pieces, config.workers):
            n_in += piece.n
            n_split += len(piece.translations)
            changed.update(piece.changed)
            matched |= piece.matched
            asked |= piece.asked
            prints.append(piece.prints)
            for song in piece.kept:
                kept[song.id] = replace(song, row=rows.put(song.row))
            for drop in itertools.chain(piece.dropped, piece.translations):
                dropped.append(drop._replace(row=rows.put(drop.row)))
            songs.update(piece.n)
        songs.close()

        chosen: list[tuple[Kept, str, tuple[str, ...]]] = []  # song, its group, its other versions
        for group, members in duplicate_groups(
            Fingerprints.joined(prints), config.near_duplicate
        ).items():
            if gone := asked.intersection(members):
                reason, others = f"excluded with {min(gone)}", set(members) - gone
            else:
                best = representative(
                    {key: kept[key].is_version for key in members},
                    {key: kept[key].length for key in members},
                )
                reason, others = f"duplicate of {best}", set(members) - {best}
                chosen.append((kept[best], group, tuple(sorted(others))))
            dropped += [Dropped(reason, key, kept[key].row, group) for key in others]
        prints.clear()
        chosen.sort(key=lambda choice: choice[0].order)
        dropped.sort(key=lambda drop: (drop.reason, drop.id))

        facts = corpus_report.Facts(n_in, n_split, changed)

        def finished() -> Iterator[str]:
            whole = ((rows.get(song.row), group, versions) for song, group, versions in chosen)
            for lines, counted in in_order(_finish, _pieces(whole, PIECE), config.workers):
                facts.add(counted)
                yield from lines

        write_songs(folder / "data.json", finished())
        with atomic_write(folder / "dropped.jsonl") as out:
            for drop in dropped:
                row = json.loads(rows.get(drop.row)) | {"reason": drop.reason}
                row["duplicate_group"] = drop.group or drop.id
                if drop.reason.startswith("excluded"):
                    row["text"] = ""  # a request to remove a text is no reason to keep it elsewhere
                facts.dropped(row)
                out.write(json.dumps(row, ensure_ascii=False) + "\n")

    notes = [
        f"{exclude}: {excluded[key]!r} names no song here" for key in excluded.keys() - matched
    ]
    if again:
        notes.append(f"{len(again):,} raw rows had the id of another, such as {again[0]}")
    reports = corpus_report.write(folder, facts, config, notes)
    outputs = [folder / "data.json", folder / "dropped.jsonl", *reports]
    counts: dict[str, Any] = {"in": n_in, "out": len(chosen)}
    counts |= {"translations split off": n_split} if n_split else {}
    _identifier.cache_clear()  # 70 MB that the rest of a flow has no use for
    summary = stage.finish(outputs, counts | {"dropped": facts.reasons()}, sorted(notes))
    print("\n".join([summary.line(), *(f"  note: {note}" for note in summary.notes)]))
    return summary


# --- one song -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kept:
    """What of a song is held in memory while others are read."""

    id: str
    row: Any  # the JSON of a CleanSong; once put down, its number in Rows
    order: tuple[str, int, str, str]  # artist, year, album, id: as in data.json
    is_version: bool
    length: int


class Dropped(NamedTuple):
    """A row of dropped.jsonl."""

    reason: str
    id: str
    row: Any  # as in Kept
    group: str = ""


class Cleaned(NamedTuple):
    """What became of some raw songs."""

    n: int
    kept: list[Kept]
    dropped: list[Dropped]
    translations: list[Dropped]  # parts of songs
    changed: Counter[str]  # songs that each rule touched
    matched: set[str]  # entries of the exclude file that named one of them
    asked: set[str]  # songs that were named by id or url, whose versions go with them
    prints: Fingerprints


def _clean(
    songs: list[Song],
    *,
    config: CleanConfig,
    excluded: frozenset[str],
    explicit: re.Pattern[str] | None,
) -> Cleaned:
    """Each song through the rules, and what they leave through the conditions."""
    done = Cleaned(len(songs), [], [], [], Counter(), set(), set(), Fingerprints.of({}))
    texts: dict[str, str] = {}
    for song in songs:

        def drop(reason: str, song: Song = song) -> None:
            done.dropped.append(Dropped(reason, song.id, _row(song, song.lyrics or "")))

        about = About(_name(song.title) or "", _name(song.artist) or "")
        url = song.url or ""
        itself = {_folded(key) for key in (song.id, url, url.partition("#")[0])}
        if found := excluded & {*itself, _folded(about.artist)}:
            done.matched.update(found)
            drop("excluded")
            if found & itself:
                done.asked.add(song.id)
                texts[song.id] = clean_text(song.lyrics or "", about).text
            continue
        if kind := _no_song(song):
            drop(kind)
            continue
        text, performers, changed = clean_text(song.lyrics or "", about)
        done.changed.update(changed)
        if reason := notice(text):
            drop(reason)
            continue
        text, translation = split_translation(text)
        text = repeats(text, config.repeats, about)
        sung = sung_lines(text)
        if reason := _refusal(text, sung, config):
            drop(reason)
            continue
        said = re.split("[-_]", (song.language or "").strip().lower())[0]
        language = said if re.fullmatch("[a-z]{2,3}", said) else guess_language(sung)
        if config.languages and language not in config.languages:
            drop(f"language {language or 'unknown'}")
            continue
        is_explicit = explicit and explicit.search(text) is not None
        if is_explicit and config.explicit == "drop":
            drop("explicit")
            continue
        if translation:
            row = _row(song, translation)
            done.translations.append(Dropped(f"translation of {song.id}", song.id, row))
        if config.section_headers == "strip":
            text = strip_headers(text)
        row = _row(song, text, language=language, performers=performers, explicit=is_explicit)
        order = (_name(song.artist) or "", song.year or 0, _name(song.album) or "", song.id)
        done.kept.append(Kept(song.id, row, order, is_version(song.title), len(text)))
        texts[song.id] = text
    return done._replace(prints=Fingerprints.of(texts))


def _finish(
    songs: list[tuple[str, str, tuple[str, ...]]],
) -> tuple[list[str], corpus_report.Facts]:
    """Rows of data.json from (row, group, versions), and what they count."""
    facts = corpus_report.Facts()
    whole = [
        replace(CleanSong.from_dict(json.loads(row)), duplicate_group=group, versions=versions)
        for row, group, versions in songs
    ]
    for song in whole:
        facts.count(song)
    return [song.to_json() for song in whole], facts


def _row(song: Song, text: str, **more: Any) -> str:
    fields = {
        "song_name": _name(song.title),
        "artist_name": _name(song.artist),
        "album": _name(song.album),
        "year": song.year,
        "language": song.language,
        "source": song.source,
        "url": song.url,
        "id": song.id,
        "duplicate_group": song.id,
    }
    row = CleanSong(text=text, **(fields | more)).to_json()
    return row.encode("utf-8", "replace").decode()  # a lone surrogate is no text


def _name(text: str | None) -> str | None:
    """A title or a name by the rules of the text, so that it adds no characters of its own."""
    return " ".join(characters(text).split()) if text else text


CURATED = r"translations?|traducciones|traductions|tradu[çc][õo]es|traduzioni|übersetzungen"
CURATED += r"|çeviriler|tłumaczenia|переводы?|romanizations?"
CURATOR = re.compile(rf"^genius\b.*\b({CURATED})\b", re.IGNORECASE)  # an account, no artist
TRANSLATED = re.compile(
    r"[(\[][^)\]]*\b(translation|traducción|traduction|tradução|traduzione|übersetzung|çevirisi?|"
    r"tłumaczenie|перевод|romanized|romanization|ترجمه)\b[^)\]]*[)\]]$",
    re.IGNORECASE,
)
BESIDE = r"track ?list|album art(work)?|liner notes|booklet|credits|interview|skit|set ?list"
NO_SONG = re.compile(rf"[(\[]({BESIDE})[)\]]$|^(track ?list|album art(work)?)$", re.IGNORECASE)


def _no_song(song: Song) -> str | None:
    """What the source says that it is, if no song."""
    if song.kind != "song":
        return song.kind
    if CURATOR.search(song.artist or "") or TRANSLATED.search(song.title):
        return "translation"
    on_genius = song.source == "genius"
    if NO_SONG.search(song.title) or (on_genius and (song.url or "").endswith("-annotated")):
        return "nonsong"
    return None if (song.lyrics or "").strip() else "empty"


def _refusal(text: str, sung: list[str], config: CleanConfig) -> str | None:
    """Why this text is no song to train on, or None."""
    if not text:
        return "empty"
    if len(sung) < config.min_lines:
        return "too few lines"
    if len(text) < config.min_chars:
        return "too short"
    if len(text.split()) > config.max_words:
        return "too long"
    return None


SURE = 0.9  # least probability of a language; below it, none is better than a wrong one
ENOUGH = 1000  # characters: py3langid is the slowest part of cleaning
DISTINCT = 12  # words: "la la la la" is no language


def guess_language(lines: list[str]) -> str | None:
    """ISO 639-1 code of the lines as a whole; `mul` where the halves are in two languages, as where
    a translation is pasted under a song; None where it is anybody's guess."""
    lines = lines[:: 1 + sum(map(len, lines)) // ENOUGH]  # of a long song, lines from all of it
    half = len(lines) // 2
    first, second = (" ".join(part).lower() for part in (lines[:half], lines[half:]))
    (a, sure_a), (b, sure_b) = (_classified(text) for text in (first, second))
    if a == b and a and max(sure_a, sure_b) >= SURE:
        return a
    if a and b and a != b and min(sure_a, sure_b) >= 0.999 and min(len(first), len(second)) >= 200:
        return "mul"
    whole, sure = _classified(f"{first} {second}")
    return whole if sure >= SURE else None


def _classified(text: str) -> tuple[str | None, float]:
    if len(set(re.findall(r"[^\W\d_]+", text))) < DISTINCT:
        return None, 0.0
    code, probability = _identifier()(text)
    return code, float(probability)


@cache
def _identifier() -> Callable[[str], tuple[str, float]]:
    """py3langid with its own model: 1 s to load, hence where it is used."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    classify: Callable[[str], tuple[str, float]] = LanguageIdentifier.from_model_file(
        MODEL_FILE, norm_probs=True
    ).classify
    return classify


# --- files ----------------------------------------------------------------------------------------


class Rows:
    """JSON objects put down on disk until all songs are read, so that memory holds their numbers
    alone."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.starts = array("Q", [0])

    def put(self, row: str) -> int:
        self.starts.append(self.starts[-1] + self.file.write(row.encode()))
        return len(self.starts) - 2

    def get(self, number: int) -> str:
        self.file.seek(self.starts[number])
        row: bytes = self.file.read(self.starts[number + 1] - self.starts[number])
        return row.decode()


def _once(songs: Iterable[Song], again: list[str]) -> Iterator[Song]:
    """A stale view of an artist who was renamed holds songs twice; equal ids stand together."""
    last = None
    for song in songs:
        if song.id == last:
            again.append(song.id)
        else:
            yield song
        last = song.id


def _pieces(songs: Iterator[T], size: int) -> Iterator[list[T]]:
    while piece := list(itertools.islice(songs, size)):
        yield piece


def _lines(path: Path) -> list[str]:
    """Lines of a list that people keep, without comments."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read {path}: {error}", mend="a text file in UTF-8, one entry a line"
        ) from None
    return [line for line in lines if line and not line.startswith("#")]


def _folded(entry: str) -> str:
    """An id, url or name as it is compared."""
    return re.sub(r"^https?://(www\.)?|/$", "", (_name(entry) or "").casefold())


def _any_of(path: Path) -> re.Pattern[str]:
    """A pattern of any word of a list; `*` at its end stands for any ending.

    Raises:
        ConfigError: the list is empty, or an entry is no word.
    """
    words = _lines(path)
    if wrong := [w for w in words if "*" in w[:-1] or not any(map(str.isalpha, w))]:
        raise ConfigError(f"{path}: {wrong[0]!r} is no word, and no beginning of one with a *")
    if not words:
        raise ConfigError(f"{path} holds no words", mend="one a line, * for any ending")
    each = (re.escape(word).replace(r"\*", r"\w*") for word in words)
    return re.compile(rf"(?<!\w)(?:{'|'.join(each)})(?!\w)", re.IGNORECASE)


if __name__ == "__main__":
    sys.exit(program(main, CleanConfig))
