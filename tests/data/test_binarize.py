"""Binarize: the bins hold exactly the songs, and a song stays on its side."""

import hashlib
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiktoken

from backend.config.schema import BinarizeConfig, CleanConfig
from backend.data import binarize, bins, clean, tokenizers
from backend.data.song import header, read_songs, split_header, training_header
from backend.errors import DataError, UserError
from backend.storage import alone
from tests.conftest import ROOT
from tests.data.conftest import verse
from tests.data.oracles import groups


def main(folder, **settings):
    return binarize.main(BinarizeConfig(data_dir=str(folder), **settings))


def stream(folder, name, kind="char"):
    meta = json.loads((folder / kind / "meta.json").read_text())
    dtype = np.dtype(meta["dtype"]).newbyteorder("<")
    return np.fromfile(folder / kind / f"{name}.bin", dtype=dtype)


def documents(folder, name, kind="char"):
    """(header, text) of every document of a split, from the files alone."""
    tokenizer = tokenizers.load(folder / kind / "tokenizer.json")
    ids = stream(folder, name, kind)
    pairs = np.fromfile(folder / kind / f"{name}.idx", dtype="<u8").reshape(-1, 2)
    ends = [*pairs[1:, 0], len(ids) - 1][: len(pairs)]
    found = []
    for (start, text), end in zip(pairs.tolist(), ends, strict=True):
        assert ids[start] == ids[end] == tokenizer.eot
        found.append((tokenizer.decode(ids[start + 1 : text]), tokenizer.decode(ids[text:end])))
    return found


def texts(folder, name, kind="char"):
    return [text for _, text in documents(folder, name, kind)]


def files(folder, kind="char"):
    return {path.name: path.read_bytes() for path in (folder / kind).iterdir()}


# --- the demo -------------------------------------------------------------------------------------


def test_the_bins_decode_to_exactly_the_documents(demo):
    tokenizer = tokenizers.load(demo / "char" / "tokenizer.json")
    held_out = set(texts(demo, "val"))
    songs = list(read_songs(demo / "data.json"))
    for name in ("train", "val"):
        mine = [song for song in songs if (song.text in held_out) == (name == "val")]
        heads = [
            header(s.header_fields()) if name == "val" else training_header(s, 1337) for s in mine
        ]
        whole = "".join(
            f"<|endoftext|>{head}{song.text}" for head, song in zip(heads, mine, strict=True)
        )
        assert tokenizer.decode(stream(demo, name)) == whole + "<|endoftext|>"
        assert documents(demo, name) == [(h, s.text) for h, s in zip(heads, mine, strict=True)]
    assert sorted(texts(demo, "train") + texts(demo, "val")) == sorted(s.text for s in songs)


def test_the_split_of_the_demo_is_by_song_with_every_header_line_kept_in_validation(demo):
    by_text = {song.text: song for song in read_songs(demo / "data.json")}
    assert 2 < len(texts(demo, "val")) < len(by_text) / 5
    assert len(texts(demo, "train")) == len(by_text) - len(texts(demo, "val"))
    for head, text in documents(demo, "val"):
        assert head == header(by_text[text].header_fields())
        assert head.startswith("artist: ")
    heads = [head for head, _ in documents(demo, "train")]
    assert heads != [header(by_text[text].header_fields()) for text in texts(demo, "train")]


def test_index_pairs_point_at_the_document_and_at_its_text(demo):
    for name in ("train", "val"):
        ids = stream(demo, name)
        pairs = np.fromfile(demo / "char" / f"{name}.idx", dtype="<u8").reshape(-1, 2).tolist()
        eot = tokenizers.load(demo / "char" / "tokenizer.json").eot
        assert [start for start, _ in pairs] == np.flatnonzero(ids == eot)[:-1].tolist()
        assert all(start < text < after for (start, text), (after, _) in pairwise(pairs))
        assert ids[-1] == eot


def test_meta_tells_the_truth_about_the_files(demo):
    folder = demo / "char"
    meta = json.loads((folder / "meta.json").read_text())
    tokenizer = tokenizers.load(folder / "tokenizer.json")
    digest = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    source = hashlib.sha256((demo / "data.json").read_bytes()).hexdigest()
    splits = meta.pop("splits")
    assert meta == {
        "format": 1,
        "kind": "char",
        "tokenizer_sha256": digest["tokenizer.json"],
        "vocab_size": tokenizer.vocab_size,
        "dtype": "uint16",
        "eot": tokenizer.eot,
        "header": ["artist", "title", "album", "year", "language"],
        "split_by": "song",
        "val_fraction": 0.1,
        "seed": 1337,
        "source_sha256": source,
    }
    for name in ("train", "val"):
        found = texts(demo, name)
        assert splits[name] == {
            "files": [f"{name}.bin"],
            "tokens": len(stream(demo, name)),
            "songs": len(found),
            "chars": sum(map(len, found)),
            "bytes": sum(len(text.encode()) for text in found),
            "sha256": digest[f"{name}.bin"],
        }


@pytest.fixture
def nanogpts(demo):
    return pickle.loads((demo / "char" / "meta.pkl").read_bytes())  # noqa: S301 (our own file)


def test_meta_pkl_has_the_shape_of_nanogpts(demo, nanogpts):
    tokenizer = tokenizers.load(demo / "char" / "tokenizer.json")
    assert set(nanogpts) == {"vocab_size", "stoi", "itos"}
    assert nanogpts["vocab_size"] == tokenizer.vocab_size
    for char, i in nanogpts["stoi"].items():
        assert nanogpts["itos"][i] == char
    text = next(iter(read_songs(demo / "data.json"))).text
    encoded = [nanogpts["stoi"][c] for c in text]  # as nanoGPT's sample.py encodes
    assert encoded == tokenizer.encode(text).tolist()


def test_nanogpts_own_sample_can_decode_every_id_its_model_may_draw(demo, nanogpts):
    for name in ("train", "val"):
        shown = "".join([nanogpts["itos"][i] for i in stream(demo, name).tolist()])
        assert texts(demo, name)[0] in shown
    assert len(nanogpts["itos"]) == nanogpts["vocab_size"]


def test_a_second_run_has_nothing_to_do(corpus, capsys):
    main(corpus)
    before = files(corpus)
    assert main(corpus).skipped
    assert "nothing to do" in capsys.readouterr().out
    assert not main(corpus, force=True).skipped
    after = files(corpus)
    for name in set(before) - {"binarize.manifest.json"}:
        assert after[name] == before[name], f"{name} differs from run to run"
    assert not main(corpus, seed=2).skipped
    assert not main(corpus, seed=2, val_fraction=0.3).skipped


def test_a_moved_corpus_stays_valid(corpus, tmp_path):
    main(corpus)
    assert main(corpus.rename(tmp_path / "moved")).skipped


def test_a_deleted_or_edited_bin_is_made_again(corpus):
    whole = files(corpus)["val.bin"]
    (corpus / "char" / "val.bin").unlink()
    assert not main(corpus).skipped
    assert files(corpus)["val.bin"] == whole
    (corpus / "char" / "val.bin").write_bytes(whole[:-2])
    assert not main(corpus).skipped
    assert files(corpus)["val.bin"] == whole


def test_the_seed_draws_another_split_and_other_headers(corpus):
    before = set(texts(corpus, "val"))
    main(corpus, seed=3)
    assert set(texts(corpus, "val")) != before


# --- the split ------------------------------------------------------------------------------------


def sides(folder):
    return {text: name for name in ("train", "val") for text in texts(folder, name)}


def test_growth_never_moves_a_song_to_the_other_side(tmp_path, rows):
    main(rows(tmp_path, 40), val_fraction=0.3)
    before = sides(tmp_path)
    assert set(before.values()) == {"train", "val"}
    main(rows(tmp_path, 160), val_fraction=0.3)
    after = sides(tmp_path)
    assert len(after) == 160
    assert {text: after[text] for text in before} == before
    share = sum(side == "val" for side in after.values()) / 160
    assert share == pytest.approx(0.3, abs=0.1)


def test_the_order_of_data_json_decides_nothing_about_the_split(tmp_path, rows):
    main(rows(tmp_path, 40), val_fraction=0.3)
    before = sides(tmp_path)
    songs = json.loads((tmp_path / "data.json").read_text())
    main(rows(tmp_path, songs[::-1]), val_fraction=0.3)
    assert sides(tmp_path) == before


def versions(n):
    """n groups of three songs that are versions of one."""
    return [
        {"text": f"Ship {i} sails\nversion {v}", "id": f"{v}{i:03}", "duplicate_group": f"0{i:03}"}
        for v in range(3)
        for i in range(n)
    ]


def test_all_versions_of_a_song_are_on_one_side(tmp_path, rows):
    main(rows(tmp_path, versions(30)), val_fraction=0.3)
    by_ship = {}
    for text, side in sides(tmp_path).items():
        by_ship.setdefault(text.split("\n")[0], set()).add(side)
    assert len(by_ship) == 30
    assert all(len(found) == 1 for found in by_ship.values())
    assert {"train"} in by_ship.values()
    assert {"val"} in by_ship.values()


def test_equal_texts_without_ids_are_on_one_side(tmp_path, rows):
    songs = [{"text": f"Ship {i % 20} sails away"} for i in range(40)]
    main(rows(tmp_path, songs), val_fraction=0.3)
    assert not set(texts(tmp_path, "train")) & set(texts(tmp_path, "val"))
    assert len(texts(tmp_path, "train")) + len(texts(tmp_path, "val")) == 40


def test_no_trained_song_is_held_out_when_a_better_version_takes_its_place(tmp_path, rows):
    # First only the live versions are known; then the studio versions come, and clean keeps those
    live, studio = (
        [
            {"text": f"Ship {i}\n{kind}", "id": f"{kind} {i:03}", "duplicate_group": f"live {i:03}"}
            for i in range(60)
        ]
        for kind in ("live", "studio")
    )
    main(rows(tmp_path, live), val_fraction=0.3)
    before = {text.split("\n")[0]: side for text, side in sides(tmp_path).items()}
    main(rows(tmp_path, studio), val_fraction=0.3)
    after = {text.split("\n")[0]: side for text, side in sides(tmp_path).items()}
    assert {"train", "val"} == set(after.values())
    assert all(after[ship] == "train" for ship, side in before.items() if side == "train")


def test_groups_that_grow_together_go_to_the_training_side(tmp_path, rows):
    alone = [{"text": f"Ship {i}", "id": f"{i:03}"} for i in range(80)]
    main(rows(tmp_path, alone), val_fraction=0.4)
    before = sides(tmp_path)
    joined = [
        {
            "text": f"Ship {i}",
            "id": f"{i:03}",
            "duplicate_group": f"{i:03}",
            "versions": [f"{i + 1:03}"],
        }
        for i in range(0, 80, 2)
    ]
    main(rows(tmp_path, joined), val_fraction=0.4)
    for ship, side in sides(tmp_path).items():
        pair = (before[ship], before[f"Ship {int(ship.split()[1]) + 1}"])
        assert side == ("val" if pair == ("val", "val") else "train")


def discography(artists, albums=3, songs=4):
    """Rows of artists with albums of songs; one artist in capitals now and then."""
    return [
        {
            "text": f"Singer {a} on record {b}\nwent sailing {c}",
            "id": f"{a:03}{b:02}{c:02}",
            "artist_name": f"SINGER {a}" if c == 2 else f"Singer {a}",
            "album": f"Record {b}",
            "song_name": f"Sail {a}.{b}.{c}",
        }
        for a in range(artists)
        for b in range(albums)
        for c in range(songs)
    ]


def sides_of(folder, songs, key):
    found, side = {}, sides(folder)
    for song in songs:
        found.setdefault(key(song), set()).add(side[song["text"]])
    return found


@pytest.mark.parametrize(
    ("split_by", "parts"),
    [("song", ()), ("album", ("artist_name", "album")), ("artist", ("artist_name",))],
)
@pytest.mark.parametrize("seed", [1, 1337])
def test_what_the_split_goes_by_is_on_one_side(tmp_path, rows, split_by, parts, seed):
    songs = discography(12)
    main(rows(tmp_path, songs), split_by=split_by, val_fraction=0.3, seed=seed)
    assert meta(tmp_path)["split_by"] == split_by
    found = sides_of(
        tmp_path,
        songs,
        lambda song: tuple(song[part].casefold() for part in parts) or song["id"],
    )
    assert all(len(both) == 1 for both in found.values())
    assert {"train"} in found.values()
    assert {"val"} in found.values()
    assert len(found) == {"song": 144, "album": 36, "artist": 12}[split_by]


def test_albums_of_one_name_by_two_artists_are_two(tmp_path, rows):
    songs = [song | {"album": "Greatest"} for song in discography(40, 1, 2)]
    main(rows(tmp_path, songs), split_by="album", val_fraction=0.4)
    found = sides_of(tmp_path, songs, lambda song: song["album"])
    assert found == {"Greatest": {"train", "val"}}


def test_a_song_without_artist_or_album_goes_by_itself(tmp_path, rows):
    songs = [{"text": f"Ship {i}", "id": f"{i}", "album": "None knows"} for i in range(60)]
    for split_by in ("album", "artist"):
        main(rows(tmp_path, songs), split_by=split_by, val_fraction=0.4)
        assert set(sides(tmp_path).values()) == {"train", "val"}


def test_a_cover_takes_both_artists_to_one_side(tmp_path, rows):
    songs = discography(12, 1)
    main(rows(tmp_path, songs), split_by="artist", val_fraction=0.4)
    alone = sides_of(tmp_path, songs, lambda song: song["artist_name"].casefold())
    out = next(name for name, side in alone.items() if side == {"val"})
    stays = next(name for name, side in alone.items() if side == {"train"})
    one, other = (
        next(song for song in songs if song["artist_name"].casefold() == name)
        for name in (out, stays)
    )
    cover = {"text": "A song of both\nby one", "id": "zz", "artist_name": one["artist_name"],
             "duplicate_group": other["id"]}  # fmt: skip
    for order in ([*songs, cover], [cover, *songs]):
        main(rows(tmp_path, order), split_by="artist", val_fraction=0.4)
        after = sides_of(tmp_path, order, lambda song: song["artist_name"].casefold())
        assert after == alone | {out: {"train"}}


def test_covers_that_link_many_artists_take_all_of_them(tmp_path, rows):
    songs = discography(30, 1, 2)
    chain = [  # 0-1, 1-2, ... 8-9, in no order
        {"text": f"Song of {i} and {i + 1}\nby {who}", "id": f"c{i}{who}",
         "artist_name": f"Singer {who}", "duplicate_group": f"c{i}"}
        for i in range(9) for who in (i, i + 1)
    ]  # fmt: skip
    random.Random(2).shuffle(chain)
    main(rows(tmp_path, [*songs, *chain]), split_by="artist", val_fraction=0.5)
    found = sides_of(tmp_path, [*songs, *chain], lambda song: song["artist_name"].casefold())
    assert len({side for i in range(10) for side in found[f"singer {i}"]}) == 1
    assert all(len(side) == 1 for side in found.values())


def growing(draw):
    """Songs of a corpus, and then the same with more: other songs, and versions of them."""
    n, more = draw.randint(30, 50), draw.randint(1, 60)
    group = {i: {i} for i in range(n + more)}
    for i in range(n, n + more):
        if draw.random() < 0.5:  # a version of up to two songs, which so become one
            for j in draw.sample(range(i), draw.choice((1, 1, 2))):
                group[i] |= group[j]
                for k in group[i]:
                    group[k] = group[i]
    ids = [f"{draw.getrandbits(40):010x}" for _ in range(n + more)]
    names = [(f"Singer {draw.randrange(8)}", f"Record {draw.randrange(3)}") for _ in ids]

    def row(i, members):
        key = sorted(ids[j] for j in members)
        return {
            "text": f"Song {i}",
            "id": ids[i],
            "duplicate_group": key[0],
            "versions": [one for one in key if one != ids[i]],
            "artist_name": names[i][0],
            "album": names[i][1],
        }

    first = [row(i, {i}) for i in range(n)]
    # data.json holds one of each group, or, made by another program, all of them
    whole = draw.random() < 0.5
    later = [row(i, group[i]) for i in range(n + more) if whole or i == min(group[i])]
    return first, draw.sample(later, len(later))


@pytest.mark.e2e
@pytest.mark.parametrize("split_by", ["song", "album", "artist"])
def test_growth_never_holds_out_what_was_trained_on(tmp_path, rows, split_by):
    held_out = 0
    for seed in range(20):
        first, later = growing(random.Random(seed))
        found = []
        for songs in (first, later):
            try:
                done = main(rows(tmp_path, songs), split_by=split_by, seed=seed, val_fraction=0.4)
            except DataError as error:
                assert "leaves no" in error.what
                break
            if done.notes:  # the hash held out none
                break
            found.append(sides(tmp_path))
        else:
            before, after = found
            both = before.keys() & after.keys()
            assert len(both) > 10
            assert not [t for t in both if before[t] == "train" and after[t] == "val"]
            held_out += sum(after[t] == "val" for t in both)
            if split_by == "song":  # and the others move only where a version joined them
                alone = {song["text"] for song in later if not song["versions"]}
                assert all(before[t] == after[t] for t in both & alone)
    assert held_out


def test_another_seed_holds_out_others_and_as_many(tmp_path, rows):
    rows(tmp_path, 300)
    held_out = []
    for seed in range(4):
        main(tmp_path, seed=seed, val_fraction=0.2)
        held_out.append(frozenset(texts(tmp_path, "val")))
    assert len(set(held_out)) == 4
    assert all(35 <= len(found) <= 85 for found in held_out)


@pytest.mark.parametrize("split_by", ["album", "artist"])
def test_where_one_artist_sang_all_the_way_out_is_told(tmp_path, rows, split_by):
    songs = discography(1, 1, 30)
    with pytest.raises(DataError) as error:
        main(rows(tmp_path, songs), split_by=split_by)
    assert f"no {split_by} to train on" in error.value.what
    assert not (tmp_path / "char").exists()


def test_training_headers_are_thinned_and_validation_keeps_all(tmp_path, rows):
    songs = discography(30)
    main(rows(tmp_path, songs), val_fraction=0.3)
    fields = {
        song["text"]: {"artist": song["artist_name"], "title": song["song_name"],
                       "album": song["album"]}
        for song in songs
    }  # fmt: skip
    assert all(split_header(h + t) == (fields[t], t) for h, t in documents(tmp_path, "val"))
    seen = [split_header(head + "x")[0] for head, _ in documents(tmp_path, "train")]
    for name in ("artist", "title", "album"):
        assert sum(name in head for head in seen) / len(seen) == pytest.approx(0.63, abs=0.12)
    assert sum(not head for head in seen) / len(seen) == pytest.approx(0.124, abs=0.08)
    assert all(
        head.items() <= fields[text].items()
        for head, text in (split_header(h + t) for h, t in documents(tmp_path, "train"))
    )


def test_what_the_model_will_read_is_shown(corpus, capsys):
    main(corpus, force=True)
    said = capsys.readouterr().out
    heads = [line for line in said.split("\n") if line.startswith("  train, document ")]
    songs = documents(corpus, "train")
    first, middle, last = (int(line.split()[2]) for line in heads)
    assert (first, last) == (1, len(songs))
    assert abs(middle - (first + last) / 2) < 1
    opening = "".join(songs[0]).split("\n")
    assert f"    | {opening[0]}" in said


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_validation_is_never_empty(tmp_path, rows, capsys, seed):
    main(rows(tmp_path, 20), val_fraction=0.001, seed=seed)
    assert len(texts(tmp_path, "val")) == 1
    assert len(texts(tmp_path, "train")) == 19
    assert "held out no song" in capsys.readouterr().out


@pytest.mark.parametrize("n", [1, 2, 7, 19])
def test_few_songs_are_cut_at_nine_tenths_of_the_text_and_none_of_it_is_lost(
    tmp_path, rows, capsys, n
):
    main(rows(tmp_path, n))
    said = capsys.readouterr().out
    assert f"only {n} songs" in said
    assert "starts at 20" in said
    train, val = texts(tmp_path, "train"), texts(tmp_path, "val")
    whole = [song.text for song in read_songs(tmp_path / "data.json")]
    assert "".join(train + val).replace("\n", "") == "".join(whole).replace("\n", "")
    share = sum(map(len, val)) / sum(map(len, whole))
    assert share == pytest.approx(0.1, abs=40 / sum(map(len, whole)))  # up to a line break
    for text in train + val:
        assert any(text in song for song in whole)


def test_from_twenty_songs_on_no_song_is_cut(tmp_path, rows, capsys):
    main(rows(tmp_path, 20))
    assert "only" not in capsys.readouterr().out
    assert len(sides(tmp_path)) == 20


@pytest.mark.parametrize("text", ["x", "la la la la la la la", "one\ntwo", "la la la la\n\n\n\n\n"])
def test_one_short_song_has_a_side_each_or_is_refused_with_a_way_out(tmp_path, rows, text):
    rows(tmp_path, [{"text": text}])
    try:
        main(tmp_path)
    except DataError as error:
        assert error.mend
        assert not list((tmp_path / "char").glob("*.bin"))
    else:
        assert texts(tmp_path, "train")
        assert texts(tmp_path, "val")


@pytest.mark.parametrize("val_fraction", [0.0001, 0.5, 0.9999])
@pytest.mark.parametrize("n", [1, 3, 25])
def test_at_the_extremes_both_sides_hold_text_or_the_way_out_is_told(
    tmp_path, rows, n, val_fraction
):
    rows(tmp_path, n)
    try:
        main(tmp_path, val_fraction=val_fraction)
    except DataError as error:
        assert "val_fraction" in error.what
        assert "--val_fraction" in error.mend
    else:
        assert "".join(texts(tmp_path, "train"))
        assert "".join(texts(tmp_path, "val"))


def test_at_one_half_both_sides_hold_about_half(tmp_path, rows):
    main(rows(tmp_path, 200), val_fraction=0.5)
    assert 70 < len(texts(tmp_path, "val")) < 130


def test_an_impossible_val_fraction_is_a_problem_of_the_settings():
    for value in (0, 1, -0.1, 1.5):
        assert list(BinarizeConfig(val_fraction=value).problems())


# --- what may go wrong ----------------------------------------------------------------------------


def test_the_name_of_the_special_token_in_a_song_stays_text(tmp_path, rows):
    songs = [{"text": f"la <|endoftext|> {i}", "song_name": "<|endoftext|>"} for i in range(20)]
    main(rows(tmp_path, songs))
    eot = tokenizers.load(tmp_path / "char" / "tokenizer.json").eot
    for name in ("train", "val"):
        assert (stream(tmp_path, name) == eot).sum() == len(texts(tmp_path, name)) + 1
    assert sorted(sides(tmp_path)) == sorted(song["text"] for song in songs)


@pytest.mark.parametrize("fault", [KeyboardInterrupt, MemoryError])
def test_a_kill_while_writing_leaves_the_old_bins_whole(corpus, monkeypatch, fault):
    main(corpus)
    before = files(corpus)
    put, calls = bins.Writer._put, []

    def dies(self, side, ids):
        calls.append(side)
        if len(calls) == 2:
            raise fault
        put(self, side, ids)

    with monkeypatch.context() as patch:
        patch.setattr(bins.Writer, "_put", dies)
        with pytest.raises(fault):
            main(corpus, seed=2)
    assert files(corpus) == before
    assert not [path.name for path in corpus.iterdir() if path.name.startswith(".")]
    assert main(corpus).skipped
    assert not main(corpus, seed=2).skipped


@pytest.mark.parametrize("fatal", ["tokenizer.json", "meta.pkl"])
def test_a_kill_between_the_files_leaves_the_old_bins_whole(corpus, monkeypatch, fatal):
    main(corpus, seed=2)
    whole = files(corpus)
    main(corpus, seed=1)
    before, write = files(corpus), bins.atomic_write

    def dies(path, mode="w"):
        if path.name == fatal:
            raise KeyboardInterrupt
        return write(path, mode)

    with monkeypatch.context() as patch:
        patch.setattr(bins, "atomic_write", dies)
        with pytest.raises(KeyboardInterrupt):
            main(corpus, seed=2)
    assert files(corpus) == before
    assert not main(corpus, seed=2).skipped
    now = files(corpus)
    for name in set(whole) - {"binarize.manifest.json"}:
        assert now[name] == whole[name]


def test_a_kill_between_the_two_renames_is_undone_by_the_next_run(corpus, monkeypatch):
    main(corpus)
    before = files(corpus)
    rename = Path.rename

    def dies(path, target):
        if path.name == ".char.new":
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dies)
        with pytest.raises(KeyboardInterrupt):
            main(corpus, seed=2)
        assert files(corpus) == before  # a Ctrl-C puts the old ones back
        patch.setattr(bins, "restore", lambda folder: None)  # a kill gives no time for it
        with pytest.raises(KeyboardInterrupt):
            main(corpus, seed=2)
    assert not (corpus / "char").exists()
    assert main(corpus).skipped
    assert files(corpus) == before


def test_two_programs_at_once_never_write_the_same_bins(corpus):
    with alone(corpus), pytest.raises(UserError, match="another program is writing"):
        main(corpus, seed=2)
    assert not main(corpus, seed=2).skipped


def test_bins_of_other_texts_are_replaced_only_by_force(corpus):
    (corpus / "char" / "corpora.manifest.json").write_text("{}")
    with pytest.raises(DataError, match="of other texts"):
        main(corpus, seed=2)
    assert not main(corpus, seed=2, force=True).skipped


def test_the_share_held_out_is_said_where_it_is_far_from_what_was_asked(tmp_path, rows, capsys):
    songs = [{"text": f"la {i}", "id": str(i), "artist_name": f"Ann {i % 3}"} for i in range(60)]
    main(rows(tmp_path, songs), split_by="artist")
    assert "33% of the songs are held out, though 10% were asked for" in capsys.readouterr().out


def test_bins_made_anew_leave_nothing_beside_them_of_the_old_songs(corpus):
    main(corpus)
    (corpus / "char" / "baselines.json").write_text("{}")
    main(corpus, seed=2)
    assert "baselines.json" not in files(corpus)


def test_a_missing_data_json_names_the_clean_command(tmp_path):
    with pytest.raises(DataError) as error:
        main(tmp_path / "new")
    assert error.value.mend == f"python -m backend.data.clean --data_dir={tmp_path / 'new'}"
    assert not (tmp_path / "new").exists()


def test_ids_of_other_programs_may_be_numbers(tmp_path, rows):
    songs = [{"text": f"Ship {i} sails away", "id": i + 1000} for i in range(25)]
    main(rows(tmp_path, songs), val_fraction=0.3)
    assert len(sides(tmp_path)) == 25


def test_a_vocabulary_beyond_two_bytes_makes_bins_of_four(tmp_path, rows):
    letters = [chr(i) for i in range(0x21, 0x20000) if not 0xD800 <= i < 0xE000][: 2**16]
    songs = ["".join(letters[i::20]) for i in range(20)]
    main(rows(tmp_path, [{"text": text} for text in songs]))
    meta = json.loads((tmp_path / "char" / "meta.json").read_text())
    assert meta["dtype"] == "uint32"
    assert sorted(sides(tmp_path)) == sorted(songs)


def test_a_text_that_is_no_unicode_is_refused_with_a_sentence(tmp_path, rows):
    rows(tmp_path, [{"text": "half an emoji \ud83d", "id": "x"}])
    with pytest.raises(DataError) as error:
        main(tmp_path)
    assert "data.json" in error.value.what


# --- byte-level BPE -------------------------------------------------------------------------------

GPT2_FILES = ROOT.parent / "shared" / "data" / "tiktoken_cache"
needs_gpt2 = pytest.mark.skipif(
    not GPT2_FILES.is_dir(), reason=f"GPT-2's vocabulary is not in {GPT2_FILES}"
)
BPES = ["bpe400", pytest.param("gpt2", marks=needs_gpt2)]


@pytest.fixture(scope="module")
def all_kinds(demo, tmp_path_factory):
    """The demo corpus with every tokenizer that is here: to read, never to change."""
    folder = shutil.copytree(demo, tmp_path_factory.mktemp("kinds") / "demo")
    main(folder, tokenizer="bpe", vocab_size=400)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(GPT2_FILES))
        if GPT2_FILES.is_dir():
            main(folder, tokenizer="gpt2")
    return folder


def meta(folder, kind="char"):
    return json.loads((folder / kind / "meta.json").read_text())


@pytest.mark.e2e
@pytest.mark.parametrize("kind", BPES)
def test_the_bins_of_a_bpe_decode_to_exactly_the_documents(all_kinds, kind):
    for name in ("train", "val"):
        assert documents(all_kinds, name, kind) == documents(all_kinds, name)
    shown = sorted(texts(all_kinds, "train", kind) + texts(all_kinds, "val", kind))
    assert shown == sorted(song.text for song in read_songs(all_kinds / "data.json"))


@pytest.mark.parametrize(
    ("name", "kind", "size"),
    [("bpe400", "bpe", 400), pytest.param("gpt2", "gpt2", 50_257, marks=needs_gpt2)],
)
def test_meta_of_a_bpe_tells_the_truth_and_nanogpt_is_given_two_bytes_an_id(
    all_kinds, name, kind, size
):
    folder, told = all_kinds / name, meta(all_kinds, name)
    assert told["kind"] == kind
    assert (told["vocab_size"], told["eot"], told["dtype"]) == (size, size - 1, "uint16")
    digest = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    assert told["tokenizer_sha256"] == digest
    for name, split in told["splits"].items():
        ids = np.memmap(folder / f"{name}.bin", dtype=np.uint16, mode="r")  # as nanoGPT reads it
        assert len(ids) == split["tokens"]
        assert ids.max() == told["eot"]
        digest = hashlib.sha256((folder / f"{name}.bin").read_bytes()).hexdigest()
        assert split["sha256"] == digest


def test_only_characters_have_the_meta_pkl_of_nanogpt(all_kinds):
    # nanoGPT's sample.py takes GPT-2's own vocabulary where there is none
    assert [p.parent.name for p in all_kinds.glob("*/meta.pkl")] == ["char"]


@pytest.mark.parametrize("kind", BPES)
def test_bits_per_character_mean_the_same_with_every_tokenizer(all_kinds, kind):
    for name in ("train", "val"):
        ours, characters = (meta(all_kinds, k)["splits"][name] for k in (kind, "char"))
        for key in ("songs", "chars", "bytes"):
            assert ours[key] == characters[key] > 0
        assert ours["tokens"] < characters["tokens"]


@pytest.mark.parametrize("kind", BPES)
def test_no_token_of_a_bpe_spans_the_border_of_header_and_text(all_kinds, kind):
    tokenizer = tokenizers.load(all_kinds / kind / "tokenizer.json")
    ids = stream(all_kinds, "val", kind).tolist()
    pairs = np.fromfile(all_kinds / kind / "val.idx", dtype="<u8").reshape(-1, 2).tolist()
    for (start, text), (head, _) in zip(pairs, documents(all_kinds, "val"), strict=True):
        assert ids[start + 1 : text] == tokenizer.encode(head).tolist()


def test_a_bpe_lies_in_a_folder_of_its_size(tmp_path, rows):
    assert main(rows(tmp_path, 20), tokenizer="bpe").folder == tmp_path / "bpe4096"
    assert meta(tmp_path, "bpe4096")["kind"] == "bpe"
    assert meta(tmp_path, "bpe4096")["vocab_size"] < 4096  # songs so few have no more merges
    assert main(tmp_path, tokenizer="bpe", vocab_size=300).folder == tmp_path / "bpe300"
    assert meta(tmp_path, "bpe300")["vocab_size"] == 300


def test_a_bpe_too_small_for_all_bytes_is_a_problem_of_the_settings():
    assert any("257" in problem for problem in BinarizeConfig(vocab_size=256).problems())
    assert not list(BinarizeConfig(vocab_size=257).problems())


@pytest.mark.parametrize("side", ["train", "val"])
def test_merges_are_learned_from_the_songs_to_train_on_alone(tmp_path, rows, side):
    main(rows(tmp_path, 60), val_fraction=0.2)
    mine = set(texts(tmp_path, side))
    songs = json.loads((tmp_path / "data.json").read_text())
    for song in songs:
        if song["text"] in mine:
            song["text"] += "\nZyzzyva qwghlm" * 8
            song["song_name"] += " zyzzyva"
    main(rows(tmp_path, songs), val_fraction=0.2, tokenizer="bpe", vocab_size=400)
    assert all("zyzzyva" in head for head, _ in documents(tmp_path, "val", "bpe400")) == (
        side == "val"
    )
    vocabulary = tokenizers.load(tmp_path / "bpe400" / "tokenizer.json").vocabulary()
    learned = {token for token in vocabulary if "zz" in token or "qw" in token}
    assert bool(learned) == (side == "train"), learned
    held_out = sorted(s["text"] for s in songs if s["text"] in texts(tmp_path, "val", "bpe400"))
    assert sorted(texts(tmp_path, "val", "bpe400")) == held_out


def test_of_few_songs_too_the_held_out_end_teaches_no_merge(tmp_path, rows):
    rows(tmp_path, [{"text": "la la la\n" * 90 + "Zyzzyva\n" * 10}])
    main(tmp_path, tokenizer="bpe", vocab_size=300)
    assert "Zyzzyva" in texts(tmp_path, "val", "bpe300")[0]
    assert "Zyzzyva" not in texts(tmp_path, "train", "bpe300")[0]
    vocabulary = tokenizers.load(tmp_path / "bpe300" / "tokenizer.json").vocabulary()
    assert not [token for token in vocabulary if "zz" in token]
    assert "Ġla" in vocabulary


def test_the_end_of_text_in_a_song_stays_text_for_a_bpe(tmp_path, rows):
    songs = [{"text": f"la <|endoftext|> {i}", "song_name": "<|endoftext|>"} for i in range(20)]
    main(rows(tmp_path, songs), tokenizer="bpe", vocab_size=300)
    eot, found = meta(tmp_path, "bpe300")["eot"], []
    for name in ("train", "val"):
        own = texts(tmp_path, name, "bpe300")
        assert (stream(tmp_path, name, "bpe300") == eot).sum() == len(own) + 1
        found += own
    assert sorted(found) == sorted(song["text"] for song in songs)


def test_every_tokenizer_is_done_once_and_leaves_the_others_alone(all_kinds, tmp_path):
    folder = shutil.copytree(all_kinds, tmp_path / "demo")
    before = {
        path.name: files(folder, path.name)
        for path in folder.glob("*")
        if (path / "meta.json").is_file()
    }
    assert {"char", "bpe400"} <= before.keys()
    assert main(folder).skipped
    assert main(folder, vocab_size=999).skipped  # characters have no such number
    if "gpt2" in before:
        assert main(folder, tokenizer="gpt2", vocab_size=999).skipped
    assert main(folder, tokenizer="bpe", vocab_size=400).skipped
    assert not main(folder, tokenizer="bpe", vocab_size=300).skipped
    assert main(folder, tokenizer="bpe", vocab_size=400).skipped
    assert {kind: files(folder, kind) for kind in before} == before
    assert not main(folder, tokenizer="bpe", vocab_size=400, seed=2).skipped
    assert files(folder, "bpe400") != before["bpe400"]
    assert main(folder).skipped


def test_a_bpe_made_again_is_the_same(all_kinds, tmp_path):
    folder = shutil.copytree(all_kinds, tmp_path / "demo")
    before = files(folder, "bpe400")
    assert not main(folder, tokenizer="bpe", vocab_size=400, force=True).skipped
    after = files(folder, "bpe400")
    for name in set(before) - {"binarize.manifest.json"}:
        assert after[name] == before[name], f"{name} differs from run to run"


def test_without_gpt2s_vocabulary_nothing_is_written_and_the_way_out_is_told(
    tmp_path, rows, monkeypatch
):
    def unreachable(address):
        raise OSError(f"no route to {address}")

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "empty"))
    monkeypatch.setattr("tiktoken.load.read_file", unreachable)
    with pytest.raises(DataError) as error:
        main(rows(tmp_path / "corpus", 20), tokenizer="gpt2")
    assert "TIKTOKEN_CACHE_DIR" in error.value.mend
    assert [path.name for path in (tmp_path / "corpus").iterdir()] == ["data.json"]


# --- another's tokenizer --------------------------------------------------------------------------


@pytest.mark.e2e
@pytest.mark.parametrize("kind", ["char", *BPES])
def test_songs_can_be_written_in_the_ids_of_a_run(all_kinds, tmp_path, rows, kind):
    run = tmp_path / "out" / "demo.1"
    run.mkdir(parents=True)
    given = Path(shutil.copy(all_kinds / kind / "tokenizer.json", run))
    theirs = tokenizers.load(given)
    folder = rows(tmp_path / "new", [{"text": f"the sea\nthe {c * 9}"} for c in "abcdefghi" * 3])
    made = main(folder, tokenizer_file=str(given)).folder
    told, theirs_told = meta(folder, made.name), meta(all_kinds, kind)
    assert made == folder / f"{theirs_told['kind']}-demo.1"
    for key in ("kind", "vocab_size", "dtype", "eot"):
        assert told[key] == theirs_told[key]
    assert tokenizers.load(made / "tokenizer.json").vocabulary() == theirs.vocabulary()
    songs = list(read_songs(folder / "data.json"))
    for name in ("train", "val"):
        ids, mine = [], set(texts(folder, name, made.name))
        for song in songs:
            if song.text in mine:
                ids += [theirs.eot, *theirs.encode(song.text).tolist()]  # they have no header
        assert stream(folder, name, made.name).tolist() == [*ids, theirs.eot]
    assert sum(split["songs"] for split in told["splits"].values()) == len(songs)
    assert (made / "meta.pkl").is_file() == (kind == "char")


def test_characters_that_a_run_never_saw_stay_in_their_place_as_unknown(corpus, tmp_path, rows):
    songs = [{"text": f"Ω sail {i} Ω\nλ", "song_name": "Ω", "id": str(i)} for i in range(20)]
    folder = rows(tmp_path / "new", songs)
    made = main(folder, tokenizer_file=str(corpus / "char" / "tokenizer.json")).folder
    assert made.name == "char-char"
    shown = texts(folder, "train", made.name) + texts(folder, "val", made.name)
    blank = "<|unknown|>"
    known = set(tokenizers.load(corpus / "char" / "tokenizer.json").characters)
    assert not {"Ω", "λ"} & known
    expected = ["".join(c if c in known else blank for c in song["text"]) for song in songs]
    assert sorted(shown) == sorted(expected)
    assert {head for head, _ in documents(folder, "val", made.name)} == {f"title: {blank}\n\n"}
    counted = meta(folder, made.name)["splits"]
    characters = sum(len(song["text"]) for song in songs)
    assert counted["train"]["chars"] + counted["val"]["chars"] == characters


def test_characters_that_a_run_never_saw_are_told_and_no_others(corpus, tmp_path, rows, capsys):
    given = corpus / "char" / "tokenizer.json"
    main(corpus, tokenizer_file=str(given))
    assert "does not know" not in capsys.readouterr().out
    songs = [{"text": "the λ sea\nthè Ω", "id": str(i)} for i in range(20)]
    folder = rows(tmp_path / "new", songs)
    main(folder, tokenizer_file=str(given))
    said = capsys.readouterr().out
    assert "does not know all characters: 'è' is 'e', 'Ω' 'λ' <|unknown|> now" in said
    for text in texts(folder, "train", "char-char"):
        assert text == "the <|unknown|> sea\nthe <|unknown|>"


@pytest.mark.parametrize(
    ("here", "given"),
    [
        (".", "run/tokenizer.json"),
        ("run", "tokenizer.json"),
        ("run", "./tokenizer.json"),
        ("run/sub", "../tokenizer.json"),
        ("run/sub", "../../run/tokenizer.json"),
    ],
)
def test_songs_in_the_ids_of_a_run_lie_in_a_folder_of_its_name_however_it_is_given(
    corpus, tmp_path, rows, monkeypatch, here, given
):
    (tmp_path / "run" / "sub").mkdir(parents=True)
    shutil.copy(corpus / "char" / "tokenizer.json", tmp_path / "run")
    folder = rows(tmp_path / "new", 20)
    monkeypatch.chdir(tmp_path / here)
    assert main(folder, tokenizer_file=given).folder == folder / "char-run"


@pytest.mark.parametrize("given", ["out/demo/tok.json", "new"])
def test_a_tokenizer_file_that_is_missing_or_a_folder_is_named_as_it_was_given(
    tmp_path, rows, monkeypatch, given
):
    monkeypatch.chdir(tmp_path)
    folder = rows(tmp_path / "new", 20)
    with pytest.raises(DataError) as error:
        main("new", tokenizer_file=given)
    assert given in error.value.what
    assert "--data_dir=out" not in error.value.mend  # a run has no songs to make one of
    assert [path.name for path in folder.iterdir()] == ["data.json"]


def test_another_tokenizer_in_the_file_is_noticed(all_kinds, tmp_path, rows):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(all_kinds / "char" / "tokenizer.json", run)
    folder = rows(tmp_path / "new", 20)
    given = str(run / "tokenizer.json")
    assert not main(folder, tokenizer_file=given).skipped
    assert main(folder, tokenizer_file=given).skipped
    assert main(folder, tokenizer_file=given, vocab_size=300).skipped  # nothing is trained
    assert not main(folder).skipped  # characters of its own, in a folder of its own
    assert main(folder, tokenizer_file=given).skipped
    other = tokenizers.CharTokenizer.train([*(s.text for s in read_songs(folder / "data.json"))])
    (run / "tokenizer.json").write_text(other.to_json(), encoding="utf-8")
    assert not main(folder, tokenizer_file=given).skipped
    assert meta(folder, "char-run")["vocab_size"] == other.vocab_size


@pytest.mark.parametrize("content", [None, b"{}", b"not json"])
def test_a_tokenizer_file_that_is_none_is_a_sentence_and_writes_nothing(tmp_path, rows, content):
    folder, given = rows(tmp_path / "new", 20), tmp_path / "run" / "tokenizer.json"
    given.parent.mkdir()
    if content is not None:
        given.write_bytes(content)
    with pytest.raises(DataError) as error:
        main(folder, tokenizer_file=str(given))
    assert str(given.parent) in error.value.what
    assert [path.name for path in folder.iterdir()] == ["data.json"]


# --- thousands of songs ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def old_songs(public_domain, tmp_path_factory):
    """The public-domain songs, cleaned, with every tokenizer that is here."""
    folder = tmp_path_factory.mktemp("old") / "songs"
    (folder / "raw" / "files").mkdir(parents=True)
    with (folder / "raw" / "files" / "a.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(song.to_json() + "\n" for song in public_domain)
    clean.main(CleanConfig(data_dir=str(folder)))
    main(folder)
    main(folder, tokenizer="bpe", vocab_size=1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(GPT2_FILES))
        if GPT2_FILES.is_dir():
            main(folder, tokenizer="gpt2")
    return folder


def as_documented(folder, seed=1337):
    """side -> (header, text) of every song, recomputed; the side by the documented hash."""
    found = {"train": [], "val": []}
    for song in read_songs(folder / "data.json"):
        draws = [
            int.from_bytes(hashlib.sha256(f"{seed}\n{key}".encode()).digest()[:8], "big") / 2**64
            for key in {song.id, song.duplicate_group, *song.versions}
        ]
        if max(draws) < 0.1:
            found["val"].append((header(song.header_fields()), song.text))
        else:
            found["train"].append((training_header(song, seed), song.text))
    return found


@pytest.mark.e2e
@pytest.mark.parametrize("kind", ["char", "bpe1000", pytest.param("gpt2", marks=needs_gpt2)])
def test_bins_of_thousands_of_songs_decode_to_exactly_the_songs(old_songs, kind):
    tokenizer = tokenizers.load(old_songs / kind / "tokenizer.json")
    for name, songs in as_documented(old_songs).items():
        ids = stream(old_songs, name, kind)
        cuts = np.flatnonzero(ids == tokenizer.eot)
        assert cuts[0] == 0
        assert cuts[-1] == len(ids) - 1
        decoded = [tokenizer.decode(ids[a + 1 : b]) for a, b in pairwise(cuts)]
        assert decoded == [head + text for head, text in songs]
        index = np.fromfile(old_songs / kind / f"{name}.idx", "<u8").reshape(-1, 2)
        assert index[:, 0].tolist() == cuts[:-1].tolist()


@pytest.mark.e2e
@needs_gpt2
def test_ids_of_thousands_of_songs_are_those_of_tiktoken(old_songs, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(GPT2_FILES))
    openai = tiktoken.get_encoding("gpt2")
    for name, songs in as_documented(old_songs).items():
        expected = []
        for head, text in songs:
            expected += [50256, *openai.encode_ordinary(head), *openai.encode_ordinary(text)]
        assert stream(old_songs, name, "gpt2").tolist() == [*expected, 50256]


@pytest.mark.e2e
def test_ids_of_characters_are_those_of_nanogpts_prepare(old_songs):
    songs = list(read_songs(old_songs / "data.json"))
    data = "".join(header(song.header_fields()) + song.text for song in songs)
    chars = sorted(set(data))  # as data/shakespeare_char/prepare.py
    stoi = {ch: i for i, ch in enumerate(chars)}
    for name, documented in as_documented(old_songs).items():
        expected = []
        for head, text in documented:
            expected += [len(chars), *[stoi[c] for c in head + text]]
        assert stream(old_songs, name).tolist() == [*expected, len(chars)]


def straddling(folder, threshold):
    """Groups of songs, by every pair, that lie on both sides."""
    songs = {
        f"{name} {i}": text
        for name in ("train", "val")
        for i, text in enumerate(texts(folder, name))
    }
    found = groups(songs, threshold).values()
    return [group for group in found if len({key.split()[0] for key in group}) == 2]


@pytest.mark.e2e
def test_no_version_of_a_song_to_train_on_is_held_out(old_songs):
    assert straddling(old_songs, 0.7) == []


@pytest.mark.slow
def test_where_clean_was_asked_for_equal_songs_alone_these_are_not_held_out(old_songs, tmp_path):
    """Versions are then songs of their own, for binarize too."""
    folder = shutil.copytree(old_songs, tmp_path / "songs")
    clean.main(CleanConfig(data_dir=str(folder), near_duplicate=1.0))
    main(folder)
    assert straddling(folder, 1.0) == []


@pytest.mark.e2e
@pytest.mark.parametrize("split_by", ["album", "artist"])
def test_thousands_of_songs_are_split_by_album_and_by_artist(old_songs, tmp_path, split_by):
    folder = shutil.copytree(old_songs, tmp_path / "songs")
    main(folder, split_by=split_by, val_fraction=0.2)
    side, found = sides(folder), {}
    for song in read_songs(folder / "data.json"):
        unit = (song.artist_name, song.album if split_by == "album" else None)
        found.setdefault(unit, set()).add(side[song.text])
    assert all(len(both) == 1 for both in found.values())
    assert {"val"} in found.values()


@pytest.mark.e2e
def test_nanogpts_own_train_py_trains_on_our_bins(all_kinds, tmp_path):
    checkout = Path(os.environ.get("NANOGPT", ""))
    if not os.environ.get("NANOGPT") or not (checkout / "train.py").is_file():
        pytest.skip("NANOGPT names no checkout of nanoGPT")
    for name in ("model.py", "train.py", "configurator.py"):
        shutil.copyfile(checkout / name, tmp_path / name)
    for kind in ("char", "bpe400"):
        shutil.copytree(all_kinds / kind, tmp_path / "data" / kind)
        words = [
            "train.py", f"--dataset={kind}", "--device=cpu", "--dtype=float32", "--compile=False",
            "--eval_iters=1", "--batch_size=2", "--block_size=16", "--max_iters=2", "--n_layer=1",
            "--n_head=1", "--n_embd=16", "--gradient_accumulation_steps=1", "--log_interval=1",
        ]  # fmt: skip
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "iter 1: loss" in done.stdout
        if kind == "char":
            assert f"found vocab_size = {meta(all_kinds)['vocab_size']}" in done.stdout


# --- works that are held out, songs that weigh more -----------------------------------------------


def stanzaic(name, stanzas=3):
    return "\n\n".join(f"{name} {n} went down\nto harbour {name} {n}" for n in range(stanzas))


@pytest.fixture
def library(tmp_path, rows):
    """Three books; one of the poems of Oars is also, cut or changed, in others."""
    songs = [
        {"text": stanzaic(f"{book} {i}", 6), "id": f"{book}{i}", "album": book, "artist_name": "A"}
        for book in ("Oars", "Sails", "Nets")
        for i in range(10)
    ]
    cut = "\n\n".join(stanzaic("Oars 1", 6).split("\n\n")[:2])
    songs.append({"text": cut, "id": "excerpt", "album": "Sails", "song_name": "Cut"})
    more = stanzaic("Oars 2", 6) + "\n\n" + stanzaic("Chain", 40)
    songs.append({"text": more, "id": "within", "album": "Nets", "song_name": "A Chain of Poems"})
    songs.append({"text": "OARS 3 0 went down!\nBut then\nsomewhere\nelse", "id": "quotes"})
    return rows(tmp_path / "data", songs)


@pytest.mark.parametrize("entry", ["oars\tby A, 1901", "# nobody\nOars", "\ufeffOARS\n\n"])
def test_a_listed_work_is_held_out_and_neither_its_excerpts_nor_what_holds_it_are_read(
    library, tmp_path, capsys, entry
):
    listed = tmp_path / "held.tsv"
    listed.write_text(entry, encoding="utf-8")
    main(library, held_out=str(listed), tokenizer="bpe", vocab_size=400)
    assert meta(library, "bpe400")["split_by"] == "list"
    held_out = texts(library, "val", "bpe400")
    assert len(held_out) == 10
    assert all(text.startswith("Oars ") for text in held_out)
    read = texts(library, "train", "bpe400")
    assert len(read) == 21  # two books, and what quotes a line
    lines = [{line for text in side for line in text.split("\n")} for side in (held_out, read)]
    assert set.intersection(*lines) == {""}
    assert "2 songs are on neither side" in capsys.readouterr().out


def test_artists_ids_and_addresses_are_listed_too_and_what_names_nothing_is_told(
    tmp_path, rows, capsys
):
    url = "https://example.org/books/7"
    songs = [{"text": verse(f"Ship {i}"), "id": f"s{i}"} for i in range(6)]
    songs[1]["artist_name"] = "Anon"
    songs[2] |= {"url": f"{url}#3"}
    songs[3]["duplicate_group"] = songs[0]["duplicate_group"] = "g"
    (tmp_path / "held.txt").write_text(f"s0\nanon\n{url}\nNobody\n")
    main(rows(tmp_path / "data", songs), held_out=str(tmp_path / "held.txt"))
    assert texts(tmp_path / "data", "val") == [songs[i]["text"] for i in (0, 1, 2, 3)]
    assert "held_out: 'nobody' names no song here" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("listed", "says"), [("Nobody", "names no song"), ("A", "no song to train on")]
)
def test_a_list_that_holds_out_nothing_or_everything_is_refused(tmp_path, rows, listed, says):
    songs = [{"text": verse("Ship"), "artist_name": "A"}]
    (tmp_path / "held.txt").write_text(listed)
    with pytest.raises(DataError, match=says):
        main(rows(tmp_path / "data", songs), held_out=str(tmp_path / "held.txt"))
    assert not (tmp_path / "data" / "char").exists()


def test_a_list_that_is_not_there_is_told_and_one_that_changed_is_new_work(library, tmp_path):
    with pytest.raises(UserError, match=r"held.*none\.txt"):
        main(library, held_out=str(tmp_path / "none.txt"))
    listed = tmp_path / "held.txt"
    listed.write_text("Oars")
    assert not main(library, held_out=str(listed)).skipped
    assert main(library, held_out=str(listed)).skipped
    listed.write_text("Nets")
    assert not main(library, held_out=str(listed)).skipped
    assert list(BinarizeConfig(held_out="x", split_by="album").problems())


def test_songs_of_stanzas_stand_there_as_often_as_asked_each_time_with_other_header_lines(
    tmp_path, rows
):
    about = {"artist_name": "Anon", "song_name": "Tide", "album": "Sea", "year": 1885}
    songs = [{"text": stanzaic(f"Song {i}"), "id": f"s{i}"} | about for i in range(30)]
    songs += [{"text": stanzaic(f"Epic {i}", 31), "id": f"e{i}"} | about for i in range(30)]
    songs += [{"text": verse(f"Block {i}"), "id": f"b{i}"} | about for i in range(30)]
    data = rows(tmp_path / "data", songs)
    main(data, song_copies=3)
    counts = Counter(texts(data, "train"))
    for text, n in counts.items():
        assert n == (3 if text.startswith("Song") else 1)
    assert set(Counter(texts(data, "val")).values()) == {1}
    heads = {}
    for head, text in documents(data, "train"):
        heads.setdefault(text, []).append(head)
    copies = [found for found in heads.values() if len(found) == 3]
    assert sum(len(set(found)) > 1 for found in copies) > len(copies) / 2
    assert [found[0] for found in copies] == [
        training_header(song, 1337)
        for song in read_songs(data / "data.json")
        if counts[song.text] == 3
    ]
