"""The novelty index finds what a naive search finds, whatever the tokenizer and the parts."""

import random

import pytest

from backend.config.schema import BinarizeConfig
from backend.data import binarize
from backend.data.bins import Bins
from backend.data.song import CleanSong, write_songs
from backend.errors import DataError
from backend.evaluation import novelty
from backend.evaluation.novelty import Novelty, words


def corpus(folder, texts, tokenizer="char", **settings):
    """Bins of songs, split by song where there are enough of them."""
    songs = [
        CleanSong(text=text, song_name=f"Song {i}", artist_name=f"Singer {i % 3}", id=f"{i:016x}")
        for i, text in enumerate(texts)
    ]
    write_songs(folder / "data.json", (song.to_json() for song in songs))
    size = dict(vocab_size=300) if tokenizer == "bpe" else {}
    binarize.main(BinarizeConfig(data_dir=str(folder), tokenizer=tokenizer, **size, **settings))
    return Bins.open(str(folder / ("bpe300" if tokenizer == "bpe" else tokenizer)))


def invented(seed, n=30, kinds=4):
    """Songs of few words, which repeat all the time: many runs, many of them equal."""
    draws = random.Random(seed)
    said = ["la", "Don’t", "99", "river", "naïve", "oh"][:kinds]

    def line():
        return " ".join(draws.choices(said, k=draws.randint(1, 7)))

    return [
        "[Chorus]\n" + "\n".join(line() + "," for _ in range(draws.randint(1, 9))) for _ in range(n)
    ]


def training_songs(bins):
    return [
        words(bins.tokenizer.decode(bins.train.document(i)[1])) for i in range(bins.train.songs)
    ]


def naive(songs, said):
    """The longest match from each word on, and the songs that have it."""
    found = []
    for here in range(len(said)):
        n, where = 0, set(range(len(songs)))
        for longer in range(1, len(said) - here + 1):
            run = said[here : here + longer]
            have = {
                i for i, song in enumerate(songs)
                if any(song[k : k + longer] == run for k in range(len(song) - longer + 1))
            }  # fmt: skip
            if not have:
                break
            n, where = longer, have
        found.append((n, where))
    return found


@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
@pytest.mark.parametrize("seed", [1, 2])
def test_runs_and_shares_are_those_of_a_naive_search(tmp_path, monkeypatch, seed, tokenizer):
    # in many parts, as a corpus of gigabytes has them, and ties longer than four words
    monkeypatch.setattr(novelty, "LEAST_PART", 50)
    monkeypatch.setattr(novelty, "PIECE", 10**6)
    bins = corpus(tmp_path / "tale", invented(seed), tokenizer)
    songs = training_songs(bins)
    index = Novelty.open(bins)
    held_out = [bins.tokenizer.decode(bins.val.document(i)[1]) for i in range(bins.val.songs)]
    for text in [*held_out, *invented(seed + 50, n=4, kinds=6), "oh brand new", ""]:
        said = words(text)
        found = naive(songs, said)
        longest = max((n for n, _ in found), default=0)
        run = index.longest_run(text)
        assert run.n_words == longest == len(words(run.words))
        if longest:
            where = set().union(*(have for n, have in found if n == longest))
            ids = {index.names[i].id for i in where}
            assert run.song.id in ids
        for n in (1, 3, 5):
            runs = len(said) - n + 1
            seen = sum(length >= n for length, _ in found[: max(runs, 0)])
            assert index.seen_share(text, n) == pytest.approx(seen / runs if runs > 0 else 0)
        for n in (2, 6):
            for here in range(0, len(said) - n + 1, 3):
                assert index.copied(said[here : here + n]) == (found[here][0] >= n)


def test_every_tokenizer_gives_the_same_index_and_people_are_measured_beside(tmp_path):
    texts = invented(5)
    indices = [Novelty.open(corpus(tmp_path / "tale", texts, t)) for t in ("char", "bpe")]
    one, other = indices
    assert one.suffix.tolist() == other.suffix.tolist()
    assert one.names == other.names
    assert one.human == other.human
    assert one.human.songs == one.bins.val.songs
    figures = [
        one.measure(one.bins.tokenizer.decode(one.bins.val.document(i)[1]))
        for i in range(one.human.songs)
    ]
    middle = sorted(f.longest_words for f in figures)[
        (len(figures) - 1) // 2 : len(figures) // 2 + 1
    ]
    assert one.human.longest_words == pytest.approx(sum(middle) / len(middle))
    mean = sum(f.share_5gram for f in figures) / len(figures)
    assert one.human.share_5gram == pytest.approx(mean)


def test_a_training_song_is_found_whole_and_named_and_no_run_goes_on_into_the_next_song(tmp_path):
    texts = [f"this is song{i} and nobody knows it" for i in range(30)]
    bins = corpus(tmp_path / "tale", texts)
    index = Novelty.open(bins)
    assert index.artists == ["Singer 0", "Singer 1", "Singer 2"]
    for number, said in enumerate(training_songs(bins)):
        run = index.longest_run(" ".join(said).upper())
        i = int(said[2].removeprefix("song"))
        assert run == (7, (f"{i:016x}", f"Song {i}", f"Singer {i % 3}"), " ".join(said))
        assert index.names[number] == run.song
    assert index.longest_run("knows it this is").n_words == 2


def test_words_are_what_is_sung_in_any_script():
    assert words("[Chorus]\nDon’t go, RIVER\nof 99 nights!") == [
        "don't", "go", "river", "of", "99", "nights",
    ]  # fmt: skip
    assert words("夜の river\nСтою, naïve") == ["夜", "の", "river", "стою", "naïve"]


def test_words_that_share_a_hash_are_never_taken_for_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(novelty.zlib, "crc32", lambda word: len(word))
    bins = corpus(tmp_path / "tale", invented(3))
    index, songs = Novelty.open(bins), training_songs(bins)
    for text in invented(9, n=5, kinds=6):
        run = index.longest_run(text)
        assert run.n_words <= max(n for n, _ in naive(songs, words(text)))
        assert f" {run.words} " in " | ".join(f" {' '.join(song)} " for song in songs)


def test_the_index_is_kept_and_made_anew_for_other_bins_or_when_it_is_damaged(tmp_path):
    bins = corpus(tmp_path / "tale", invented(1))
    Novelty.open(bins)
    path = bins.folder / novelty.NAME
    first = path.read_bytes()
    stamp = path.stat().st_mtime_ns
    Novelty.open(bins)
    assert path.stat().st_mtime_ns == stamp
    for damage in (first[:-20], b"", b"nonsense"):
        path.write_bytes(damage)
        assert Novelty.open(bins).longest_run("la la").n_words
        assert path.read_bytes() == first
    other = corpus(tmp_path / "other", invented(2, n=40))
    (other.folder / novelty.NAME).write_bytes(first)
    assert Novelty.open(other).names != Novelty.open(bins).names


def test_songs_without_a_data_json_are_named_by_their_headers(tmp_path):
    bins = corpus(tmp_path / "tale", [f"only number{i} of thirty songs" for i in range(30)])
    (tmp_path / "tale/data.json").unlink()
    index = Novelty.open(bins)
    assert [name.id for name in index.names] == [f"train:{i}" for i in range(bins.train.songs)]
    assert {name.artist for name in index.names} - {None} == set(index.artists)
    assert any(name.title for name in index.names)


def test_a_folder_that_cannot_be_written_to_is_the_disks_fault(tmp_path, monkeypatch):
    bins = corpus(tmp_path / "tale", invented(1))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(novelty.tempfile, "TemporaryFile", full)
    with pytest.raises(OSError, match="No space"):
        Novelty.open(bins)
    assert not (bins.folder / novelty.NAME).exists()


def test_more_words_than_places_can_number_are_a_sentence(tmp_path, monkeypatch):
    bins = corpus(tmp_path / "tale", invented(1))
    monkeypatch.setattr(novelty, "MOST", 100)
    with pytest.raises(DataError, match="too many"):
        Novelty.open(bins)


def test_it_takes_at_most_half_as_much_again_as_the_text(tmp_path):
    said = words("The ship went down to the harbour wall, and nobody sang of it again that year")
    draws = random.Random(0)
    songs = ["\n".join(" ".join(draws.choices(said, k=7)) for _ in range(24)) for _ in range(60)]
    bins = corpus(tmp_path / "tale", songs)
    index = Novelty.open(bins)
    size = sum(len(" ".join(song).encode()) for song in training_songs(bins))
    assert (bins.folder / novelty.NAME).stat().st_size <= 1.5 * size
    assert index.suffix.nbytes == 4 * sum(map(len, training_songs(bins)))
