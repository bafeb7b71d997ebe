"""Batches: a pure function of (seed, step, micro-batch), and bins that are checked before use."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.data.batches import check_size, random_windows
from backend.data.bins import Bins, Split
from backend.errors import DataError


def numbered(n):
    """A split whose tokens are their own positions."""
    return Split(np.arange(n, dtype=np.uint16), np.zeros((1, 2), dtype=np.uint64), 1, n)


def draw(split, seed=1, step=0, micro=0, batch_size=4, block_size=8):
    return random_windows(
        split, seed=seed, step=step, micro=micro, batch_size=batch_size, block_size=block_size
    )


# --- batches --------------------------------------------------------------------------------------


def test_y_is_x_shifted_by_one_token(demo):
    bins = Bins.open(str(demo / "char"))
    x, y = draw(bins.train, batch_size=5, block_size=64)
    assert x.shape == y.shape == (5, 64)
    assert x.dtype == y.dtype == torch.int64
    assert x.is_contiguous()
    assert y.is_contiguous()
    assert torch.equal(x[:, 1:], y[:, :-1])
    stream = bins.tokenizer.decode(bins.train.tokens)
    for row, shifted in zip(x, y, strict=True):
        whole = bins.tokenizer.decode([*row.tolist(), shifted[-1].item()])
        assert whole in stream


def test_the_same_place_in_training_is_the_same_batch_and_any_other_is_another():
    split = numbered(5000)
    first = draw(split, seed=1, step=7, micro=2)
    assert all(torch.equal(a, b) for a, b in zip(first, draw(split, step=7, micro=2), strict=True))
    for other in ({"step": 8, "micro": 2}, {"step": 7, "micro": 3}, {"step": 2, "micro": 7}):
        assert not torch.equal(first[0], draw(split, **other)[0])
    assert not torch.equal(first[0], draw(split, seed=2, step=7, micro=2)[0])


def test_a_batch_leaves_the_random_state_of_the_program_alone():
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    draw(numbered(100))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 1000))
@settings(max_examples=60)
def test_every_window_lies_inside_the_stream(block_size, more, step):
    n = block_size + more
    x, y = draw(numbered(n), step=step, batch_size=16, block_size=block_size)
    assert x.min() >= 0
    assert y.max() < n
    assert torch.equal(y, x + 1)
    assert torch.equal(x, x[:, :1] + torch.arange(block_size))


def test_the_first_and_the_last_token_are_both_drawn():
    batches = [draw(numbered(20), step=step, batch_size=32, block_size=8) for step in range(10)]
    assert min(x.min() for x, _ in batches) == 0
    assert max(y.max() for _, y in batches) == 19


def test_the_smallest_stream_that_check_size_passes_gives_a_batch():
    x, y = draw(numbered(9), block_size=8)
    assert x.tolist() == [list(range(8))] * 4
    assert y[:, -1].tolist() == [8] * 4


# --- open_bins ------------------------------------------------------------------------------------


def test_bins_open_by_name_under_data_and_by_path(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named, path = Bins.open("demo/char"), Bins.open(str(corpus / "char"))
    assert named.sha256 == path.sha256
    assert (named.train.songs, named.val.songs) == (19, 3)
    assert len(named.train.index) == 19
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
