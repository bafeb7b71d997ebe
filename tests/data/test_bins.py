"""Bins: ids lie on disk whole or not at all, in one file or in many that are read as one."""

import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.data import bins
from backend.data.bins import (
    Bins,
    Document,
    Shards,
    Split,
    Unmapped,
    Writer,
    batched,
    kept_state,
    restore,
)
from backend.data.tokenizers import ByteBPE, CharTokenizer
from backend.errors import DataError

CHARS = CharTokenizer.train(["abcdefghijklmnopqrstuvwxyz0123456789 :'\n"])


def documents(n, start=0):
    """Every fourth is held out; one has no header."""
    return [
        Document(
            "val" if i % 4 == 3 else "train",
            "" if i == 2 else f"title: song {i}\n\n",
            f"the tide came in\nat number {i}" + "\nla" * (i % 5),
        )
        for i in range(start, start + n)
    ]


def write(folder, docs, tokenizer=CHARS, batch=10**6, **settings):
    with Writer(folder, tokenizer, **settings) as writer:
        for each in batched(docs, batch):
            writer.add(each)
        writer.publish({})
    return folder


def stream(folder, side):
    meta = json.loads((folder / "meta.json").read_text())
    return np.concatenate(
        [np.fromfile(folder / name, "<u2") for name in meta["splits"][side]["files"]]
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def expected(docs, side, tokenizer=CHARS):
    """Ids and index by the words of the contract."""
    ids, index = [], []
    for document in docs:
        if document.side == side:
            head = tokenizer.encode(document.header).tolist()
            index.append([len(ids), len(ids) + 1 + len(head)])
            ids += [tokenizer.eot, *head, *tokenizer.encode(document.text).tolist()]
    return [*ids, tokenizer.eot], index


# --- writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 100, 10**6])
def test_documents_of_both_sides_are_written_as_the_contract_says(tmp_path, batch):
    docs = documents(30)
    folder = write(tmp_path / "char", docs, batch=batch)
    told = json.loads((folder / "meta.json").read_text())["splits"]
    for side in ("train", "val"):
        ids, index = expected(docs, side)
        assert stream(folder, side).tolist() == ids
        assert np.fromfile(folder / f"{side}.idx", "<u8").reshape(-1, 2).tolist() == index
        mine = [document.text for document in docs if document.side == side]
        assert told[side]["tokens"] == len(ids)
        assert told[side]["songs"] == len(mine)
        assert told[side]["chars"] == sum(map(len, mine))
        assert told[side]["bytes"] == sum(len(text.encode()) for text in mine)
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("shard", [1, 7, 64, 100, 101, 2**20])
def test_shards_are_cut_exactly_and_are_one_file_as_a_stream(tmp_path, shard):
    docs = documents(9)
    one = write(tmp_path / "one", docs)
    many = write(tmp_path / "many", docs, shard_tokens=shard)
    told = json.loads((many / "meta.json").read_text())["splits"]
    for side in ("train", "val"):
        whole = stream(one, side)
        files = told[side]["files"]
        sizes = [(many / name).stat().st_size // 2 for name in files]
        assert sizes == [min(shard, len(whole) - at) for at in range(0, len(whole), shard)]
        if len(whole) <= shard:
            assert files == [f"{side}.bin"]
        else:
            assert files == [f"{side}-{i:05d}.bin" for i in range(len(files))]
        assert stream(many, side).tolist() == whole.tolist()
        assert (many / f"{side}.idx").read_bytes() == (one / f"{side}.idx").read_bytes()
    opened, single = Bins.open(str(many)), Bins.open(str(one))
    assert opened.sha256 == single.sha256, "the hash is that of the stream"
    for i in range(opened.train.songs):
        for ours, theirs in zip(opened.train.document(i), single.train.document(i), strict=True):
            assert ours.tolist() == theirs.tolist()


def test_a_text_too_large_for_memory_grows_piece_by_piece(tmp_path):
    pieces = ["la la\n", "the tide", "\n" * 3, "end"]
    with Writer(tmp_path / "char", CHARS, shard_tokens=11) as writer:
        writer.add([Document("train", "", pieces[0]), Document("val", "", "x")])
        writer.add_to_last("train", pieces[1:3])
        writer.add_to_last("train", pieces[3:])
        writer.publish({})
    whole = write(
        tmp_path / "whole",
        [Document("train", "", "".join(pieces)), Document("val", "", "x")],
        shard_tokens=11,
    )
    assert contents(tmp_path / "char") == contents(whole)


def test_batches_of_documents_keep_all_in_their_order():
    docs = documents(20)
    for size in (1, 60, 10**6):
        found = list(batched(iter(docs), size))
        assert [document for batch in found for document in batch] == docs
        assert all(batch for batch in found)
        for batch in found[:-1]:
            assert sum(len(d.header) + len(d.text) for d in batch[:-1]) < size
    assert list(batched([])) == []


def test_a_character_that_is_not_known_is_read_as_its_nearest_and_told(tmp_path):
    docs = [
        Document("train", "title: Ängste\n\n", "ça va, çéø ☃"),
        Document("train", "", "plain"),
        Document("val", "", "the “tide”"),
    ]
    with Writer(tmp_path / "char", CHARS) as writer:
        writer.add(docs)
        writer.publish({})
    assert writer.unseen == set("Äçéø☃,“”")
    bins = Bins.open(str(tmp_path / "char"))
    head, text = map(bins.tokenizer.decode, bins.train.document(0))
    assert head == "title: angste\n\n"
    assert text == "ca va<|unknown|> ceo <|unknown|>"
    assert bins.tokenizer.decode(bins.train.document(1)[1]) == "plain"
    assert bins.train.chars == len("ça va, çéø ☃") + len("plain")


def test_of_a_bpe_nothing_is_unseen(tmp_path):
    bpe = ByteBPE.train(["la la the tide"], 300)
    with Writer(tmp_path / "bpe300", bpe) as writer:
        writer.add([Document("train", "", "Ω ☃"), Document("val", "", "日本")])
        writer.publish({})
    assert writer.unseen == set()
    bins = Bins.open(str(tmp_path / "bpe300"))
    assert bins.tokenizer.decode(bins.train.document(0)[1]) == "Ω ☃"
    assert not (tmp_path / "bpe300" / "meta.pkl").exists()


# --- kills ----------------------------------------------------------------------------------------


def abandoned(folder, docs, upto, every, **settings):
    """A writer that is killed after `upto` documents; a checkpoint after every few."""
    writer = Writer(folder, CHARS, resumable=True, **settings)
    for i in range(writer.state or 0, upto):
        writer.add([docs[i]])
        if (i + 1) % every == 0:
            writer.checkpoint(i + 1)
    return writer.new


@pytest.mark.parametrize("shard", [37, 200, 2**62])
@pytest.mark.parametrize("upto", [3, 10, 17, 24])
@pytest.mark.parametrize("garbage", [b"", b"\x07" * 333])
def test_after_a_kill_the_folder_is_byte_for_byte_what_it_would_have_been(
    tmp_path, shard, upto, garbage
):
    docs = documents(25)
    one = write(tmp_path / "one", docs, shard_tokens=shard)
    folder = tmp_path / "char"
    new = abandoned(folder, docs, upto, every=5, shard_tokens=shard)
    for pattern in ("*.bin", "*.idx"):
        for path in sorted(new.glob(pattern))[-2:]:
            with path.open("ab") as file:
                file.write(garbage)
    (new / "train-00099.bin").write_bytes(garbage)
    (new / ".tmp-tokenizer.json-x").write_bytes(garbage)
    assert not folder.exists()

    writer = Writer(folder, CHARS, shard_tokens=shard, resumable=True)
    assert writer.state == (upto // 5 * 5 or None)
    writer.add(docs[writer.state or 0 :])
    writer.publish({})
    assert contents(folder) == contents(one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["char", "one"]


def test_two_kills_in_a_row_and_unseen_characters_survive_too(tmp_path):
    docs = documents(20)
    docs[1] = replace_text(docs[1], "ça")
    folder = tmp_path / "char"
    abandoned(folder, docs, 7, every=3)
    abandoned(folder, docs, 16, every=3)
    writer = Writer(folder, CHARS, resumable=True)
    assert writer.state == 15
    assert writer.unseen == {"ç"}
    writer.add(docs[15:])
    writer.publish({})
    assert contents(folder) == contents(write(tmp_path / "one", docs))


def replace_text(document, text):
    return document._replace(text=text)


def first_bin(new):
    return sorted(new.glob("train-*.bin"))[0]


def cut(path):
    os.truncate(path, 10)


DAMAGE = {
    "a shard is cut off": lambda new: cut(first_bin(new)),
    "the first shard is missing": lambda new: first_bin(new).unlink(),
    "an index is cut off": lambda new: cut(new / "train.idx"),
    "an index is missing": lambda new: (new / "val.idx").unlink(),
    "progress is no JSON": lambda new: (new / "progress.json").write_text("{"),
    "progress is missing": lambda new: (new / "progress.json").unlink(),
    "the first of the shards is missing and a later one begun": lambda new: (
        shutil.copy(first_bin(new), new / "train-00099.bin"),
        first_bin(new).unlink(),
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_was_written_and_is_damaged_is_begun_afresh(tmp_path, damage):
    docs = documents(25)
    folder = tmp_path / "char"
    new = abandoned(folder, docs, 25, every=10, shard_tokens=100)
    damage(new)
    writer = Writer(folder, CHARS, shard_tokens=100, resumable=True)
    assert writer.state is None
    assert not [path for path in writer.new.iterdir() if path.suffix in (".bin", ".idx")]
    writer.add(docs)
    writer.publish({})
    assert contents(folder) == contents(write(tmp_path / "one", docs, shard_tokens=100))


def test_what_a_killed_writer_was_given_last_is_known_with_its_tokenizer(tmp_path):
    folder = tmp_path / "char"
    assert kept_state(folder) is None
    abandoned(folder, documents(9), 9, every=4)
    state, tokenizer = kept_state(folder)
    assert state == 8
    assert tokenizer.vocabulary() == CHARS.vocabulary()


def test_other_shards_than_before_are_begun_afresh(tmp_path):
    abandoned(tmp_path / "char", documents(25), 25, every=5, shard_tokens=100)
    assert Writer(tmp_path / "char", CHARS, shard_tokens=50, resumable=True).state is None


def test_what_is_not_resumable_is_thrown_away_and_the_old_folder_stands(tmp_path):
    folder = write(tmp_path / "char", documents(8))
    before = contents(folder)
    with pytest.raises(KeyboardInterrupt), Writer(folder, CHARS) as writer:
        writer.add(documents(9))
        raise KeyboardInterrupt
    assert contents(folder) == before
    assert list(tmp_path.iterdir()) == [folder]


def test_publishing_swaps_the_folder_and_nothing_of_the_old_one_stays(tmp_path):
    folder = write(tmp_path / "char", documents(20), shard_tokens=50)
    for name in ("baselines.json", "novelty.idx", "binarize.manifest.json"):
        (folder / name).write_text("of the old songs")
    write(folder, documents(4))
    assert sorted(contents(folder)) == [
        "meta.json", "meta.pkl", "tokenizer.json", "train.bin", "train.idx", "val.bin", "val.idx"
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == [folder]
    assert Bins.open(str(folder)).train.songs == 3


def test_publish_names_every_file_of_the_folder(tmp_path):
    with Writer(tmp_path / "char", CHARS, shard_tokens=30) as writer:
        writer.add(documents(8))
        paths = writer.publish({"seed": 7})
    assert sorted(paths) == sorted((tmp_path / "char").iterdir())
    assert json.loads((tmp_path / "char" / "meta.json").read_text())["seed"] == 7
    opened = Bins.open(str(tmp_path / "char"))
    assert set(opened.files()) == set(paths) - {tmp_path / "char" / "meta.pkl"}


@pytest.mark.parametrize("again", [restore, lambda folder: Writer(folder, CHARS).new])
def test_a_kill_between_the_two_renames_is_undone(tmp_path, monkeypatch, again):
    folder = write(tmp_path / "char", documents(8))
    before = contents(folder)
    rename = type(folder).rename

    def dies(path, target):
        if path.name == ".char.new":
            raise SystemExit("the machine is gone")
        return rename(path, target)

    writer = Writer(folder, CHARS, resumable=True)
    writer.add(documents(12))
    with monkeypatch.context() as patch:
        patch.setattr(type(folder), "rename", dies)
        patch.setattr(bins, "restore", lambda folder: None)  # a kill gives no time for it
        with pytest.raises(SystemExit):
            writer.publish({})
    assert not folder.exists()
    again(folder)
    assert contents(folder) == before
    assert not (tmp_path / ".char.old").exists()


def test_what_a_kill_after_the_swap_left_is_cleared_away(tmp_path):
    folder = write(tmp_path / "char", documents(8))
    before = contents(folder)
    shutil.copytree(folder, tmp_path / ".char.old")
    restore(folder)
    assert contents(folder) == before
    assert list(tmp_path.iterdir()) == [folder]
    restore(tmp_path / "nothing")


# --- reading --------------------------------------------------------------------------------------

BOUND = st.none() | st.integers(-40, 40)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), BOUND, BOUND)
@settings(max_examples=200)
def test_slices_of_shards_are_those_of_the_whole(sizes, start, stop):
    arrays = np.split(np.arange(sum(sizes), dtype=np.uint16), np.cumsum(sizes)[:-1])
    shards, whole = Shards(arrays), np.concatenate(arrays)
    assert len(shards) == len(whole)
    assert shards[start:stop].tolist() == whole[start:stop].tolist()
    assert shards[start:stop].dtype == np.uint16


@pytest.mark.parametrize("step", [2, -1])
def test_shards_are_not_read_backwards_nor_in_steps(step):
    with pytest.raises(ValueError, match="forwards"):
        Shards([np.arange(4, dtype=np.uint16)])[::step]


def test_a_slice_within_one_shard_copies_nothing():
    arrays = [np.arange(10, dtype=np.uint16), np.arange(10, 20, dtype=np.uint16)]
    assert np.shares_memory(Shards(arrays)[2:7], arrays[0])
    assert np.shares_memory(Shards(arrays)[10:20], arrays[1])


@pytest.fixture
def no_mapping(monkeypatch):
    """A disk whose files cannot be mapped into memory; it tells how many ids are read at once."""
    counts = []
    plainly = np.fromfile

    def refuse(*args, **options):
        raise OSError(19, "No such device")

    def fromfile(*args, count=-1, **options):
        counts.append(count)
        return plainly(*args, count=count, **options)

    monkeypatch.setattr(np, "memmap", refuse)
    monkeypatch.setattr(np, "fromfile", fromfile)
    return counts


@pytest.mark.parametrize("shard", [2**62, 41, 1])
def test_where_nothing_can_be_mapped_bins_are_read_plainly_and_this_is_said_once(
    tmp_path, capsys, request, shard
):
    folder = write(tmp_path / "char", documents(30), shard_tokens=shard)
    mapped = Bins.open(str(folder))
    assert capsys.readouterr().out == ""
    counts = request.getfixturevalue("no_mapping")
    plain = Bins.open(str(folder))
    said = capsys.readouterr().out
    assert said.count("\n") == said.count("note: ") == 1
    assert str(folder) in said
    assert "No such device" in said
    assert plain.sha256 == mapped.sha256
    counts.clear()
    for ours, theirs in ((plain.train, mapped.train), (plain.val, mapped.val)):
        assert len(ours.tokens) == len(theirs.tokens)
        for i in range(theirs.songs):
            for a, b in zip(ours.document(i), theirs.document(i), strict=True):
                assert a.dtype == b.dtype
                assert a.tolist() == b.tolist()
    assert 0 <= max(counts) < 60, "a slice is read, not the file"
    assert plain.excerpts() == mapped.excerpts()


@given(BOUND, BOUND)
@settings(max_examples=100)
def test_slices_of_a_file_read_plainly_are_those_of_the_whole(tmp_path_factory, start, stop):
    path = tmp_path_factory.mktemp("plain") / "train.bin"
    whole = np.arange(23, dtype="<u2")
    whole.tofile(path)
    plain = Unmapped(path, whole.dtype)
    assert len(plain) == 23
    assert plain[start:stop].tolist() == whole[start:stop].tolist()
    with pytest.raises(ValueError, match="forwards"):
        plain[::2]


@pytest.mark.parametrize("mapping", [True, False])
def test_a_shard_that_holds_half_an_id_is_damaged_not_unmappable(sharded, request, capsys, mapping):
    if not mapping:
        request.getfixturevalue("no_mapping")
    os.truncate(sharded / "train-00000.bin", 199)
    with (sharded / "train-00001.bin").open("ab") as file:
        file.write(b"\0")
    assert "train-00000.bin has 199 bytes" in damaged(sharded)
    assert "note" not in capsys.readouterr().out


@pytest.mark.parametrize("mapping", [True, False])
def test_an_empty_bin_is_damaged_not_unmappable(sharded, request, mapping):
    if not mapping:
        request.getfixturevalue("no_mapping")
    first, second = sharded / "train-00000.bin", sharded / "train-00001.bin"
    second.write_bytes(first.read_bytes() + second.read_bytes())
    first.write_bytes(b"")
    assert "train-00000.bin has 0 bytes" in damaged(sharded)


def test_every_document_is_found_by_its_number(tmp_path):
    docs = documents(30)
    for shard in (2**62, 41):
        bins = Bins.open(str(write(tmp_path / f"s{shard}", docs, shard_tokens=shard)))
        for split, side in ((bins.train, "train"), (bins.val, "val")):
            mine = [d for d in docs if d.side == side]
            assert split.songs == len(split.index) == len(mine)
            for i, document in enumerate(mine):
                head, text = map(CHARS.decode, split.document(i))
                assert (head, text) == (document.header, document.text)


def test_a_document_without_header_or_text_is_found_too():
    eot = 9
    split = Split(
        np.array([eot, eot, 1, 2, eot, 3, eot], np.uint16),
        np.array([[0, 1], [1, 3], [4, 5]], np.uint64),
        3,
        3,
        3,
    )
    found = [[part.tolist() for part in split.document(i)] for i in range(3)]
    assert found == [[[], []], [[1], [2]], [[], [3]]]


@pytest.mark.parametrize(("n", "shown"), [(1, [1]), (2, [1, 2]), (4, [1, 3, 4]), (40, [1, 15, 30])])
def test_excerpts_show_the_beginnings_of_the_first_the_middle_and_the_last(tmp_path, n, shown):
    docs = [Document("train", f"title: song {i}\n\n", "la\n" * 20) for i in range(min(n, 30))]
    bins = Bins.open(str(write(tmp_path / "char", [*docs, Document("val", "", "x")])))
    lines = bins.excerpts().split("\n")
    heads = [line for line in lines if "document" in line]
    assert heads == [f"  train, document {i} of {bins.train.songs}:" for i in shown]
    for i in shown:
        assert f"    | title: song {i - 1}" in lines
    assert max(map(len, lines)) < 100
    assert len(lines) == 7 * len(shown)
    assert all(line == line.rstrip() for line in lines)
    assert "|" not in bins.excerpts(lines=0)


def damaged(folder):
    with pytest.raises(DataError) as error:
        Bins.open(str(folder))
    assert "--force" in error.value.mend
    return error.value.what


@pytest.fixture
def sharded(tmp_path):
    return write(tmp_path / "new" / "char", documents(30), shard_tokens=100)


def test_a_missing_shard_is_named(sharded):
    (sharded / "train-00001.bin").unlink()
    assert "train-00001.bin" in damaged(sharded)


def test_a_truncated_shard_is_told_with_both_sizes(sharded):
    size = sum(path.stat().st_size for path in sharded.glob("train-*.bin"))
    os.truncate(sharded / "train-00002.bin", 7)
    what = damaged(sharded)
    assert f"{size:,}" in what
    assert f"{size - 193:,}" in what


def test_a_shard_more_than_there_should_be_is_not_read(sharded):
    before = Bins.open(str(sharded))
    shutil.copy(sharded / "train-00001.bin", sharded / "train-00077.bin")
    after = Bins.open(str(sharded))
    assert after.sha256 == before.sha256
    assert len(after.train.tokens) == len(before.train.tokens)


@pytest.mark.parametrize("kind", ["char", "gpt2", "bpe300", "bpelote"])
def test_missing_bins_name_the_command_that_makes_them(tmp_path, kind):
    folder = tmp_path / "corpus" / kind
    with pytest.raises(DataError) as error:
        Bins.open(str(folder))
    words = {"gpt2": " --tokenizer=gpt2", "bpe300": " --tokenizer=bpe --vocab_size=300"}
    assert error.value.mend.startswith("python -m backend.data.binarize --data_dir=")
    assert error.value.mend.endswith("corpus" + words.get(kind, ""))


def test_the_corpus_named_for_its_bins_is_told_which_bins_it_has(sharded, monkeypatch):
    monkeypatch.chdir(sharded.parent)
    with pytest.raises(DataError) as error:
        Bins.open(".")
    assert f"--dataset={sharded.name}" in error.value.mend


def test_a_summary_counts_and_shows_no_text(sharded):
    bins = Bins.open(str(sharded))
    told = bins.summary()
    assert told["corpus"] == "new"
    assert told["tokenizer"] == "char"
    for side, split in (("train", bins.train), ("val", bins.val)):
        assert told[side] == {
            "songs": split.songs, "tokens": len(split.tokens), "characters": split.chars
        }  # fmt: skip
    assert "tide" not in json.dumps(told)
