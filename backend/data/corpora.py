"""Corpora: texts of the Hugging Face hub or of files -> token ids on disk.

    python -m backend.data.corpora --corpus=tinyshakespeare
    python -m backend.data.corpora --corpus=text --path=novels/ --tokenizer=gpt2

Streams a corpus of the hub (extra `corpora`), or .txt, .jsonl, .json, .csv and .parquet files.
Writes data/<corpus>/{char,gpt2,bpe4096}/ as backend/data/bins.py describes, in shards; hellaswag
and lambada become data/hellaswag/val.jsonl and data/lambada/test.jsonl. What a kill stopped is
taken up again.
"""

import itertools
import json
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from backend.config.loader import program
from backend.config.schema import CorporaConfig
from backend.data import tokenizers
from backend.data.bins import Bins, Document, Writer, discard, kept_state, restore
from backend.data.holdout import Parts, Place, Plan, Sided, bar, divided, planned
from backend.data.texts import Corpus, files_at
from backend.errors import DataError
from backend.storage import Stage, Summary, alone, atomic_write

VERSION = 1
CHECKPOINT_S = 30.0  # seconds of work that a kill may cost
BATCH = 2**22  # characters that are encoded together

SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/"
CORPORA = {
    "tinyshakespeare": Corpus(f"{SHAKESPEARE}input.txt", split_by="contiguous"),
    "tinystories": Corpus(
        "roneneldan/TinyStories",
        val_split="validation",
        split_by="own",
        separator=tokenizers.END_OF_TEXT,
    ),
    "openwebtext": Corpus(
        "Skylion007/openwebtext", split_by="shuffled", val_fraction=0.0005, seed=2357
    ),
    "finewebedu": Corpus("HuggingFaceFW/fineweb-edu", "sample-10BT", val_fraction=0.01),
    "wikitext": Corpus(
        "Salesforce/wikitext",
        "wikitext-103-raw-v1",
        val_split="validation",
        split_by="own",
        articles=True,
    ),
    "hf": Corpus(),
    "text": Corpus(),
    "hellaswag": Corpus("Rowan/hellaswag", split="validation"),
    "lambada": Corpus("EleutherAI/lambada_openai", "default", split="test"),
}
ROWS = {"hellaswag": "val.jsonl", "lambada": "test.jsonl"}  # no bins


def main(config: CorporaConfig) -> Summary:
    data_dir = Path(config.data_dir or f"data/{_name(config)}")
    data_dir.mkdir(parents=True, exist_ok=True)
    with alone(data_dir):
        return _make(config, data_dir)


def _make(config: CorporaConfig, data_dir: Path) -> Summary:
    corpus = _corpus(config)
    path = Path(config.path) if config.path else None
    files = files_at(path) if path and (config.corpus != "hf" or path.exists()) else []
    size = str(config.vocab_size) if config.tokenizer == "bpe" else ""
    folder = data_dir if config.corpus in ROWS else data_dir / f"{config.tokenizer}{size}"
    restore(folder)
    hidden = ("force", "data_dir", "path" if files else "")
    settings = {k: v for k, v in config.as_dict().items() if k not in hidden}
    settings["vocab_size"] = size
    stage = Stage("corpora", VERSION, folder, settings=settings, inputs=files)
    if not config.force and (done := stage.unchanged()):
        discard(folder)
        print(done.line())
        return done
    if not config.force and (folder / "binarize.manifest.json").is_file():
        raise DataError(
            f"{folder} holds the bins of songs", mend="another --data_dir; --force replaces them"
        )

    parts = _parts(config, corpus, files)
    if config.corpus in ROWS:
        return _write_rows(config, corpus.rows(parts[""]), stage)
    stamps = {str(path.resolve()): stamp for path, stamp in stage.inputs.items()}
    fingerprint = json.dumps([VERSION, stage.settings, stamps])
    kept = None if config.force else kept_state(folder)
    if kept and (kept[0] or {}).get("fingerprint") == fingerprint:
        plan, tokenizer = Plan(**kept[0]["plan"]), kept[1]
    else:
        discard(folder)
        plan, tokenizer = planned(corpus, parts, config.tokenizer, config.vocab_size)
    writer = Writer(folder, tokenizer, config.shard_tokens, resumable=True)
    state = {"fingerprint": fingerprint, "plan": asdict(plan)}
    place = Place()
    if writer.state:
        place = Place(*writer.state["place"])
        print(f"taking up at document {place.row + 1:,}")
    else:
        writer.checkpoint({**state, "place": place})
    end = _write(writer, divided(corpus, plan, parts, place), state, place)

    train, val = writer.counts["train"], writer.counts["val"]
    if not (train.chars and val.chars):
        discard(folder)
        raise DataError(
            f"{train.songs + val.songs:,} documents of {train.chars + val.chars:,} characters "
            f"leave nothing to {'validate with' if train.chars else 'train on'}",
            mend="more text, or another --val_fraction",
        )
    outputs = writer.publish(
        {
            "split_by": plan.split_by,
            "val_fraction": None if plan.split_by == "own" else plan.val_fraction,
            "seed": corpus.seed,
            "source_sha256": stage.sha256(files[0]) if len(files) == 1 else None,
        }
    )
    notes, last = list(plan.notes), list(parts.values())[-1]
    if corpus.separator and isinstance(last, list) and end.row <= len(last):
        notes.append(f"the separator {corpus.separator!r} never occurs: a file is one document")
    if end.empty:
        notes.append(f"{end.empty:,} empty documents were left out")
    counts = {
        "documents to train on": train.songs,
        "held out": val.songs,
        "tokens": train.tokens + val.tokens,
        "in the vocabulary": tokenizer.vocab_size,
    }
    summary = stage.finish(outputs, counts, notes)
    print("\n".join([summary.line(), *(f"  note: {note}" for note in notes)]))
    print(Bins.open(str(folder)).excerpts())
    return summary


def _corpus(config: CorporaConfig) -> Corpus:
    """The one of the table, with what the settings say otherwise."""
    known = CORPORA[config.corpus]
    if config.corpus == "hf":
        known = replace(known, hub=config.path or "", split=config.split)
    return replace(
        known,
        name=config.name or known.name,
        val_fraction=config.val_fraction or known.val_fraction,
        val_fraction_of_few=config.val_fraction or known.val_fraction_of_few,
        seed=known.seed if config.seed is None else config.seed,
        key=config.text_key,
        separator=config.separator or known.separator,
        limit=config.max_documents,
    )


def _name(config: CorporaConfig) -> str:
    """Of the folder below data/."""
    if config.path and config.corpus == "text":
        return Path(config.path).resolve().stem
    return Path(config.path).name if config.path and config.corpus == "hf" else config.corpus


def _parts(config: CorporaConfig, corpus: Corpus, files: list[Path]) -> Parts:
    """What is read, in this order: "" is divided, train and val are the corpus' own."""
    if not files or config.corpus == "hf":
        if corpus.val_split:
            return {"train": corpus.split, "val": corpus.val_split}
        return {"": corpus.split}
    train = [f for f in files if "train" in f.name.lower()]
    val = [f for f in files if "val" in f.name.lower() and f not in train]
    if corpus.split_by == "own" and train and val:
        return {"train": train, "val": val}
    if config.corpus in ROWS:  # of a folder with all splits, the one
        return {"": [f for f in files if corpus.split[:3] in f.name.lower()] or files}
    return {"": files}


def _write(
    writer: Writer,
    stream: Iterable[tuple[Place, list[Sided]]],
    state: Mapping[str, Any],
    place: Place,
) -> Place:
    """All documents after `place` into the writer, large ones piece by piece; returns the end."""
    documents: list[Document] = []
    more: list[str] = []  # of the last document
    waiting, saved, side = 0, time.monotonic(), ""

    def flush() -> None:
        if documents:
            writer.add(documents)
        if more:
            writer.add_to_last(side, more)
        documents.clear()
        more.clear()

    with bar(desc="writing") as progress:
        for place, texts in stream:
            for to, new, text in texts:
                if new and more:
                    flush()
                if new:
                    documents.append(Document(to, "", text))
                else:
                    more.append(text)
                side = to
                waiting += len(text)
            if waiting >= BATCH:
                flush()
                progress.update(waiting)
                waiting = 0
                if time.monotonic() - saved >= CHECKPOINT_S:
                    writer.checkpoint({**state, "place": place})
                    saved = time.monotonic()
        flush()
    return place


# --- rows for evaluation --------------------------------------------------------------------------


def _write_rows(config: CorporaConfig, rows: Iterable[Any], stage: Stage) -> Summary:
    """HellaSwag's or LAMBADA's rows with the fields that evaluation reads.

    Raises:
        DataError: a row lacks one, or there is no row.
    """
    path, number = stage.folder / ROWS[config.corpus], 0
    with atomic_write(path) as file:
        for number, row in enumerate(itertools.islice(rows, config.max_documents), 1):
            try:
                kept = _hellaswag(row) if config.corpus == "hellaswag" else {"text": row["text"]}
                if not all(isinstance(kept[key], str) for key in ("ctx", "text") if key in kept):
                    raise TypeError
            except (KeyError, TypeError, ValueError):
                need = "ctx, endings and label" if config.corpus == "hellaswag" else "text"
                raise DataError(
                    f"row {number:,} of {config.path or config.corpus} is none of "
                    f"{config.corpus}'s: it needs {need}",
                ) from None
            file.write(json.dumps(kept, ensure_ascii=False) + "\n")
        if not number:
            raise DataError(f"no rows in {config.path or config.corpus}")
    summary = stage.finish([path], {"rows": number})
    print(summary.line())
    return summary


def _hellaswag(row: Mapping[str, Any]) -> dict[str, Any]:
    endings, label = [str(ending) for ending in row["endings"]], int(row["label"])
    if not 0 <= label < len(endings):
        raise ValueError
    return {"ctx": row["ctx"], "endings": endings, "label": label}


if __name__ == "__main__":
    sys.exit(program(main, CorporaConfig))
