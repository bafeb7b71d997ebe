"""Corpora: nanoGPT's and tiktoken's ids, however the texts come and whatever stops the program."""

import contextlib
import csv
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from backend.config.loader import from_values, program
from backend.config.schema import CorporaConfig
from backend.data import corpora, texts, tokenizers
from backend.data.bins import Bins, Writer
from backend.errors import ConfigError, DataError
from tests.conftest import ROOT

SHARED = ROOT.parent / "shared" / "data"
EOT = "<|endoftext|>"


def verse(i, lines=4):
    hour = i * 7 % 13
    return "\n".join(f"Ship {i} left harbour {line}, it's {hour} o'clock" for line in range(lines))


def make(folder, corpus="text", path=None, **settings):
    given = {"corpus": corpus, "data_dir": str(folder), "path": str(path) if path else None}
    corpora.main(CorporaConfig(**(given | settings)))
    size = settings.get("vocab_size", "") if settings.get("tokenizer") == "bpe" else ""
    return folder / f"{settings.get('tokenizer', 'char')}{size}"


def stream(bins, name):
    meta = json.loads((bins / "meta.json").read_text())
    kind = np.dtype(meta["dtype"]).newbyteorder("<")
    return np.concatenate([np.fromfile(bins / f, kind) for f in meta["splits"][name]["files"]])


def documents(bins, name):
    """Ids of every document, from the files alone."""
    ids = stream(bins, name)
    pairs = np.fromfile(bins / f"{name}.idx", "<u8").reshape(-1, 2).tolist()
    ends = [start for start, _ in pairs[1:]] + [len(ids) - 1]
    return [ids[text:end].tolist() for (_, text), end in zip(pairs, ends, strict=True)]


def read(bins, name):
    tokenizer = tokenizers.load(bins / "tokenizer.json")
    return [tokenizer.decode(ids) for ids in documents(bins, name)]


def files(bins):
    """What is written, without the manifest's seconds and times."""
    return {p.name: p.read_bytes() for p in bins.iterdir() if p.name != "corpora.manifest.json"}


def text_file(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def jsonl(path, rows):
    rows = [{"text": row} if isinstance(row, str) else row for row in rows]
    return text_file(path, "".join(json.dumps(row) + "\n" for row in rows))


def parquet(path, rows):
    import pandas

    path.parent.mkdir(parents=True, exist_ok=True)
    pandas.DataFrame({"n": range(len(rows)), "text": rows}).to_parquet(path)
    return path


@pytest.fixture(scope="module", autouse=True)
def datasets(tmp_path_factory):
    """Hugging Face's library, with a cache of its own."""
    library = pytest.importorskip("datasets", reason="the extra corpora is not installed")
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library.config, "HF_DATASETS_CACHE", cache)
        patch.setattr(library.config, "DOWNLOADED_DATASETS_PATH", cache / "web")
        yield library


@pytest.fixture
def small(monkeypatch):
    """Batches and pieces so small that a few pages have many of them."""
    monkeypatch.setattr(corpora, "BATCH", 500)
    monkeypatch.setattr(texts, "LARGE", 300)
    monkeypatch.setattr(texts, "PIECE", 50)


@pytest.fixture(scope="module")
def gpt2():
    """tiktoken's own gpt2, and ours made once."""
    cache = Path(os.environ.get("TIKTOKEN_CACHE_DIR", SHARED / "tiktoken_cache"))
    if not cache.is_dir():
        pytest.skip("GPT-2's vocabulary is not on this computer: no TIKTOKEN_CACHE_DIR")
    import tiktoken

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
        ours = tokenizers.ByteBPE.gpt2()
        patch.setattr(tokenizers.ByteBPE, "gpt2", lambda: ours)
        yield tiktoken.get_encoding("gpt2")


@pytest.fixture
def on_hub(monkeypatch):
    """on_hub(corpus, folder): the folder is what `datasets` finds in place of the hub's corpus."""

    def put(name, hub, **changes):
        there = replace(corpora.CORPORA[name], hub=str(hub), name=None, **changes)
        monkeypatch.setitem(corpora.CORPORA, name, there)

    return put


def nanogpt(text):
    """Ids of train and val as nanoGPT's data/shakespeare_char/prepare.py makes them."""
    chars = sorted(set(text))
    stoi = {ch: i for i, ch in enumerate(chars)}
    n = len(text)
    train, val = text[: int(n * 0.9)], text[int(n * 0.9) :]
    return [[stoi[c] for c in part] for part in (train, val)]


# --- ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [2, 10, 11, 299, 1000, 5003])
def test_one_text_has_nanogpts_ids_and_its_cut(tmp_path, small, length):
    text = "\n\n".join(map(verse, range(40)))[:length].rstrip() + "é"
    source = text_file(tmp_path / "a.txt", text)
    for corpus in ("tinyshakespeare", "text"):
        bins = make(tmp_path / corpus, corpus, source)
        for name, ids in zip(("train", "val"), nanogpt(text), strict=True):
            assert documents(bins, name) == [ids]
        assert json.loads((bins / "meta.json").read_text())["split_by"] == "contiguous"


def test_tinyshakespeare_has_nanogpts_ids(tmp_path):
    source = SHARED / "tinyshakespeare.txt"
    if not source.is_file():
        pytest.skip("tinyshakespeare is not on this computer")
    bins = make(tmp_path, "tinyshakespeare", source)
    for name, ids in zip(
        ("train", "val"), nanogpt(source.read_text(encoding="utf-8")), strict=True
    ):
        assert documents(bins, name) == [ids]


def test_line_ends_and_a_byte_order_mark_are_read_as_nanogpts_open_does(tmp_path):
    source = tmp_path / "a.txt"
    source.write_bytes("\ufeffone\r\ntwo\rthree\nfour é\r\n".encode())
    bins = make(tmp_path / "out", path=source)
    assert "".join(read(bins, "train") + read(bins, "val")) == "one\ntwo\nthree\nfour é\n"


@pytest.mark.e2e
def test_gpt2_has_tiktokens_ids_document_by_document(tmp_path, gpt2, small):
    rows = [verse(i) for i in range(40)] + [f"the name {EOT} is text", "日本 \u2003 x ", "a" * 900]
    bins = make(tmp_path / "out", path=jsonl(tmp_path / "a.jsonl", rows), tokenizer="gpt2")
    found = documents(bins, "train") + documents(bins, "val")
    assert sorted(found) == sorted(gpt2.encode_ordinary(row) for row in rows)
    assert (stream(bins, "train") == 50256).sum() == len(documents(bins, "train")) + 1


@pytest.mark.e2e
@pytest.mark.parametrize("tokenizer", ["gpt2", "bpe"])
def test_a_large_text_has_the_ids_it_has_in_one_piece(tmp_path, gpt2, monkeypatch, tokenizer):
    text = "  \n\n\t ".join(verse(i, 1 + i % 5) for i in range(300)) + "word" * 200 + " \n end.  "
    source = text_file(tmp_path / "a.txt", text)
    settings = {"path": source, "tokenizer": tokenizer, "vocab_size": 300, "val_fraction": 0.5}
    whole = make(tmp_path / "whole", **settings)
    monkeypatch.setattr(texts, "LARGE", 60)
    monkeypatch.setattr(texts, "PIECE", 20)
    monkeypatch.setattr(corpora, "BATCH", 333)
    assert files(make(tmp_path / "pieces", **settings)) == files(whole)
    if tokenizer == "gpt2":
        half = int(len(text) * 0.5)
        assert documents(whole, "train") == [gpt2.encode_ordinary(text[:half])]
        assert documents(whole, "val") == [gpt2.encode_ordinary(text[half:])]


WORDS = st.text(st.sampled_from("ab1' .,\n\t\r\u00a0\u2003\x1c\x85é日\u0301🎵²"), max_size=60)


@given(text=WORDS, chunk=st.integers(1, 7), piece=st.integers(1, 9))
def test_pieces_are_cut_where_no_word_of_gpt2_spans_the_cut(text, chunk, piece):
    fragments = [(i == 0, text[i : i + chunk]) for i in range(0, max(1, len(text)), chunk)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "LARGE", piece)
        patch.setattr(texts, "PIECE", piece)
        found = list(texts._in_pieces(fragments))
    assert [new for new, _ in found] == [True] + [False] * (len(found) - 1)
    words = [word for _, part in found for word in regex.findall(tokenizers.SPLIT, part)]
    assert words == regex.findall(tokenizers.SPLIT, text)


@given(
    rows=st.lists(st.text(st.sampled_from("a#\n"), max_size=6)),
    chunk=st.integers(1, 9),
    separator=st.sampled_from(["##", "#a#", "-"]),
)
def test_a_separator_divides_the_same_wherever_chunks_end(rows, chunk, separator):
    text = separator.join(rows)
    found = []
    for new, part in texts._split_at(
        (text[i : i + chunk] for i in range(0, len(text), chunk)), separator
    ):
        if new:
            found.append("")
        found[-1] += part
    expected = [row.strip("\n") for row in text.split(separator)]
    assert found == (expected if expected[-1] else expected[:-1])


def test_a_text_without_any_place_to_cut_is_whole(tmp_path, small):
    bins = make(tmp_path / "out", path=text_file(tmp_path / "a.txt", "x" * 5000))
    assert [len(documents(bins, name)[0]) for name in ("train", "val")] == [4500, 500]


# --- where texts come from ------------------------------------------------------------------------


ROWS = [verse(i) for i in range(60)] + [f'quotes " and, commas; {EOT}', "né 日本"]


def written(folder, kind):
    """ROWS in a file of this kind."""
    path = folder / f"a{kind}"
    if kind == ".txt":
        return text_file(path, "\n<<>>\n".join(ROWS))
    if kind == ".json":
        return text_file(path, json.dumps([{"text": row} for row in ROWS], indent=1))
    if kind == ".csv":
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            csv.writer(file).writerows([("n", "text"), *enumerate(ROWS)])
        return path
    return (jsonl if kind == ".jsonl" else parquet)(path, ROWS)


@pytest.mark.parametrize("kind", [".txt", ".json", ".csv", ".parquet"])
def test_every_kind_of_file_gives_the_same_bins(tmp_path, kind):
    separator = {"separator": "<<>>"} if kind == ".txt" else {}
    expected = files(make(tmp_path / "jsonl", path=written(tmp_path, ".jsonl")))
    found = files(make(tmp_path / "other", path=written(tmp_path, kind), **separator))
    for each in (expected, found):
        assert re.search(rb'"source_sha256": "\w{64}"', each["meta.json"])
        each["meta.json"] = re.sub(rb'"source_sha256": .*', b"", each["meta.json"])
    assert found == expected


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
def test_the_hub_gives_the_same_bins_as_files(tmp_path, kind, tokenizer, small):
    (tmp_path / "hub").mkdir()
    written(tmp_path / "hub", kind)
    settings = {"tokenizer": tokenizer, "vocab_size": 300, "path": tmp_path / "hub"}
    assert files(make(tmp_path / "hf", "hf", **settings)) == files(
        make(tmp_path / "text", "text", **settings)
    )


def test_a_folder_is_read_in_the_order_of_its_names_without_what_is_hidden_or_ours(tmp_path):
    for name, words in (("b.txt", "second "), ("a/z.TXT", "first "), ("c.jsonl", None)):
        path = tmp_path / "in" / name
        text_file(path, words) if words else jsonl(path, ["third, and more of it"])
    text_file(tmp_path / "in" / ".hidden" / "x.txt", "hidden")
    text_file(tmp_path / "in" / "page.html", "not read")
    first = make(tmp_path / "in", path=tmp_path / "in", val_fraction=0.5)
    assert (
        "".join(read(first, "train") + read(first, "val")) == "first second third, and more of it"
    )
    before = files(first)
    assert files(make(tmp_path / "in", path=tmp_path / "in", val_fraction=0.5)) == before


def test_the_web_file_of_tinyshakespeare_is_one_text(tmp_path, on_hub, monkeypatch):
    text = "\n\n".join(map(verse, range(30)))
    text_file(tmp_path / "www" / "input.txt", text)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=tmp_path / "www")

        def log_message(self, *args):
            pass

    pytest.importorskip("aiohttp", reason="datasets reads web files with aiohttp")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        on_hub("tinyshakespeare", f"http://127.0.0.1:{server.server_port}/input.txt")
        bins = make(tmp_path / "out", "tinyshakespeare")
        server.shutdown()
    for name, ids in zip(("train", "val"), nanogpt(text), strict=True):
        assert documents(bins, name) == [ids]


def test_the_folder_is_named_after_the_corpus_or_the_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text_file(tmp_path / "in" / "my novel.txt", verse(1, 50))
    jsonl(tmp_path / "in" / "set" / "train.jsonl", ROWS)
    for settings in (
        {"corpus": "text", "path": "in/my novel.txt"},
        {"corpus": "text", "path": "in"},
        {"corpus": "hf", "path": "in/set"},
        {"corpus": "finewebedu", "path": "in/set", "tokenizer": "bpe", "vocab_size": 300},
    ):
        corpora.main(CorporaConfig(**settings))
    made = {path.parent.relative_to("data").as_posix() for path in Path("data").rglob("meta.json")}
    assert made == {"my novel/char", "in/char", "set/char", "finewebedu/bpe300"}


# --- the split ------------------------------------------------------------------------------------


def openwebtext_rows(n):
    return [f"row {i} of the web" for i in range(n)]


def nanogpts_rows(datasets, path, n, limit=None):
    """What nanoGPT's data/openwebtext/prepare.py holds out."""
    data = datasets.load_dataset("parquet", data_files=str(path), split="train")
    assert len(data) == n
    data = data.select(range(limit)) if limit else data
    parts = data.train_test_split(test_size=0.0005, seed=2357, shuffle=True)
    return sorted(parts["test"]["text"])


@pytest.mark.parametrize(("n", "limit"), [(20, None), (2000, None), (6001, None), (6001, 4321)])
def test_openwebtext_holds_out_the_rows_that_nanogpt_does(tmp_path, datasets, n, limit):
    source = parquet(tmp_path / "owt.parquet", openwebtext_rows(n))
    bins = make(tmp_path / "out", "openwebtext", source, max_documents=limit)
    held_out = read(bins, "val")
    assert sorted(held_out) == nanogpts_rows(datasets, source, n, limit)
    assert len(held_out) == -(-5 * (limit or n) // 10_000)
    assert read(bins, "train") == [r for r in openwebtext_rows(n)[:limit] if r not in set(held_out)]


@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
def test_openwebtext_of_the_hub_too_where_it_says_how_many_rows_there_are(
    tmp_path, on_hub, datasets, tokenizer, capsys
):
    source = parquet(tmp_path / "hub" / "train.parquet", openwebtext_rows(3000))
    splits = "[{name: train, num_bytes: 1, num_examples: 3000}]"
    features = "[{name: n, dtype: int64}, {name: text, dtype: string}]"
    text_file(
        tmp_path / "hub" / "README.md",
        f"---\ndataset_info: {{features: {features}, splits: {splits}}}\n---\n",
    )
    on_hub("openwebtext", tmp_path / "hub")
    bins = make(tmp_path / "out", "openwebtext", tokenizer=tokenizer, vocab_size=300)
    assert sorted(read(bins, "val")) == nanogpts_rows(datasets, source, 3000)
    assert "note" not in capsys.readouterr().out


@pytest.mark.e2e
def test_openwebtext_without_a_number_of_rows_is_held_out_by_a_hash_and_that_is_said(
    tmp_path, on_hub, capsys
):
    parquet(tmp_path / "hub" / "train.parquet", openwebtext_rows(6000))
    on_hub("openwebtext", tmp_path / "hub")
    bins = make(tmp_path / "out", "openwebtext", tokenizer="bpe", vocab_size=300)
    assert 0 < len(read(bins, "val")) < 12
    assert "held out by a hash, not as nanoGPT" in capsys.readouterr().out


@pytest.mark.parametrize("corpus", ["tinystories", "finewebedu", "wikitext"])
def test_few_documents_of_any_corpus_are_cut_at_nine_tenths(tmp_path, corpus, capsys):
    rows = [f" = Title {i} = \n{verse(i)}" for i in range(7)]
    lines = [line for row in rows for line in row.split("\n")] if corpus == "wikitext" else rows
    bins = make(tmp_path / "out", corpus, jsonl(tmp_path / "a.jsonl", lines))
    parts = [read(bins, name) for name in ("train", "val")]
    whole = "".join(rows)
    assert "".join(parts[0]) == whole[: int(0.9 * len(whole))]
    assert "".join(parts[1]) == whole[int(0.9 * len(whole)) :]
    said = capsys.readouterr().out
    assert "only 7 documents" in said
    assert said.count("note: ") == 1


def test_growth_moves_no_row_to_the_other_side(tmp_path):
    rows = [verse(i) for i in range(300)]
    sides = []
    for n in (100, 300):
        bins = make(tmp_path / str(n), path=jsonl(tmp_path / f"{n}.jsonl", rows[:n]))
        sides.append(set(read(bins, "val")))
    assert sides[0] == sides[1] & set(rows[:100])
    assert 15 < len(sides[1]) < 45


@pytest.mark.parametrize("seed", range(6))
def test_validation_is_never_empty(tmp_path, seed):
    source = jsonl(tmp_path / "a.jsonl", map(verse, range(20)))
    bins = make(tmp_path / "out", path=source, seed=seed, val_fraction=0.01)
    assert len(read(bins, "val")) == 1
    assert len(read(bins, "train")) == 19


def test_own_validation_is_kept_and_the_test_split_left_out(tmp_path, on_hub):
    stories = tmp_path / "stories"
    for name, numbers in (("train", range(30)), ("valid", range(50, 53)), ("test", range(60, 63))):
        text = f"\n{EOT}\n".join(map(verse, numbers)) + f"\n{EOT}\n"
        text_file(stories / f"TinyStories-{name}.txt", text)
        named = {"valid": "validation"}.get(name, name)
        parquet(tmp_path / "hub" / f"{named}-00000-of-00001.parquet", list(map(verse, numbers)))
    on_hub("tinystories", tmp_path / "hub")
    local = make(tmp_path / "local", "tinystories", stories)
    hub = make(tmp_path / "out", "tinystories")
    assert read(local, "train") == list(map(verse, range(30)))
    assert read(local, "val") == list(map(verse, range(50, 53)))
    assert files(local) == files(hub)
    assert json.loads((hub / "meta.json").read_text())["split_by"] == "own"


def test_lines_of_wikitext_become_articles(tmp_path, on_hub):
    article = " = Ship {} = \n \n It sailed . \n \n = = Log = = \n \n It = sank = here \n "
    raw = {
        name: "".join(" \n" + article.format(i) + "\n" for i in numbers)
        for name, numbers in (("train", range(4)), ("validation", range(7, 9)))
    }
    for name, text in raw.items():
        lines = [line if line.strip() else "" for line in text.splitlines(keepends=True)]
        parquet(tmp_path / "hub" / f"{name}-0.parquet", lines)
        text_file(tmp_path / "raw" / f"wiki.{name}.txt", text)
    on_hub("wikitext", tmp_path / "hub")
    bins = make(tmp_path / "out", "wikitext")
    assert read(bins, "val") == [
        f" = Ship {i} = \n\n It sailed . \n\n = = Log = = \n\n It = sank = here " for i in (7, 8)
    ]
    assert len(read(bins, "train")) == 4
    assert files(make(tmp_path / "local", "wikitext", tmp_path / "raw")) == files(bins)


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard_tokens", [1, 97, 10**6])
def test_shards_read_as_the_stream_they_were_cut_from(tmp_path, shard_tokens):
    source = jsonl(tmp_path / "a.jsonl", ["one", "two"] * 30)
    whole = make(tmp_path / "whole", path=source)
    cut = make(tmp_path / "cut", path=source, shard_tokens=shard_tokens)
    for name in ("train", "val"):
        assert np.array_equal(stream(cut, name), stream(whole, name))
        sizes = [p.stat().st_size // 2 for p in sorted(cut.glob(f"{name}*.bin"))]
        assert all(size == shard_tokens for size in sizes[:-1])
        assert sizes[-1] <= shard_tokens
        tokens = getattr(Bins.open(str(cut)), name).tokens
        assert np.array_equal(tokens[: len(tokens)], stream(whole, name))
        assert (cut / f"{name}.idx").read_bytes() == (whole / f"{name}.idx").read_bytes()


def test_only_the_first_documents_are_taken(tmp_path):
    source = jsonl(tmp_path / "a.jsonl", ROWS)
    bins = make(tmp_path / "out", path=source, max_documents=25)
    assert sorted(read(bins, "train") + read(bins, "val")) == sorted(ROWS[:25])


MEASURED = """
    import sys
    from pathlib import Path
    from backend.config.schema import CorporaConfig
    from backend.data import corpora
    corpora.main(CorporaConfig(corpus="text", path=sys.argv[1], data_dir=sys.argv[2]))
    print(Path("/proc/self/status").read_text())  # what getrusage says includes the parent's
"""


@pytest.mark.e2e
@pytest.mark.parametrize("rows", [1, 3000])
def test_a_large_file_is_never_whole_in_memory(tmp_path, rows):
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is measured on Linux")
    text = verse(3, 1000)
    if rows == 1:
        source = text_file(tmp_path / "a.txt", text * 1500)
    else:
        source = jsonl(tmp_path / "a.jsonl", [text[:20_000]] * rows)
    assert source.stat().st_size > 55e6
    command = [sys.executable, "-c", textwrap.dedent(MEASURED), source, tmp_path / "out"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(re.search(r"VmHWM:\s*(\d+) kB", done.stdout)[1]) < 150 * 1024


# --- again and again ------------------------------------------------------------------------------


def test_a_second_run_has_nothing_to_do_until_the_input_or_a_setting_changes(tmp_path, capsys):
    source = jsonl(tmp_path / "a.jsonl", ROWS)
    make(tmp_path / "out", path=source)
    for changes, line in (({}, True), ({"force": True}, False), ({"seed": 1}, False)):
        capsys.readouterr()
        make(tmp_path / "out", path=source, **changes)
        assert ("nothing to do" in capsys.readouterr().out) == line
    jsonl(source, [*ROWS, "more"])
    make(tmp_path / "out", path=source)
    assert "nothing to do" not in capsys.readouterr().out


class Killed(BaseException):
    """Nothing in between may handle it."""


@pytest.fixture
def killed(monkeypatch, small):
    """killed(run, after): the run dies in the middle of its so-many-th write to a file."""
    monkeypatch.setattr(corpora, "CHECKPOINT_S", 0)
    put = Writer._put

    def kill(run, after):
        left = after

        def one_less(writer, side, ids):
            nonlocal left
            left -= 1
            put(writer, side, ids[: len(ids) // 2] if left < 0 else ids)
            if left < 0:
                raise Killed

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Writer, "_put", one_less)
            with pytest.raises(Killed):
                run()

    return kill


def laid_out(folder, kind):
    """A corpus of this kind, and the settings that read it."""
    if kind == "one text":
        return {"path": text_file(folder / "a.txt", "\n\n".join(verse(i) for i in range(60)))}
    if kind == "texts":
        for i in range(30):
            text_file(folder / "in" / f"{i:02}.txt", verse(i, 1 + i % 20))
        return {"path": folder / "in"}
    if kind == "rows":
        return {"path": jsonl(folder / "a.jsonl", [*map(verse, range(50)), "", verse(51), " "])}
    if kind == "shuffled":
        source = parquet(folder / "a.parquet", list(map(verse, range(50))))
        return {"path": source, "corpus": "openwebtext", "val_fraction": 0.1}
    if kind == "hub":
        parquet(folder / "hub" / "train.parquet", list(map(verse, range(50))))
        return {"path": folder / "hub", "corpus": "hf"}
    for name in ("train", "val"):
        text_file(folder / "in" / f"{name}.txt", f"\n{EOT}\n".join(map(verse, range(30))))
    return {"path": folder / "in", "corpus": "tinystories"}


@pytest.mark.e2e
@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
@pytest.mark.parametrize("kind", ["one text", "texts", "rows", "shuffled", "hub", "own"])
def test_a_killed_run_goes_on_and_its_files_are_those_of_one_that_was_not(
    tmp_path, killed, capsys, monkeypatch, kind, tokenizer
):
    settings = laid_out(tmp_path, kind) | {"tokenizer": tokenizer, "vocab_size": 300}
    expected = files(make(tmp_path / "whole", shard_tokens=1000, **settings))
    notes = re.findall("note: .*", capsys.readouterr().out)

    def run():
        return make(tmp_path / "out", shard_tokens=1000, **settings)

    killed(run, after=6)
    planned = corpora.planned
    monkeypatch.setattr(corpora, "planned", None)  # no second pass for split and vocabulary
    killed(run, after=4)
    assert "taking up at document" in capsys.readouterr().out
    bins = run()
    said = capsys.readouterr().out
    assert int(re.search(r"taking up at document (\d+)", said)[1]) >= (kind != "one text")
    assert files(bins) == expected
    assert re.findall("note: .*", said) == notes
    assert [p.name for p in bins.parent.iterdir()] == [bins.name]
    monkeypatch.setattr(corpora, "planned", planned)


@pytest.mark.parametrize("change", ["seed", "input", "force", "checkpoint"])
def test_a_killed_run_begins_anew_where_something_changed(tmp_path, killed, capsys, change):
    settings = {"path": jsonl(tmp_path / "a.jsonl", map(verse, range(50)))}
    killed(lambda: make(tmp_path / "out", **settings), after=6)
    if change == "input":
        jsonl(tmp_path / "a.jsonl", map(verse, range(1, 52)))
    elif change == "checkpoint":
        text_file(tmp_path / "out" / ".char.new" / "progress.json", "{")
    else:
        settings |= {"seed": 7} if change == "seed" else {"force": True}
    bins = make(tmp_path / "out", **settings)
    assert "taking up" not in capsys.readouterr().out
    assert files(bins) == files(make(tmp_path / "other", **settings))


def test_what_was_made_before_stays_whole_until_all_is_made_anew(tmp_path, killed):
    bins = make(tmp_path / "out", path=jsonl(tmp_path / "a.jsonl", ROWS))
    before = files(bins)
    for after in (0, 1, 7):
        killed(lambda: make(tmp_path / "out", path=tmp_path / "a.jsonl", seed=2), after)
        assert files(bins) == before
    make(tmp_path / "out", path=tmp_path / "a.jsonl", seed=2)
    assert files(bins) != before


SLOWLY = """
    import sys, time
    from backend.config.schema import CorporaConfig
    from backend.data import corpora
    from backend.data.bins import Writer
    corpora.CHECKPOINT_S, corpora.BATCH = 0, 2**16
    add = Writer.add
    Writer.add = lambda *given: (add(*given), time.sleep(0.02))
    more = Writer.add_to_last
    Writer.add_to_last = lambda *given: (more(*given), time.sleep(0.02))
    given = dict(corpus="text", path=sys.argv[1], data_dir=sys.argv[2], shard_tokens=10**5)
    corpora.main(CorporaConfig(**given))
"""


@pytest.mark.e2e
@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_a_run_that_is_killed_for_good_goes_on(tmp_path, kind):
    if kind == "txt":
        source = text_file(tmp_path / "a.txt", "\n\n".join(verse(i, 20) for i in range(4000)))
    else:
        source = jsonl(tmp_path / "a.jsonl", (verse(i, 20) for i in range(4000)))
    expected = files(make(tmp_path / "whole", path=source, shard_tokens=10**5))
    progress = tmp_path / "out" / ".char.new" / "progress.json"
    command = [sys.executable, "-c", textwrap.dedent(SLOWLY), source, tmp_path / "out"]
    at = 0
    for _ in range(2):
        child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
        until = time.monotonic() + 60
        reached = at
        while reached <= at + 2 and child.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
            with contextlib.suppress(OSError, ValueError):
                reached = json.loads(progress.read_text())["state"]["place"][1]
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        child.stderr.close()
        at = reached
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "taking up at document" in done.stdout
    assert files(tmp_path / "out" / "char") == expected


# --- what is wrong with the input -----------------------------------------------------------------


def told(tmp_path, corpus="text", **settings):
    with pytest.raises(DataError) as caught:
        make(tmp_path / "out", corpus, **settings)
    assert not list((tmp_path / "out").glob("*/*.bin"))
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"", "no text"),
        ("a.txt", b" \n \n", "no text"),
        ("a.txt", b"x", "leave nothing to train on"),
        ("a.txt", b"abc\xff", "not UTF-8 at byte 3"),
        ("a.txt", b"\xef\xbb\xbfab" + b"c" * 2**21 + b"\xe9 ", f"not UTF-8 at byte {2**21 + 5:,}"),
        ("a.txt", b"ab\xc3", "not UTF-8 at byte 2"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": \n', "a.jsonl, line 3 cannot be read"),
        ("a.jsonl", b'{"text": "a"}\n{"txt": "b", "n": 1}\n', "row 2 has no 'text': it has txt, n"),
        ("a.jsonl", b'{"text": 7}\n', "row 1: 7 is no text"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "row 1: '\\ud800' is no text"),
        ("a.jsonl", b'["text"]\n', "is no object"),
        ("a.jsonl", b'{"text": "a\xff"}\n', "not UTF-8 at byte 11"),
        ("a.json", b'[{"text": "a"}, {"te', "cannot be read"),
        ("a.json", b'{"text": "a"}', "cannot be read"),
        ("a.json", b'[{"text": "a\xff"}]', "not UTF-8 at byte 12"),
        ("a.csv", b"", "cannot be read"),
        ("a.csv", b"n,words\n1,two\n", "no 'text': it has n, words"),
        ("a.csv", b"n,text\n1,two\n1,2,3,4\n", "cannot be read"),
        ("a.csv", b"n,text\n1,tw\xff\n", "not UTF-8 at byte 11"),
        ("a.parquet", b"PAR1 no", "cannot be read"),
        ("a.pdf", b"%PDF", "nothing to read at"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_with_the_place(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    assert words in told(tmp_path, path=tmp_path / name)


def test_a_missing_path_and_an_empty_folder_are_told(tmp_path):
    assert "no such file or folder" in told(tmp_path, path=tmp_path / "none.txt")
    (tmp_path / "empty").mkdir()
    assert "nothing to read at" in told(tmp_path, path=tmp_path / "empty")
    assert "no such file" in told(tmp_path, "finewebedu", path=tmp_path / "none.txt")


def test_a_column_that_is_missing_from_a_parquet_is_told_with_those_that_are_there(tmp_path):
    source = parquet(tmp_path / "a.parquet", ["a"] * 30)
    words = told(tmp_path, path=source, text_key="content")
    assert "no 'content': it has n, text" in words
    assert "--text_key" in words


def test_empty_documents_are_left_out_and_counted(tmp_path, capsys):
    rows = [*ROWS, "", "  \n", {"text": None}]
    bins = make(tmp_path / "out", path=jsonl(tmp_path / "a.jsonl", rows))
    assert sorted(read(bins, "train") + read(bins, "val")) == sorted(ROWS)
    assert "3 empty documents were left out" in capsys.readouterr().out


def test_a_separator_that_never_occurs_is_told(tmp_path, capsys):
    source = text_file(tmp_path / "a.txt", verse(1, 100))
    make(tmp_path / "out", path=source, separator="###")
    assert "'###' never occurs" in capsys.readouterr().out
    make(tmp_path / "out", path=source, separator="harbour")
    assert "never occurs" not in capsys.readouterr().out


@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
def test_the_name_of_the_special_token_in_a_document_stays_text(tmp_path, tokenizer):
    rows = [f"{verse(i)} {EOT} end" for i in range(25)]
    source = jsonl(tmp_path / "a.jsonl", rows)
    bins = make(tmp_path / "out", path=source, tokenizer=tokenizer, vocab_size=300)
    eot = json.loads((bins / "meta.json").read_text())["eot"]
    for name in ("train", "val"):
        assert (stream(bins, name) == eot).sum() == len(documents(bins, name)) + 1
        assert all(text in rows for text in read(bins, name))


@pytest.mark.parametrize("corpus", ["openwebtext", "tinyshakespeare", "wikitext", "hf", "lambada"])
def test_a_hub_that_cannot_be_reached_is_a_sentence(
    tmp_path, datasets, corpus, monkeypatch, capsys
):
    def refused(*args, **settings):
        raise ConnectionError("Couldn't reach it\n  long story")

    monkeypatch.setattr(datasets, "load_dataset", refused)
    argv = [f"--corpus={corpus}", f"--data_dir={tmp_path}"]
    argv += ["--path=me/mine"] if corpus == "hf" else []
    assert program(corpora.main, CorporaConfig, argv) == 2
    said = capsys.readouterr().err
    assert "Couldn't reach it" in said
    assert "long story" not in said


def test_a_split_or_configuration_that_is_not_there_is_a_sentence(tmp_path):
    jsonl(tmp_path / "hub" / "train.jsonl", ROWS)
    assert "train" in told(tmp_path, "hf", path=tmp_path / "hub", split="tran")
    assert "other" in told(tmp_path, "hf", path=tmp_path / "hub", name="other")


def test_without_the_extra_its_command_is_told(tmp_path, monkeypatch):
    source = parquet(tmp_path / "a.parquet", ROWS)
    for name in ("datasets", "pyarrow"):
        monkeypatch.setitem(sys.modules, name, None)
    for settings in (
        {"corpus": "finewebedu"},
        {"corpus": "hf", "path": "me/mine"},
        {"path": source},
    ):
        assert "pip install -e '.[corpora]'" in told(tmp_path, **settings)
    make(tmp_path / "local", "finewebedu", jsonl(tmp_path / "a.jsonl", ROWS))


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"corpus": "hf"}, "an id of the hub"),
        ({"corpus": "text"}, "a file or a folder"),
        ({"separator": "##"}, "separator"),
        ({"corpus": "hf", "path": "a/b", "separator": "##"}, "separator"),
        ({"val_fraction": 1.0}, "val_fraction"),
        ({"shard_tokens": 0}, "shard_tokens"),
        ({"max_documents": 0}, "max_documents"),
        ({"vocab_size": 256}, "vocab_size"),
    ],
)
def test_impossible_settings_are_told(values, word):
    with pytest.raises(ConfigError, match=word):
        from_values(CorporaConfig, values)


# --- rows for evaluation --------------------------------------------------------------------------

QUESTION = {"ind": 1, "ctx": "A sailor", "endings": ["sleeps.", "sails.", "sinks.", "é."]}


@pytest.mark.parametrize("where", ["file", "folder", "hub"])
def test_hellaswag_and_lambada_lie_where_evaluation_looks(tmp_path, on_hub, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    questions = [QUESTION | {"label": label} for label in ("3", "0")]
    for corpus, rows, split in (
        ("hellaswag", questions, "validation"),
        ("lambada", [{"text": "the end of a tale", "n": 1}], "test"),
    ):
        source = jsonl(tmp_path / corpus / f"{split}.jsonl", rows)
        jsonl(tmp_path / corpus / "train.jsonl", [rows[0], rows[0]])
        path = {"file": source, "folder": source.parent, "hub": None}[where]
        on_hub(corpus, source.parent)
        corpora.main(CorporaConfig(corpus=corpus, path=str(path) if path else None))
    lines = Path("data/hellaswag/val.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    kept = {key: QUESTION[key] for key in ("ctx", "endings")}
    assert found == [kept | {"label": 3}, kept | {"label": 0}]
    assert Path("data/lambada/test.jsonl").read_text() == '{"text": "the end of a tale"}\n'


@pytest.mark.parametrize(
    ("corpus", "rows"),
    [
        ("hellaswag", [QUESTION]),
        ("hellaswag", [QUESTION | {"label": 4}]),
        ("hellaswag", [QUESTION | {"label": ""}]),
        ("hellaswag", [QUESTION | {"label": 1, "ctx": None}]),
        ("lambada", [{"text": "fine"}, {"txt": "not"}]),
        ("lambada", [{"text": 3}]),
        ("lambada", [["text"]]),
        ("lambada", []),
    ],
)
def test_rows_without_their_fields_are_refused_and_the_old_file_stays(tmp_path, corpus, rows):
    there = text_file(tmp_path / "out" / corpora.ROWS[corpus], "old")
    with pytest.raises(DataError, match="row"):
        make(tmp_path / "out", corpus, jsonl(tmp_path / "a.jsonl", rows))
    assert there.read_text() == "old"
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_a_comma_at_the_end_of_every_row_shifts_no_column(tmp_path):
    rows = "".join(f"This is text number {i},19{i},\n" for i in range(10, 40))
    (tmp_path / "a.csv").write_text(f"text,year\n{rows}", encoding="utf-8")
    found = [row["text"] for row in texts.rows_of(tmp_path / "a.csv")]
    assert found == [f"This is text number {i}" for i in range(10, 40)]


def test_bins_of_songs_are_replaced_only_by_force(tmp_path):
    (tmp_path / "char").mkdir()
    (tmp_path / "char" / "binarize.manifest.json").write_text("{}")
    (tmp_path / "t.txt").write_text("the tide comes in " * 50)
    config = CorporaConfig(corpus="text", path=str(tmp_path / "t.txt"), data_dir=str(tmp_path))
    with pytest.raises(DataError, match="the bins of songs"):
        corpora.main(config)
    assert not corpora.main(replace(config, force=True)).skipped


def test_a_csv_with_a_column_of_row_numbers_is_read(tmp_path):
    (tmp_path / "a.csv").write_text(",text\n0,the tide\n1,the sea\n", encoding="utf-8")
    assert [row["text"] for row in texts.rows_of(tmp_path / "a.csv")] == ["the tide", "the sea"]
