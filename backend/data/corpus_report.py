"""What people read of a corpus: report.md, report.png and dataset_card.md beside data.json."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from backend.config.schema import CleanConfig
from backend.data.rules import RULES, masked
from backend.data.sections import section, strip_headers
from backend.data.song import CleanSong
from backend.report import Report
from backend.storage import atomic_write

TOP = 30  # rows of a long table
EXAMPLES = 3  # of every reason


@dataclass
class Facts:
    """Counts, taken while the songs are written."""

    n_in: int = 0
    n_split: int = 0  # translations that were taken out of songs
    changed: Counter[str] = field(default_factory=Counter)  # songs that each rule touched
    songs: int = 0
    stanzas: int = 0
    lines: int = 0
    characters: Counter[str] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)
    lengths: list[int] = field(default_factory=list)  # words of each song
    artists: Counter[str] = field(default_factory=Counter)
    words_of: Counter[str] = field(default_factory=Counter)  # artist -> words
    languages: Counter[str] = field(default_factory=Counter)
    years: Counter[int] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    sections: Counter[str] = field(default_factory=Counter)
    versions: Counter[int] = field(default_factory=Counter)  # size of group -> groups
    masked: int = 0  # songs with words like m***ed
    explicit: int = 0
    _dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)

    def count(self, song: CleanSong) -> None:
        """Count a song that is kept."""
        words = song.text.split()
        sung = strip_headers(song.text).lower()
        self.songs += 1
        self.stanzas += song.text.count("\n\n") + 1
        self.lines += sum(map(bool, song.text.split("\n")))
        self.characters.update(song.text)
        self.words.update(re.findall(r"[^\W_]+(?:['-][^\W_]+)*", sung))
        self.lengths.append(len(words))
        self.artists[song.artist_name or "unknown"] += 1
        self.words_of[song.artist_name or "unknown"] += len(words)
        self.languages[song.language or "unknown"] += 1
        if song.year:
            self.years[song.year] += 1
        self.sources[song.source or "unknown"] += 1
        found = (section(line) for line in song.text.split("\n") if line.startswith("["))
        self.sections.update(name for each in found if each for name in each.names)
        self.versions[1 + len(song.versions)] += 1
        self.masked += masked(song.text)
        self.explicit += bool(song.explicit)

    def add(self, other: Self) -> None:
        """Count what another has counted."""
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, Counter):
                mine.update(theirs)
            elif isinstance(mine, list):
                mine.extend(theirs)
            elif isinstance(mine, int):
                setattr(self, each.name, mine + theirs)

    def dropped(self, row: Mapping[str, Any]) -> None:
        """Count a row of dropped.jsonl."""
        reason = row["reason"]
        kind = re.sub(r"^(duplicate|translation) of .*", r"\1 of another", reason)
        kind = re.sub(r"^excluded with .*", "excluded", kind)
        if reason.startswith("translation of "):
            kind = "translation under a song, taken out of it"
        else:
            self._dropped[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < EXAMPLES:
            begins = " / ".join(row["text"].split("\n")[:2])[:60]
            examples.append((row["artist_name"] or "", row["song_name"] or "", begins))

    def reasons(self) -> dict[str, int]:
        """Reason -> songs dropped for it."""
        return {k.removesuffix(" of another"): n for k, n in sorted(self._dropped.items())}


def write(folder: Path, facts: Facts, config: CleanConfig, notes: Sequence[str]) -> list[Path]:
    """All three, each at once; returns their paths."""
    report, plot, card = (folder / name for name in ("report.md", "report.png", "dataset_card.md"))
    _plot(facts, plot)
    _report(facts, config, notes).write(report)
    _card(facts, config).write(card)
    return [report, plot, card]


def _report(facts: Facts, config: CleanConfig, notes: Sequence[str]) -> Report:
    report = Report("Cleaning").prose(
        f"{facts.n_in:,} songs in, {facts.songs:,} kept. Every other row is in dropped.jsonl "
        "with its text and its reason."
    )
    for note in sorted(notes):
        report.prose(f"Note: {note}.")
    if facts.n_split:
        report.prose(f"{facts.n_split:,} songs had a translation under them; it is a row there.")
    if facts.masked:
        report.prose(f"{facts.masked:,} songs have masked words (m***ed), which stay as they are.")
    if config.explicit == "flag":
        report.prose(f"{facts.explicit:,} songs are explicit by the list of words.")
    if facts.songs:
        report.image("report.png", "lengths, years, artists and languages of the songs kept")
    report.section("Dropped").table(
        ["reason", "songs", "for example"],
        [
            [
                kind,
                facts._dropped[kind] or facts.n_split,
                "; ".join(f"{title} ({artist}): {begins}" for artist, title, begins in examples),
            ]
            for kind, examples in sorted(facts.examples.items())
        ],
    )
    report.section("Kept").table(["", ""], _sizes(facts))
    report.section("Artists").table(
        ["artist", "songs", "words"],
        [
            *([artist, n, facts.words_of[artist]] for artist, n in _most(facts.artists, TOP)),
            *_rest(facts.artists, facts.words_of),
        ],
    )
    report.section("Languages").table(["language", "songs"], _most(facts.languages, TOP))
    decades = Counter({f"{year // 10}0s": 0 for year in sorted(facts.years)})
    for year, n in facts.years.items():
        decades[f"{year // 10}0s"] += n
    if undated := facts.songs - sum(facts.years.values()):
        decades["unknown"] = undated
    report.section("Years").table(["years", "songs"], decades.items())
    report.section("Sections").table(["header", "times"], _most(facts.sections, TOP))
    report.section("Vocabulary").table(["commonest words", "times"], _most(facts.words, TOP)).table(
        ["rarest characters", "times"],
        [[f"{c} (U+{ord(c):04X})", n] for c, n in _most(facts.characters, None)[:-TOP:-1]],
    )
    report.section("Versions of one song").table(
        ["songs in the group", "groups"], sorted(facts.versions.items())
    )
    return report.section("Rules that changed a song").table(
        ["rule", "songs", "what it does"],
        [
            [rule.__name__, facts.changed[rule.__name__], (rule.__doc__ or "").splitlines()[0]]
            for rule in RULES
        ],
    )


def _sizes(facts: Facts) -> list[list[Any]]:
    lengths = sorted(facts.lengths) or [0]
    at = {name: lengths[int(share * (len(lengths) - 1))] for name, share in QUANTILES.items()}
    once = sum(n == 1 for n in facts.words.values())
    return [
        ["songs", facts.songs],
        ["stanzas", facts.stanzas],
        ["lines", facts.lines],
        ["words", sum(facts.lengths)],
        ["distinct words", f"{len(facts.words):,}, {once:,} of them once"],
        ["characters", facts.characters.total()],
        ["distinct characters", len(facts.characters)],
        ["words per song", ", ".join(f"{name} {n:,}" for name, n in at.items())],
    ]


QUANTILES = {"least": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "most": 1.0}


def _most(counts: Counter[Any], n: int | None) -> list[tuple[Any, int]]:
    """The commonest first; equal ones by name, so that the bytes depend on nothing else."""
    return sorted(counts.items(), key=lambda pair: (-pair[1], str(pair[0])))[:n]


def _rest(songs: Counter[str], words: Counter[str]) -> list[list[Any]]:
    others = _most(songs, None)[TOP:]
    if not others:
        return []
    return [
        [f"{len(others):,} others", sum(n for _, n in others), sum(words[a] for a, _ in others)]
    ]


def _plot(facts: Facts, path: Path) -> None:
    import warnings

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(10, 7), layout="constrained")
    (words, years), (artists, languages) = axes
    longest = max(facts.lengths, default=0)
    words.hist(facts.lengths, bins=range(0, longest + 25, max(25, longest // 50)))
    words.set_xlabel("words")
    words.set_ylabel("songs")
    if facts.years:
        years.bar(list(facts.years), list(facts.years.values()), width=1.0)
        years.set_xlabel("year")
        years.set_ylabel("songs")
    else:
        years.set_axis_off()
        years.text(0.5, 0.5, "no song has a year", ha="center")
    for axis, counts in ((artists, facts.artists), (languages, facts.languages)):
        top = _most(counts, 12)[::-1]
        # $ would begin a formula, and a font may lack a script: a box then, and no warning
        names = [name[:30].replace("$", r"\$") for name, _ in top]
        axis.barh(range(len(top)), [n for _, n in top])
        axis.set_yticks(range(len(top)), names)
        axis.set_xlabel("songs")
    with warnings.catch_warnings(), atomic_write(path, "wb") as file:
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format="png", dpi=100)
    pyplot.close(figure)


SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))
ROWS = {
    "text": "the song; stanzas apart by a blank line, section headers as `[Chorus]`",
    "song_name, artist_name, album, year": "as the source has them, else null",
    "language": "ISO 639-1; the source's word, else a guess; `mul` for two; null where unsure",
    "source, url, id": "where it is from; the id is the same wherever it is fetched",
    "duplicate_group, versions": "the smallest id of its versions, and the ids of the others",
    "performers": "names that stood in section headers",
    "explicit": "only with --explicit=flag",
}


def _card(facts: Facts, config: CleanConfig) -> Report:
    """A dataset card as the Hugging Face hub knows them."""
    codes = [code for code, _ in _most(facts.languages, None) if code not in ("unknown", "mul")]
    size = next((name for most, name in SIZES if facts.songs < most), "n>1M")
    front = "\n".join(
        [
            "---",
            *(["language:", *(f'- "{code}"' for code in codes)] if codes else []),
            "license: other",
            "license_name: rights-of-the-songwriters",
            "task_categories:\n- text-generation",
            "tags:\n- lyrics",
            f"size_categories:\n- {size}",
            "configs:\n- config_name: default\n  data_files: data.json",
            "---",
        ]
    )
    report = Report(f"{facts.songs:,} songs", front=front)
    names = ", ".join(f"{name} ({n:,})" for name, n in _most(facts.sources, None))
    report.prose(f"Lyrics of {len(facts.artists):,} artists, from {names or 'nowhere'}.")
    report.section("Rights").prose(
        "Lyrics belong to those who wrote them. This corpus is for the use of whoever made it; do "
        "not publish it. Songs whose owners asked for it are named in an exclude file, and left "
        "out at every rebuild."
    )
    report.section("Content").prose(
        "Songs may be explicit. "
        + ("Nothing was filtered for it." if config.explicit == "keep" else
           f"Songs with words of a list were treated by `--explicit={config.explicit}`.")
    ).table(["", ""], _sizes(facts))  # fmt: skip
    report.section("Languages").table(["language", "songs"], _most(facts.languages, TOP))
    report.section("Fields").table(["field", "meaning"], list(ROWS.items()))
    local = ("force", "workers", "data_dir", "save_dir", "exclude", "explicit_words")
    settings = {k: v for k, v in config.as_dict().items() if k not in local}
    return (
        report.section("How it was made")
        .prose(
            f"{facts.n_in:,} raw songs were cleaned by rules (report.md counts each), versions of "
            "one song reduced to one, and whatever was dropped is in dropped.jsonl with its "
            "reason. `python -m backend.data.clean` with:"
        )
        .table(["key", "value"], [[k, v] for k, v in settings.items()])
    )
