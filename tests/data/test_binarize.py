"""Binarize: the bins hold exactly the songs, and a song stays on its side."""

import hashlib
import json
import pickle
from itertools import pairwise

import numpy as np
import pytest

from backend.config.schema import BinarizeConfig
from backend.data import binarize, tokenizers
from backend.data.song import header, read_songs, training_header
from backend.errors import DataError


def main(folder, **settings):
    return binarize.main(BinarizeConfig(data_dir=str(folder), **settings))


def stream(folder, name):
    meta = json.loads((folder / "char" / "meta.json").read_text())
    kind = np.dtype(meta["dtype"]).newbyteorder("<")
    return np.fromfile(folder / "char" / f"{name}.bin", dtype=kind)


def documents(folder, name):
    """(header, text) of every document of a split, from the files alone."""
    tokenizer = tokenizers.load(folder / "char" / "tokenizer.json")
    ids = stream(folder, name)
    pairs = np.fromfile(folder / "char" / f"{name}.idx", dtype="<u8").reshape(-1, 2)
    ends = [*pairs[1:, 0], len(ids) - 1][: len(pairs)]
    found = []
    for (start, text), end in zip(pairs.tolist(), ends, strict=True):
        assert ids[start] == ids[end] == tokenizer.eot
        found.append((tokenizer.decode(ids[start + 1 : text]), tokenizer.decode(ids[text:end])))
    return found


def texts(folder, name):
    return [text for _, text in documents(folder, name)]


def files(folder):
    return {path.name: path.read_bytes() for path in (folder / "char").iterdir()}


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
    assert len(texts(demo, "val")) == 3
    assert len(texts(demo, "train")) == 19
    by_text = {song.text: song for song in read_songs(demo / "data.json")}
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
    add, calls = binarize.SplitWriter.add, []

    def dies(self, song, head):
        calls.append(song)
        if len(calls) == 10:
            raise fault
        add(self, song, head)

    with monkeypatch.context() as patch:
        patch.setattr(binarize.SplitWriter, "add", dies)
        with pytest.raises(fault):
            main(corpus, seed=2)
    assert files(corpus) == before
    assert main(corpus).skipped
    assert not main(corpus, seed=2).skipped


def test_a_kill_between_the_files_is_mended_by_the_next_run(corpus, monkeypatch):
    whole = main(corpus, seed=2) and files(corpus)
    main(corpus, seed=1)
    write = binarize.atomic_write
    for fatal in ("train.bin", "tokenizer.json", "meta.pkl"):

        def dies(path, mode="w", fatal=fatal):
            if path.name == fatal:
                raise KeyboardInterrupt
            return write(path, mode)

        with monkeypatch.context() as patch:
            patch.setattr(binarize, "atomic_write", dies)
            with pytest.raises(KeyboardInterrupt):
                main(corpus, seed=2)
        assert not [name for name in files(corpus) if name.startswith(".tmp")]
        assert not main(corpus, seed=2).skipped
        now = files(corpus)
        for name in set(whole) - {"binarize.manifest.json"}:
            assert now[name] == whole[name]
        main(corpus, seed=1)


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
