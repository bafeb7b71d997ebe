"""Clean: raw songs of all sources -> data.json, dropped.jsonl, report.md.

    python -m backend.data.clean --data_dir=data/demo

Reads <data_dir>/raw/. Writes data.json (songs to train on), dropped.jsonl (every other row with its
reason and its text: nothing vanishes) and report.md beside it. Cleaning twice changes nothing.
"""

import json
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from backend.config.loader import program
from backend.config.schema import CleanConfig
from backend.data.duplicates import duplicate_groups, representative
from backend.data.song import CleanSong, Song, raw_files, read_raw, write_songs
from backend.report import Report
from backend.storage import Stage, Summary, atomic_write

VERSION = 1

# --- rules: text -> text, each idempotent, in this order ------------------------------------------

CHARACTERS: dict[str, str | None] = {
    **dict.fromkeys("\r\v\f\x85\u2028\u2029", "\n"),
    **dict.fromkeys("’‘ʼ´`", "'"),
    **dict.fromkeys("“”„«»", '"'),
    **dict.fromkeys("\t\u00a0\u202f\u205f\u3000", " "),
    **dict.fromkeys(map(chr, range(0x2000, 0x200B)), " "),  # en, em, thin, hair, ... spaces
    **dict.fromkeys("\u200b\u200e\u200f\u2060\ufeff\u00ad", None),  # but U+200C spells Persian
    "…": "...",
}
TABLE = str.maketrans(CHARACTERS)


def characters(text: str) -> str:
    """NFC, one kind of quote and space, no invisible or control characters, \\n line ends."""
    text = text.replace("\r\n", "\n")
    text = unicodedata.normalize("NFC", text).translate(TABLE)
    text = "".join(c for c in text if c == "\n" or unicodedata.category(c) not in ("Cc", "Cs"))
    return unicodedata.normalize("NFC", text)  # neighbours may compose now that others are gone


def spaces(text: str) -> str:
    """No spaces at line ends, one between words."""
    return "\n".join(re.sub(r" {2,}", " ", line).strip() for line in text.split("\n"))


CREDIT = re.compile(
    r"^\[((all )?(lyrics|music|words)( (and|&) (lyrics|music|words))?( (are|were))?"
    r"( (written|composed))?|(written|produced|recorded)( (and|&) \w+)?)"
    r"(:| by (?-i:[^\W\d_a-z]))[^\]]*\]$",  # "by" and a name, not "music by the river"
    re.IGNORECASE,
)


def credits(text: str) -> str:
    """Whole lines such as [Lyrics: Name] and [Music by ...] name people, they are not sung."""
    return "\n".join(line for line in text.split("\n") if not CREDIT.match(line))


SECTIONS = (
    "Intro",
    "Verse",
    "Pre-Chorus",
    "Chorus",
    "Post-Chorus",
    "Refrain",
    "Hook",
    "Bridge",
    "Interlude",
    "Break",
    "Breakdown",
    "Drop",
    "Solo",
    "Guitar Solo",
    "Instrumental",
    "Instrumental Intro",
    "Instrumental Break",
    "Spoken",
    "Outro",
)
SECTION = {re.sub(r"[^a-z]", "", name.lower()): name for name in SECTIONS}
# What follows the colon is a name if it looks like one: not in [Chorus: x2], [Outro: fade out].
PERFORMER = re.compile(r"(?!Repeat|Twice|Thrice)[^\W\d_a-z]\S*(\s+\S+){0,7}(?<![?!,;:])$")
HEADER = re.compile(r"^\[([^\[\]:\d]+?)\s*(\d+)?\s*(?::\s*([^\[\]]*))?\]$")


def section_headers(text: str) -> str:
    """[chorus:], [VERSE 1: A & B] alone on their line -> [Chorus], [Verse 1]."""
    return "\n".join(found[0] if (found := _section(line)) else line for line in text.split("\n"))


def performers(text: str) -> tuple[str, ...]:
    """The names after the colon of section headers, in order of appearance."""
    found = (_section(line) for line in spaces(characters(text)).split("\n"))
    return tuple(dict.fromkeys(section[1] for section in found if section and section[1]))


def _section(line: str) -> tuple[str, str] | None:
    """(normalised header, performer) of a section header alone on its line."""
    match = HEADER.match(line)
    name = SECTION.get(re.sub(r"[^a-z]", "", match[1].lower())) if match else None
    if not match or not name or (match[3] and not PERFORMER.match(match[3])):
        return None
    if match[3] and name == "Spoken":
        return None  # [Spoken: Let there be light] is what is spoken
    return f"[{name} {match[2]}]" if match[2] else f"[{name}]", (match[3] or "").strip()


def stanzas(text: str) -> str:
    """One blank line between stanzas and before a header, none at the ends or after a header."""
    lines: list[str] = []
    for line in text.split("\n"):
        if not line and (not lines or not lines[-1] or _section(lines[-1])):
            continue
        if lines and lines[-1] and _section(line):
            lines.append("")
        lines.append(line)
    return "\n".join(lines).strip("\n")


RULES: tuple[Callable[[str], str], ...] = (characters, spaces, credits, section_headers, stanzas)


def clean_text(text: str, changed: Counter[str] | None = None) -> str:
    """All rules in order; `changed` counts the songs that each rule touched."""
    for rule in RULES:
        after = rule(text)
        if changed is not None and after != text:
            changed[rule.__name__] += 1
        text = after
    return text


def strip_headers(text: str) -> str:
    """The text without its [Section] lines, stanza breaks kept."""
    return stanzas("\n".join(line for line in text.split("\n") if not _section(line)))


# --- the stage ------------------------------------------------------------------------------------


def refusal(text: str, config: CleanConfig) -> str | None:
    """Why this text is no song to train on, or None."""
    sung = [line for line in text.split("\n") if line and not (line[0] == "[" and line[-1] == "]")]
    if not text:
        return "empty"
    if len(sung) < config.min_lines:
        return "too few lines"
    if len(text) < config.min_chars:
        return "too short"
    if len(text.split()) > config.max_words:
        return "too long"
    return None


def main(config: CleanConfig) -> Summary:
    data_dir = Path(config.data_dir)
    folder = Path(config.save_dir) if config.save_dir else data_dir
    settings = {
        k: v for k, v in config.as_dict().items() if k not in ("force", "data_dir", "save_dir")
    }
    stage = Stage("clean", VERSION, folder, settings=settings, inputs=raw_files(data_dir))
    if not config.force and (done := stage.unchanged()):
        print(done.line())
        return done

    raw: dict[str, Song] = {}
    texts: dict[str, str] = {}
    dropped: list[tuple[str, Song]] = []
    changed: Counter[str] = Counter()
    for song in read_raw(data_dir):
        if song.id in raw:
            continue  # a stale view of an artist who was renamed
        raw[song.id] = song
        if song.kind != "song" or not song.lyrics:
            dropped.append((song.kind if song.kind != "song" else "empty", song))
            continue
        text = clean_text(song.lyrics, changed)
        if reason := refusal(text, config):
            dropped.append((reason, song))
            continue
        texts[song.id] = strip_headers(text) if config.section_headers == "strip" else text

    titles = {key: raw[key].title for key in texts}
    kept: list[CleanSong] = []
    for group, members in duplicate_groups(texts, config.near_duplicate).items():
        best = representative(members, titles, texts)
        for key in members:
            if key == best:
                others = tuple(other for other in members if other != best)
                kept.append(replace(_clean_song(raw[key], texts[key], group), versions=others))
            else:
                dropped.append((f"duplicate of {best}", raw[key]))

    kept.sort(key=lambda s: (s.artist_name or "", s.year or 0, s.album or "", s.id))
    dropped.sort(key=lambda pair: (pair[0], pair[1].id))
    write_songs(folder / "data.json", kept)
    with atomic_write(folder / "dropped.jsonl") as file:
        for reason, song in dropped:
            row = asdict(_clean_song(song, song.lyrics or "", song.id)) | {"reason": reason}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    reasons = Counter("duplicate" if r.startswith("duplicate") else r for r, _ in dropped)
    counts = {"in": len(raw), "out": len(kept), "dropped": dict(sorted(reasons.items()))}
    _report(kept, dropped, counts, changed).write(folder / "report.md")
    outputs = [folder / name for name in ("data.json", "dropped.jsonl", "report.md")]
    summary = stage.finish(outputs, counts)
    print(summary.line())
    return summary


def _clean_song(song: Song, text: str, group: str) -> CleanSong:
    return CleanSong(
        text=text,
        song_name=_name(song.title),
        artist_name=_name(song.artist),
        album=_name(song.album),
        year=song.year,
        language=song.language,
        source=song.source,
        url=song.url,
        id=song.id,
        duplicate_group=group,
        performers=performers(song.lyrics or ""),
    )


def _name(text: str | None) -> str | None:
    """A title or a name by the rules of the text, so that it adds no characters of its own."""
    return " ".join(characters(text).split()) if text else text


def _report(
    kept: list[CleanSong],
    dropped: list[tuple[str, Song]],
    counts: dict[str, object],
    changed: Counter[str],
) -> Report:
    words = sorted(len(song.text.split()) for song in kept)
    report = Report("Cleaning").prose(
        f"{counts['in']} songs in, {counts['out']} kept. Every other row is in dropped.jsonl "
        "with its text and its reason."
    )
    if words:
        report.prose(f"Words per song: {words[0]} to {words[-1]}, median {words[len(words) // 2]}.")
    report.section("Kept").table(
        ["artist", "songs", "words"],
        [
            [artist or "unknown", len(songs), sum(len(s.text.split()) for s in songs)]
            for artist, songs in _by_artist(kept).items()
        ],
    )
    report.section("Dropped").table(
        ["reason", "artist", "title"], [[r, s.artist or "", s.title] for r, s in dropped]
    )
    docs = {rule.__name__: (rule.__doc__ or "").splitlines()[0] for rule in RULES}
    return report.section("Rules that changed a song").table(
        ["rule", "songs", "what it does"],
        [[name, changed[name], doc] for name, doc in docs.items()],
    )


def _by_artist(songs: list[CleanSong]) -> dict[str | None, list[CleanSong]]:
    groups: dict[str | None, list[CleanSong]] = {}
    for song in songs:
        groups.setdefault(song.artist_name, []).append(song)
    return groups


if __name__ == "__main__":
    sys.exit(program(main, CleanConfig))
