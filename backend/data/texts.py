"""Texts of any length from the Hugging Face hub or from files, in order, never a file whole.

A document comes as (True, text); where it is large as (True, piece), (False, piece), ... with the
pieces cut where no token of GPT-2 spans the cut.
"""

import codecs
import collections
import csv
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.data.song import json_rows
from backend.errors import DataError, first_line

READ = (".txt", ".jsonl", ".json", ".csv", ".parquet")
EXTRA = "pip install -e '.[corpora]'"
LARGE, PIECE = 2**20, 2**14  # characters: a document above LARGE comes in pieces
# GPT-2's words begin at white space and never hold any after another character.
SAFE = re.compile(r"(?<=\S)[ \n]")
Piece = tuple[bool, str]  # does a document begin?, text
Part = str | list[Path]  # a split of the hub, or files


@dataclass(frozen=True)
class Corpus:
    """Where texts are, what one of them is, and what is held out."""

    hub: str = ""  # an id, or the address of a text
    name: str | None = None  # the hub's configuration
    split: str = "train"
    val_split: str | None = None  # its own validation
    split_by: str = "row"  # row | shuffled, as nanoGPT divides openwebtext | contiguous | own
    val_fraction: float = 0.1
    val_fraction_of_few: float = 0.1  # where there are too few documents to divide by row
    seed: int = 1337
    key: str = "text"  # of a row
    separator: str | None = None  # of documents in a .txt
    articles: bool = False  # rows are lines of WikiText
    limit: int | None = None  # documents of each split

    def pieces(self, part: Part, start: int = 0) -> Iterator[Piece]:
        """All documents from piece `start` on.

        Raises:
            DataError: something cannot be read.
        """
        if self.articles:
            rows = self.texts(part, 0)
            yield from itertools.islice(((True, text) for text in _articles(rows)), start, None)
        elif isinstance(part, str):
            yield from ((True, text) for text in self.texts(part, start))
        else:
            all_of_them = itertools.chain.from_iterable(map(self._of_file, part))
            yield from itertools.islice(all_of_them, start, None)

    def texts(self, part: Part, start: int) -> Iterator[str]:
        """Texts of rows from row `start` of a split on, or of all rows and lines of files."""
        if isinstance(part, str):
            yield from _texts(self.rows(part, start), self.key, self.hub, start)
        else:
            for path in part:
                rows = _lines(path) if _is_text(path) else self._texts_of(path)
                yield from rows

    def rows(self, part: Part, start: int = 0) -> Iterator[Any]:
        """Rows of a split of the hub, from row `start` on, or of files.

        Raises:
            DataError: the hub cannot be reached, or has no such thing.
        """
        if not isinstance(part, str):
            yield from itertools.chain.from_iterable(map(rows_of, part))
            return
        try:
            yield from self._open(part).skip(start)
        except DataError:
            raise
        except Exception as error:  # noqa: BLE001  whatever a layer of datasets raises
            raise DataError(
                f"cannot read {part} of {self.hub}: {first_line(error)}",
                mend="is the name right, and the network there? a corpus with a name can be read "
                "from a copy: --path=FILE_OR_FOLDER",
            ) from error

    def known_rows(self) -> int:
        """How many rows the hub says there are, up to the limit; 0 where it does not."""
        try:
            facts = (self._open(self.split).info.splits or {}).get(self.split)
        except DataError:
            raise
        except Exception:  # noqa: BLE001  reading will meet it again, and tell
            return 0
        rows = int(facts.num_examples or 0) if facts else 0
        return min(rows, self.limit or rows)

    def _open(self, split: str) -> Any:
        """An IterableDataset: rows come as they are read."""
        try:
            import datasets
        except ImportError:
            raise DataError(
                f"{self.hub} is read with the package datasets, which is not installed",
                mend=f"{EXTRA}; or --path=FILE_OR_FOLDER with a copy of the corpus",
            ) from None
        datasets.disable_progress_bars()
        if "://" in self.hub:  # one text of the web, which datasets 5.2 cannot stream
            web = {"data_files": self.hub, "sample_by": "document"}
            return datasets.load_dataset("text", **web, split=split).to_iterable_dataset()
        return datasets.load_dataset(self.hub, self.name, split=split, streaming=True)

    def _of_file(self, path: Path) -> Iterator[Piece]:
        if _is_text(path):
            return _in_pieces(_split_at(_decoded(path), self.separator))
        return ((True, text) for text in self._texts_of(path))

    def _texts_of(self, path: Path) -> Iterator[str]:
        return _texts(rows_of(path, self.key), self.key, str(path))


def _texts(rows: Iterable[Any], key: str, where: str, before: int = 0) -> Iterator[str]:
    """The text of each row; null is an empty one.

    Raises:
        DataError: a row has none.
    """
    for number, row in enumerate(rows, before + 1):
        if not isinstance(row, dict) or key not in row:
            keys = f"has {', '.join(map(str, row))}" if isinstance(row, dict) else "is no object"
            raise DataError(
                f"{where}, row {number:,} has no {key!r}: it {keys}", mend="--text_key=KEY"
            )
        text = "" if row[key] is None else row[key]
        try:
            text.encode()
        except (AttributeError, UnicodeEncodeError):
            raise DataError(
                f"{where}, row {number:,}: {ascii(text)[:40]} is no text",
                mend="--text_key=KEY, or repair the row",
            ) from None
        yield text


def _articles(lines: Iterable[str]) -> Iterator[str]:
    """Lines of WikiText, with or without their ends, joined; ` = Title = ` begins an article."""
    article: list[str] = []
    for line in itertools.chain(lines, [" = = "]):
        bare = line.rstrip("\n")
        if re.fullmatch(r" = [^=]+ = | = = ", bare):
            if text := "".join(article).strip("\n"):
                yield text
            article = []
        article.append(f"{bare}\n" if bare.strip() else "\n")


# --- files ----------------------------------------------------------------------------------------


def files_at(path: Path) -> list[Path]:
    """The file, or all files of a folder that can be read, in a fixed order.

    Raises:
        DataError: there are none.
    """
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    files = [
        file
        for file in found
        if file.suffix.lower() in READ
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and not file.name.endswith(".manifest.json")
        and not (file.parent / "tokenizer.json").exists()  # bins, or a model
    ]
    if not files:
        what = f"nothing to read at {path}" if path.exists() else f"no such file or folder: {path}"
        raise DataError(what, mend=f"--path=FILE_OR_FOLDER, of {', '.join(READ)}")
    return files


def _is_text(path: Path) -> bool:
    return path.suffix.lower() == ".txt"


def rows_of(path: Path, key: str | None = None) -> Iterator[Any]:
    """Rows of a .jsonl, .json, .csv or .parquet; of a .parquet only column `key`, if it is there.

    Raises:
        DataError: it cannot be read, and where.
    """
    kind, at = path.suffix.lower(), ""
    try:
        if kind == ".jsonl":
            for number, line in enumerate(_lines(path), 1):
                at = f", line {number:,}"
                if line.strip():
                    yield json.loads(line)
        elif kind == ".json":
            with path.open(encoding="utf-8-sig") as file:
                yield from json_rows(file)
        elif kind == ".csv":
            # pandas would take a column for names of rows where rows end in a comma
            csv.field_size_limit(2**31 - 1)
            with path.open(encoding="utf-8-sig", newline="") as file:
                table = csv.DictReader(file, strict=True)
                if not table.fieldnames:
                    raise ValueError("it has no header")
                for row in table:
                    at = f", line {table.line_num:,}"
                    if any(row.pop(None, ())):
                        raise ValueError("more fields than the header names")
                    yield row
        elif kind == ".parquet":
            from pyarrow import parquet

            with parquet.ParquetFile(path) as whole:
                columns = [key] if key in whole.schema_arrow.names else None
                for batch in whole.iter_batches(1000, columns=columns):
                    yield from batch.to_pylist()
        else:
            raise ValueError("a text, where rows are wanted")
    except ImportError:
        raise DataError(
            f"{path} is read with pyarrow, which is not installed", mend=EXTRA
        ) from None
    except UnicodeDecodeError:
        collections.deque(_decoded(path), maxlen=0)  # says which byte
        raise
    except (ValueError, RecursionError, OSError, csv.Error) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise DataError(
            f"{path}{at} cannot be read: {first_line(error)}",
            mend="repair it, or delete what stands there",
        ) from error


def _lines(path: Path) -> Iterator[str]:
    rest = ""
    for chunk in _decoded(path):
        *lines, rest = (rest + chunk).split("\n")
        yield from lines
    yield rest


def _decoded(path: Path) -> Iterator[str]:
    """A text file in chunks, with line ends and a mark of byte order as `open` reads them.

    Raises:
        DataError: it is not UTF-8.
    """
    utf8 = codecs.getincrementaldecoder("utf-8-sig")()
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    end = 0
    with path.open("rb") as file:
        while True:
            block = file.read(2**20)
            end += len(block)
            try:
                yield decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path} is not UTF-8 at byte {end - len(error.object) + error.start:,}",
                    mend="iconv -f WINDOWS-1252 -t UTF-8, or from what it is encoded in",
                ) from None
            if not block:
                return


def _split_at(chunks: Iterable[str], separator: str | None) -> Iterator[Piece]:
    """Documents in fragments, without the separators and the line breaks around them."""
    if not separator:
        yield from ((not i, chunk) for i, chunk in enumerate(chunks))
        return
    new, rest = True, ""
    for chunk in chunks:
        *done, rest = (rest + chunk).split(separator)
        for text in done:
            yield new, (text.lstrip("\n") if new else text).rstrip("\n")
            new = True
        # the end waits: it may be half a separator, or line breaks before one
        sure = rest[: max(0, len(rest) - len(separator) + 1)].rstrip("\n")
        rest = rest[len(sure) :]
        if sure := sure.lstrip("\n") if new else sure:
            yield new, sure
            new = False
    if rest := (rest.lstrip("\n") if new else rest).rstrip("\n"):
        yield new, rest


def _in_pieces(fragments: Iterable[Piece]) -> Iterator[Piece]:
    """The same documents: whole up to LARGE characters, else in pieces of PIECE and a bit more."""
    rest, first, known = "", True, 0  # known: no place to cut before this
    begun = False
    for new, text in itertools.chain(fragments, [(True, "")]):
        if new:
            if begun:
                yield first, rest
            rest, first, known, begun = "", True, 0, True
        rest += text
        at = 0
        while len(rest) - at > LARGE:
            cut = SAFE.search(rest, max(at + PIECE, known))
            if cut is None:
                known = len(rest)
                break
            yield first, rest[at : cut.start()]
            first, at = False, cut.start()
        rest, known = rest[at:], max(0, known - at)
