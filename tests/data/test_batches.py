"""Batches: a pure function of (seed, step, row), and bins that are checked before use."""

import json
import os
import shutil
import threading
from contextlib import closing
from itertools import count, islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.data import batches
from backend.data.batches import IGNORE, check_size, open_batches, prefetched
from backend.data.bins import Bins, Document, Split, Writer
from backend.data.tokenizers import CharTokenizer
from backend.errors import DataError, Terminated

KINDS = ("random", "songs")
EOT = 0


def numbered(*sizes, vocab_size=None):
    """Songs of so many targets. Each token is one more than its position, so none is end-of-text,
    and a target tells where in the stream it was read."""
    ends = np.cumsum(sizes)
    n = int(ends[-1]) + 1
    index = np.stack([ends - sizes, ends - sizes + 1], axis=1).astype(np.uint64)
    split = Split(np.arange(1, n + 1, dtype=np.uint32), index, len(sizes), n, n)
    tokenizer = SimpleNamespace(eot=EOT, vocab_size=vocab_size or n + 1)
    return Bins(Path("data/x/char"), tokenizer, split, split, "song", "", ("train.bin",))


def opened(kind, bins, seed=1, block_size=8, document_mask=False):
    return open_batches(kind, bins, seed=seed, block_size=block_size, document_mask=document_mask)


def take(source, step=0, done=0, of=4, rows=None):
    return source.take(step, done=done, of=of, rows=range(of) if rows is None else rows)


def equal(a, b):
    return all(x is y or torch.equal(x, y) for x, y in zip(a, b, strict=True))


# --- both kinds -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_holds_ids_targets_and_only_if_asked_the_documents(demo, kind, mask):
    batch = take(opened(kind, Bins.open(str(demo / "char")), block_size=64, document_mask=mask))
    assert batch.x.shape == batch.y.shape == (4, 64)
    assert batch.x.dtype == batch.y.dtype == torch.int64
    assert batch.x.is_contiguous()
    assert batch.y.is_contiguous()
    if mask:
        assert batch.documents.shape == (4, 64)
        assert batch.documents.dtype == torch.int32
    else:
        assert batch.documents is None


@given(
    st.sampled_from(KINDS),
    st.lists(st.integers(1, 30), min_size=1, max_size=8),
    st.integers(1, 12),
    st.integers(0, 50),
    st.data(),
)
@settings(max_examples=60)
def test_a_row_is_the_same_in_whatever_micro_batch_and_process_it_is_taken(
    kind, sizes, of, done, data
):
    bins = numbered(*sizes, 20)
    whole = take(opened(kind, bins, document_mask=True), step=3, done=done, of=of)
    cuts = sorted(data.draw(st.lists(st.integers(0, of), max_size=3)))
    other = opened(kind, bins, document_mask=True)
    parts = [
        take(other, step=3, done=done, of=of, rows=range(a, b))
        for a, b in zip([0, *cuts], [*cuts, of], strict=True)
    ]
    assert equal(whole, [torch.cat(each) for each in zip(*parts, strict=True)])
    by_rank = [take(other, step=3, done=done, of=of, rows=range(r, of, 3)) for r in range(3)]
    assert all(torch.equal(part.y, whole.y[r::3]) for r, part in enumerate(by_rank))


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_start_at_any_step_goes_on_as_if_it_had_never_stopped(kind):
    bins = numbered(*range(1, 30))
    went_through = opened(kind, bins)
    sizes = [2, 2, 4, 8, 8, 40, 40, 8]  # of growing batches, and over several epochs
    seen = [
        take(went_through, step, done=sum(sizes[:step]), of=of) for step, of in enumerate(sizes)
    ]
    for step in (7, 0, 4, 5):
        again = take(opened(kind, bins), step, done=sum(sizes[:step]), of=sizes[step])
        assert equal(again, seen[step])
        assert equal(
            take(went_through, step, done=sum(sizes[:step]), of=sizes[step]), seen[step]
        ), "going back"


@given(
    st.sampled_from(KINDS),
    st.lists(st.integers(1, 60), min_size=1, max_size=9),
    st.integers(1, 40),
    st.integers(0, 30),
)
@settings(max_examples=60)
def test_targets_are_counted_without_reading(kind, sizes, of, done):
    bins = numbered(*sizes, 20)
    source, counting = opened(kind, bins), opened(kind, bins)
    got = counting.targets(5, done=done, of=of)
    assert got == (take(source, 5, done=done, of=of).y != IGNORE).sum()
    assert type(got) is int


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_and_step_are_the_same_batch_and_any_other_is_another(kind):
    bins = numbered(*range(5, 90))
    first = take(opened(kind, bins), step=7, done=28)
    assert equal(first, take(opened(kind, bins), step=7, done=28))
    assert not torch.equal(first.x, take(opened(kind, bins), step=8, done=32).x)
    assert not torch.equal(first.x, take(opened(kind, bins, seed=2), step=7, done=28).x)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_leaves_the_random_state_of_the_program_alone(kind):
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    take(opened(kind, numbered(100, 3)))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_beyond_the_vocabulary_is_told_with_the_command_that_mends_it(kind):
    bins = numbered(20, 49, vocab_size=70)
    source = opened(kind, bins, block_size=69)
    with pytest.raises(DataError) as error:
        take(source, of=8)
    train = str(Path("data/x/char")) + "/train.bin"
    assert error.value.what == f"token id 70 in {train}, but its vocabulary has 70 ids"
    assert error.value.why
    where = Path("data/x")
    assert error.value.mend == f"python -m backend.data.binarize --data_dir={where} --force"
    take(opened(kind, numbered(20, 49, vocab_size=71), block_size=69), of=8)


@pytest.mark.parametrize("kind", KINDS)
def test_shards_give_the_batches_of_one_file(tmp_path, kind):
    def write(name, shard_tokens):
        with Writer(tmp_path / name, CharTokenizer.train(["the tide"]), shard_tokens) as writer:
            writer.add([Document("train", "", "the tide " * i) for i in range(1, 9)])
            writer.publish({})
        return opened(kind, Bins.open(str(tmp_path / name)), document_mask=True)

    one, many = write("one", 2**62), write("many", 13)
    for step in range(6):
        assert equal(take(one, step, done=4 * step), take(many, step, done=4 * step))


# --- random windows -------------------------------------------------------------------------------


def test_y_is_x_shifted_by_one_token(demo):
    bins = Bins.open(str(demo / "char"))
    x, y, _ = take(opened("random", bins, block_size=64))
    assert torch.equal(x[:, 1:], y[:, :-1])
    stream = bins.tokenizer.decode(bins.train.tokens)
    for row, shifted in zip(x, y, strict=True):
        whole = bins.tokenizer.decode([*row.tolist(), shifted[-1].item()])
        assert whole in stream


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 1000))
@settings(max_examples=60)
def test_every_window_lies_inside_the_stream(block_size, more, step):
    n = block_size + more
    x, y, _ = take(opened("random", numbered(n - 1), block_size=block_size), step, of=16)
    assert x.min() >= 1
    assert y.max() <= n
    assert torch.equal(y, x + 1)
    assert torch.equal(x, x[:, :1] + torch.arange(block_size))


def test_the_first_and_the_last_token_are_both_drawn():
    source = opened("random", numbered(19))
    drawn = [take(source, step, of=32) for step in range(10)]
    assert min(batch.x.min() for batch in drawn) == 1
    assert max(batch.y.max() for batch in drawn) == 20


def test_the_smallest_stream_that_check_size_passes_gives_a_batch():
    bins = numbered(8)
    check_size(bins, 8)
    x, y, _ = take(opened("random", bins))
    assert x.tolist() == [list(range(1, 9))] * 4
    assert y[:, -1].tolist() == [9] * 4


def test_in_a_window_a_document_begins_at_its_end_of_text(demo):
    bins = Bins.open(str(demo / "char"))
    eot = bins.tokenizer.eot
    x, _, documents = take(opened("random", bins, block_size=600, document_mask=True), of=8)
    assert (x == eot).any()
    for ids, numbers in zip(x.tolist(), documents.tolist(), strict=True):
        expected, number = [], 0
        for token in ids:
            number += token == eot
            expected.append(number)
        assert numbers == expected


# --- songs ----------------------------------------------------------------------------------------


def rows_of(source, epochs, targets):
    """[[(x, y, documents) of each row] of each epoch], one row at a time."""
    found, done = [], 0
    for _ in range(epochs):
        rows, n = [], 0
        while n < targets:
            batch = take(source, done=done, of=1)
            rows.append(tuple(None if each is None else each[0].numpy() for each in batch))
            n += (rows[-1][1] != IGNORE).sum()
            done += 1
        assert n == targets, "no row holds songs of two epochs"
        found.append(rows)
    return found


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=25),
    st.integers(1, 20),
    st.sampled_from([1, 2, 5, 1024]),
    st.integers(0, 10),
)
@settings(max_examples=150)
def test_every_target_of_every_song_is_learned_exactly_once_an_epoch(
    sizes, block_size, buffer, seed
):
    n = sum(sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "BUFFER", buffer)
        bins = numbered(*sizes)
        source = opened("songs", bins, seed=seed, block_size=block_size, document_mask=True)
        epochs = rows_of(source, 3, n)
    song = np.repeat(np.arange(len(sizes)), sizes)  # whose each target is
    for rows in epochs:
        learned = np.concatenate([y[y != IGNORE] for _, y, _ in rows])
        assert sorted(learned) == list(range(2, n + 2))
        for x, y, documents in rows:
            real = y != IGNORE
            assert real[0], "no row is empty, and each begins with a song"
            assert not real[real.sum() :].any(), "the padding is at the end"
            assert (y[real] == x[real] + 1).all()
            assert (x[~real] == EOT).all()
            assert (np.diff(documents) >= 0).all()
            for number in set(documents[real]):
                piece = x[real & (documents == number)]
                assert (np.diff(piece) == 1).all(), "a window of the stream"
                assert len(set(song[piece - 1])) == 1, "and of one song"
            assert not set(documents[real]) & set(documents[~real])


def test_a_song_reaches_from_its_end_of_text_to_the_next_one(demo):
    bins = Bins.open(str(demo / "char"))
    n = len(bins.train.tokens) - 1
    source = opened("songs", bins, block_size=4000, document_mask=True)
    [rows] = rows_of(source, 1, n)
    found = []
    for x, y, documents in rows:
        for number in set(documents[y != IGNORE].tolist()):
            here = (documents == number) & (y != IGNORE)
            found.append([*x[here].tolist(), y[here][-1].item()])
    expected = [
        [bins.tokenizer.eot, *head.tolist(), *text.tolist(), bins.tokenizer.eot]
        for head, text in map(bins.train.document, range(bins.train.songs))
    ]
    assert max(map(len, expected)) <= 4001, "or they are cut"
    assert sorted(found) == sorted(expected)


def test_a_long_song_is_cut_elsewhere_every_epoch_and_everywhere_at_last():
    epochs = rows_of(opened("songs", numbered(23), block_size=4, document_mask=True), 60, 23)
    begins = [
        sorted(int(x[documents == n][0]) for x, _, documents in rows for n in set(documents))
        for rows in epochs
    ]
    cuts = [np.diff([at for at in each if at != EOT]).tolist() for each in begins]
    assert {each[0] for each in cuts} == {1, 2, 3, 4}
    assert {width for each in cuts for width in each[1:]} == {4}
    assert set().union(*begins) - {EOT} == set(range(1, 24))


def test_an_epoch_is_shuffled_as_its_seed_says():
    def order(seed):
        rows = rows_of(opened("songs", numbered(*[8] * 40), seed=seed), 3, 320)
        return [[int(x[0]) for x, _, _ in epoch] for epoch in rows]

    first = order(1)
    assert first == order(1)
    assert len({tuple(epoch) for epoch in [*first, *order(2)]}) == 6
    assert all(sorted(epoch) == list(range(1, 321, 8)) for epoch in first)


def test_the_pieces_of_a_long_song_are_not_read_one_after_another():
    [rows] = rows_of(opened("songs", numbered(8 * 300)), 1, 8 * 300)
    begins = np.array([x[0] for x, _, _ in rows])
    assert (np.diff(begins) == 8).mean() < 0.05


def test_one_short_song_fills_every_row_of_a_large_batch():
    x, y, _ = take(opened("songs", numbered(3), block_size=8), of=5)
    assert x.tolist() == [[1, 2, 3, *[EOT] * 5]] * 5
    assert y.tolist() == [[2, 3, 4, *[IGNORE] * 5]] * 5


@pytest.mark.parametrize(("block_size", "share"), [(256, 0.005), (512, 0.01), (1024, 0.06)])
def test_little_of_the_rows_is_padding(block_size, share):
    sizes = np.random.default_rng(0).lognormal(7.05, 0.55, 3000).astype(int)  # 1,300 characters
    source = opened("songs", numbered(*sizes), block_size=block_size)
    rows, targets = 0, 0
    while targets < sizes.sum():
        targets += source.targets(0, done=rows, of=1)
        rows += 1
    assert 1 - targets / (rows * block_size) < share


def test_no_piece_waits_for_ever_for_one_that_fits(monkeypatch):
    monkeypatch.setattr(batches, "BUFFER", 4)
    order, firsts = batches._pack(np.array([6, *[5] * 40, *[4] * 40]), 9)
    row_of = np.searchsorted(firsts, np.argsort(order), side="right") - 1
    assert (row_of <= np.arange(81)).all()
    assert (np.diff(firsts) >= 1).all()


def test_an_index_that_does_not_fit_its_stream_is_refused():
    bins = numbered(5, 6)
    bins.train.index[1, 0] = 90
    with pytest.raises(DataError) as error:
        opened("songs", bins)
    assert "train.idx" in error.value.what
    assert error.value.mend.endswith("--force")


# --- prefetched -----------------------------------------------------------------------------------


def alive():
    return threading.active_count()


@pytest.mark.parametrize("depth", [1, 2, 7])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_prefetched_items_come_all_and_in_their_order(n, depth):
    before = alive()
    assert list(prefetched(iter(range(n)), depth)) == list(range(n))
    assert alive() == before


def test_items_are_made_ahead_by_another_thread_but_only_so_many():
    made, third = [], threading.Event()

    def items():
        for i in count():
            made.append((i, threading.get_ident()))
            if i == 2:
                third.set()
            yield i

    with closing(prefetched(items(), depth=2)) as source:
        assert next(source) == 0
        assert third.wait(10)
        assert [i for i, _ in made] == [0, 1, 2]
        assert threading.get_ident() not in {thread for _, thread in made}


@pytest.mark.parametrize("fault", [DataError("broken"), KeyError("bug"), Terminated()])
def test_what_an_item_raises_reaches_the_consumer_in_its_place(fault):
    def items():
        yield 1
        yield 2
        raise fault

    before, got = alive(), []
    with pytest.raises(type(fault)) as raised:
        for item in prefetched(items(), depth=4):
            got.append(item)
    assert raised.value is fault
    assert got == [1, 2]
    assert alive() == before


@pytest.mark.parametrize("fault", [KeyboardInterrupt, Terminated])
def test_the_thread_ends_with_a_consumer_that_is_stopped(fault):
    before = alive()
    with pytest.raises(fault):
        for item in prefetched(count(), depth=3):
            if item == 5:
                raise fault
    assert alive() == before


def test_the_thread_ends_when_nobody_holds_the_items_any_more():
    before = alive()
    source = prefetched(count())
    assert list(islice(source, 3)) == [0, 1, 2]
    assert alive() == before + 1
    del source
    assert alive() == before


def test_batches_are_the_same_read_ahead_while_another_thread_counts():
    bins = numbered(*range(1, 40))
    source, plain = opened("songs", bins), opened("songs", bins)
    ahead = prefetched(take(source, step, done=4 * step) for step in range(200))
    for step, batch in enumerate(ahead):
        assert source.targets(step, done=4 * step, of=4) == (batch.y != IGNORE).sum()
        assert equal(batch, take(plain, step, done=4 * step))


# --- open_bins ------------------------------------------------------------------------------------


def test_bins_open_by_name_under_data_and_by_path(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named, path = Bins.open("demo/char"), Bins.open(str(corpus / "char"))
    assert named.sha256 == path.sha256
    songs = len(json.loads((corpus / "data.json").read_text(encoding="utf-8")))
    assert named.train.songs + named.val.songs == songs
    assert (len(named.train.index), len(named.val.index)) == (named.train.songs, named.val.songs)
    assert named.train.tokens.dtype == np.uint16
    assert len(named.train.tokens) * 2 == (corpus / "char" / "train.bin").stat().st_size
    assert all(file.is_file() for file in named.files())


def test_missing_bins_name_the_binarize_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as error:
        Bins.open("darklyrics/char")
    command = "python -m backend.data.binarize --data_dir=data/darklyrics"
    assert error.value.mend.replace(os.sep, "/") == command
    (tmp_path / "data" / "darklyrics" / "char").mkdir(parents=True)
    with pytest.raises(DataError) as error:
        Bins.open("darklyrics/char")
    assert error.value.mend.replace(os.sep, "/") == command


def refused(folder):
    with pytest.raises(DataError) as error:
        Bins.open(str(folder))
    assert error.value.mend == f"python -m backend.data.binarize --data_dir={folder.parent} --force"
    return error.value.what


@pytest.mark.parametrize("name", ["train.bin", "val.bin"])
def test_a_truncated_bin_is_told_with_both_sizes(corpus, name):
    path = corpus / "char" / name
    size = path.stat().st_size
    os.truncate(path, size - 10)
    what = refused(corpus / "char")
    assert name in what
    assert f"{size:,}" in what
    assert f"{size - 10:,}" in what


@pytest.mark.parametrize("name", ["train.bin", "val.bin", "train.idx", "val.idx", "tokenizer.json"])
def test_a_file_that_is_missing_is_named(corpus, name):
    (corpus / "char" / name).unlink()
    assert name in refused(corpus / "char")


@pytest.mark.parametrize("cut", [3, 8, 16])
def test_a_truncated_index_is_refused(corpus, cut):
    path = corpus / "char" / "val.idx"
    os.truncate(path, path.stat().st_size - cut)
    refused(corpus / "char")


def test_a_tokenizer_of_other_bins_is_refused(corpus):
    path = corpus / "char" / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert "tokenizer.json" in refused(corpus / "char")


def edit_meta(folder, **changes):
    path = folder / "char" / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_bins_of_another_format_are_refused_with_both_numbers(corpus):
    edit_meta(corpus, format=2)
    what = refused(corpus / "char")
    assert "format 2" in what
    assert "reads 1" in what


@pytest.mark.parametrize("text", ["", "{", "{}", "null", "[]", '{"format": 1}'])
def test_a_meta_json_that_is_damaged_is_refused(corpus, text):
    (corpus / "char" / "meta.json").write_text(text)
    refused(corpus / "char")


@pytest.mark.parametrize("changes", [{"dtype": "words"}, {"splits": None}, {"splits": {}}], ids=str)
def test_a_meta_json_with_an_impossible_value_is_refused(corpus, changes):
    edit_meta(corpus, **changes)
    refused(corpus / "char")


def test_other_songs_or_another_vocabulary_are_another_dataset(corpus, tmp_path, rows):
    from backend.config.schema import BinarizeConfig
    from backend.data import binarize

    before = Bins.open(str(corpus / "char")).sha256
    same = shutil.copytree(corpus, tmp_path / "copy")
    assert Bins.open(str(same / "char")).sha256 == before
    binarize.main(BinarizeConfig(data_dir=str(corpus), seed=2))
    assert Bins.open(str(corpus / "char")).sha256 != before


# --- check_size -----------------------------------------------------------------------------------


def test_a_split_shorter_than_a_block_is_told_with_a_block_size_that_fits(demo):
    bins = Bins.open(str(demo / "char"))
    n = len(bins.train.tokens)
    check_size(bins, n - 1)
    with pytest.raises(DataError) as error:
        check_size(bins, n)
    assert f"{n:,} tokens" in error.value.what
    assert f"block_size + 1 = {n + 1:,}" in error.value.what
    suggested = int(error.value.mend.split("--block_size=")[1].split(",")[0])
    check_size(bins, suggested)


def test_for_songs_the_shortest_corpus_will_do_but_not_an_empty_one():
    check_size(numbered(3), 1024, "songs")
    empty = Split(np.array([EOT], np.uint16), np.zeros((0, 2), np.uint64), 0, 0, 0)
    bins = Bins(Path("data/x/char"), SimpleNamespace(), empty, empty, "song", "", ())
    with pytest.raises(DataError, match="no song"):
        check_size(bins, 8, "songs")
