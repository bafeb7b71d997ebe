"""The corpus report: counts that are right, examples, a card that machines read, a picture."""

import json
import re
import warnings
from collections import Counter

import pytest
import yaml

from backend.config.schema import CleanConfig
from backend.data import clean
from backend.data.rules import RULES
from backend.data.song import read_songs


def main(folder, **settings):
    return clean.main(CleanConfig(data_dir=str(folder), **settings))


def tables(text):
    """Section -> rows of its last table, cells apart."""
    found, section = {}, ""
    for line in text.split("\n"):
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("|") and not line.startswith("|---"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found.setdefault(section, []).append(cells)
        elif not line:
            continue
    return {section: rows[1:] for section, rows in found.items()}


@pytest.fixture
def mixed(raw, tmp_path, invented):
    songs = [
        *invented(40, artist="Ann | Co", year=1987, language="en"),
        *invented(3, start=40, artist="$olo", year=1991, language="no"),
        *invented(5, start=50, kind="instrumental", lyrics="[Instrumental]", artist="Bo"),
        *invented(2, start=60, lyrics="la\nla\n| la |"),
        *invented(1, start=70, lyrics="[chorus:]\nIt’s  late\n" + invented(1, 70)[0].lyrics),
        *invented(1, start=71, lyrics="what the f**k\n" + invented(1, 71)[0].lyrics),
    ]
    folder = raw(tmp_path / "mixed", songs)
    main(folder)
    return folder


@pytest.fixture
def report(mixed):
    return (mixed / "report.md").read_text(encoding="utf-8")


def test_every_reason_has_its_count_and_up_to_three_examples(report, mixed):
    rows = {reason: (n, shown) for reason, n, shown in tables(report)["Dropped"]}
    assert {reason: n for reason, (n, _) in rows.items()} == {
        "instrumental": "5",
        "too few lines": "2",
    }
    assert rows["instrumental"][1].count("Harbour") == 3
    assert rows["too few lines"][1].count("Harbour") == 2
    assert "(Bo)" in rows["instrumental"][1]


def test_every_rule_has_the_number_of_songs_that_it_changed(report):
    rows = tables(report)["Rules that changed a song"]
    assert [name for name, _, _ in rows] == [rule.__name__ for rule in RULES]
    counts = {name: int(n) for name, n, _ in rows}
    assert counts["characters"] == counts["section_headers"] == counts["spaces"] == 1
    assert counts["html"] == counts["credits"] == 0
    assert all(what for _, _, what in rows)


def test_the_counts_are_those_of_data_json(report, mixed):
    songs = list(read_songs(mixed / "data.json"))
    told = dict(tables(report)["Kept"])
    texts = [song.text for song in songs]
    assert int(told["songs"]) == len(songs) == 45
    assert int(told["words"].replace(",", "")) == sum(len(text.split()) for text in texts)
    assert int(told["characters"].replace(",", "")) == sum(map(len, texts))
    assert int(told["distinct characters"]) == len(set("".join(texts)))
    lines = sum(bool(line) for text in texts for line in text.split("\n"))
    assert int(told["lines"].replace(",", "")) == lines
    stanzas = sum(len(re.findall(r"\n\n", text)) + 1 for text in texts)
    assert int(told["stanzas"].replace(",", "")) == stanzas
    artists = {name: int(n) for name, n, _ in tables(report)["Artists"]}
    assert artists == {
        name.replace("|", "\\|"): n for name, n in Counter(s.artist_name for s in songs).items()
    }
    assert dict(tables(report)["Years"]) == {"1980s": "40", "1990s": "3", "unknown": "2"}
    languages = {code: int(n) for code, n in tables(report)["Languages"]}
    assert languages == Counter(song.language or "unknown" for song in songs)
    assert ["Chorus", "1"] in tables(report)["Sections"]
    assert "1 songs have masked words" in report
    assert dict(tables(report)["Versions of one song"]) == {"1": "45"}


def test_every_row_of_a_table_has_the_cells_of_its_head(report, mixed):
    card = (mixed / "dataset_card.md").read_text(encoding="utf-8")
    for text in (report, card):
        for block in re.split(r"\n\n", text):
            if block.startswith("|"):
                widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.strip().split("\n")}
                assert len(widths) == 1, block


def test_the_card_begins_with_yaml_that_hugging_face_reads(mixed):
    card = (mixed / "dataset_card.md").read_text(encoding="utf-8")
    start, front, text = card.split("---\n", 2)
    assert start == ""
    told = yaml.safe_load(front)
    assert told["language"] == ["en", "no"], "Norwegian is no boolean"
    assert told["license"] == "other"
    assert told["task_categories"] == ["text-generation"]
    assert told["size_categories"] == ["n<1K"]
    assert told["configs"] == [{"config_name": "default", "data_files": "data.json"}]
    assert "45 songs" in text


def test_the_card_says_where_from_how_and_with_what(mixed):
    card = (mixed / "dataset_card.md").read_text(encoding="utf-8")
    settings = dict(tables(card)["How it was made"])
    assert settings["near_duplicate"] == "0.7"
    assert settings["min_lines"] == "4"
    fields = {name for cell, _ in tables(card)["Fields"] for name in cell.split(", ")}
    row = json.loads((mixed / "data.json").read_text(encoding="utf-8"))[0]
    assert set(row) <= fields
    assert "files (45)" in card
    assert "Nothing was filtered" in card
    main(mixed, explicit="drop")
    assert "--explicit=drop" in (mixed / "dataset_card.md").read_text(encoding="utf-8")


def test_a_corpus_of_no_song_has_a_report_too(raw, tmp_path, invented):
    folder = raw(tmp_path, invented(3, lyrics="la\nla"))
    main(folder)
    assert "3 songs in, 0 kept" in (folder / "report.md").read_text(encoding="utf-8")
    card = (folder / "dataset_card.md").read_text(encoding="utf-8")
    assert "language" not in yaml.safe_load(card.split("---\n")[1])


NAMES = [
    "日本語の歌", "한국어", "हिन्दी", "தமிழ்", "ไทย", "עברית", "العربية", "አማርኛ", "🎵", "ქართული",
    "$olo & $ons", "$", "100% $\\frac$", "a_b^c", "\\alpha", "x" * 300,
]  # fmt: skip


def test_the_picture_is_drawn_without_a_warning_whatever_the_names(raw, tmp_path, invented):
    songs = [s for i, name in enumerate(NAMES) for s in invented(1, start=i, artist=name)]
    folder = raw(tmp_path, songs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        main(folder)
        main(folder, force=True)
    data = (folder / "report.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert data.endswith(b"IEND\xaeB`\x82")
    assert len(data) > 10_000
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "(report.png)" in text
    assert all(name in text for name in NAMES)
