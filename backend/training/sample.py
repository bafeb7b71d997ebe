"""Sample: a trained model -> songs on the screen and in out/<run>/lyrics/.

    python -m backend.training.sample --out_dir=out/demo --start="I walk the road" --num_samples=3

Reads a checkpoint and the tokenizer beside it. Writes lyrics/<time>-<seed>.txt and .jsonl, never
over older ones, with everything needed to make the same songs again. The same settings on the same
checkpoint give the same songs: then they are shown again rather than written twice.
"""

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from backend.config.loader import program
from backend.config.schema import SampleConfig
from backend.data.song import header, split_header
from backend.errors import ConfigError
from backend.models import checkpoint
from backend.models.generation import Sampling, complete
from backend.runtime import detect
from backend.storage import Stage, Summary, atomic_write, sha256

VERSION = 1


def main(config: SampleConfig) -> Summary:
    runtime = detect(device=config.device, dtype=config.dtype)
    source = checkpoint.named(config.init_from, config.out_dir, config.checkpoint)
    run = checkpoint.home(source, config.out_dir)
    print(f"model:   {source}")
    for key, text in (("start", config.start), ("artist", config.artist), ("title", config.title)):
        if text and text.encode("utf-8", "replace").decode() != text:  # half a surrogate pair
            raise ConfigError(
                f"{key} holds a byte that is no UTF-8", mend="--start=FILE:prompt.txt"
            )
    start = _start(config)
    settings = config.as_dict() | {"start": start, "out_dir": None, "init_from": None}
    stage = Stage(
        "sample",
        VERSION,
        run / "lyrics",
        settings=settings,
        inputs=checkpoint.inputs(source),
    )
    if done := stage.unchanged():
        path = done.folder / done.counts["file"]
        print(path.read_text(encoding="utf-8") + done.line())
        return done

    tokenizer = checkpoint.load_tokenizer(source)
    model = checkpoint.load_model(source, runtime.device)
    fields = {"artist": config.artist or "", "title": config.title or ""}
    head = header(fields)
    # a model of nanoGPT's own characters knows neither end of text nor unknown
    eot = tokenizer.eot if tokenizer.eot < model.vocab_size else None
    if unseen := tokenizer.unseen(head + start):
        lost = "left out" if eot is None else "read as unknown"
        read = {c: tokenizer.nearest(c) for c in unseen}
        become = (f"{c!r} is {lost if read[c] == c else f'read as {read[c]!r}'}" for c in unseen)
        print(f"note: the model never saw some characters: {', '.join(become)}")

    def known(text: str) -> list[int]:
        ids = tokenizer.encode(tokenizer.nearest(text)).tolist()
        return [i for i in ids if i < model.vocab_size]

    opening = [eot] if eot is not None else known("\n") or [0]
    front = [*opening, *known(head)]
    prompt = [*front, *known(start)]
    compiled: Any = torch.compile(model) if config.compile is True else model
    seeds = [config.seed + i for i in range(config.num_samples)]
    with runtime.autocast():
        songs = complete(
            compiled,
            prompt,
            Sampling(
                temperature=config.temperature,
                top_k=config.top_k,
                never=[
                    *(i for i in tokenizer.never_sampled() if i < model.vocab_size),
                    *range(tokenizer.vocab_size, model.vocab_size),  # ids that no text has
                ],
            ),
            eot=eot,
            seeds=seeds,
            keep=len(front),
            max_new_tokens=config.max_new_tokens,
        )

    digest = sha256(source.files[0])
    rows = []
    for seed, (ids, finish) in zip(seeds, songs, strict=True):
        own, song = split_header(head + start + tokenizer.decode(ids))
        rows.append(
            {
                "id": f"{run.name}-{source.step}-{seed}",
                "text": song,
                "prompt": head + start,
                "artist": own.get("artist"),
                "title": own.get("title"),
                "structure": None,
                "settings": settings,
                "seed": seed,
                "checkpoint": str(source.path),
                "checkpoint_sha256": digest,
                "finish": finish,
                "novelty": None,
                "quality": None,
            }
        )
    text = "\n".join(_shown(row) for row in rows)
    name = _free_name(run / "lyrics", f"{datetime.now():%Y%m%d-%H%M%S}-{config.seed}")
    with atomic_write(run / "lyrics" / f"{name}.txt") as file:
        file.write(text)
    with atomic_write(run / "lyrics" / f"{name}.jsonl") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(text)
    outputs = [run / "lyrics" / f"{name}{suffix}" for suffix in (".txt", ".jsonl")]
    counts = {"songs": len(rows), "file": outputs[0].name}
    summary = stage.finish(outputs, counts)
    print(summary.line())
    return summary


def _start(config: SampleConfig) -> str:
    if not config.start.startswith("FILE:"):
        return config.start
    path = Path(config.start.removeprefix("FILE:"))
    try:
        return path.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the prompt file {path}: {error}",
            mend='--start="..." takes the text itself',
        ) from None


def _shown(row: dict[str, Any]) -> str:
    """A song as people read it: a head line, the text, a foot line."""
    head = " · ".join(part for part in (row["title"], row["artist"]) if part) or "Untitled"
    foot = f"(seed {row['seed']}{', cut at max_new_tokens' if row['finish'] == 'length' else ''})"
    rule = "─" * 60
    return f"{rule}\n{head}\n{rule}\n{row['text'].strip()}\n\n{foot}\n"


def _free_name(folder: Path, name: str) -> str:
    """`name`, or with a number behind it where two samplings share a second and a seed."""
    taken, n = name, 1
    while (folder / f"{taken}.txt").exists():
        n += 1
        taken = f"{name}-{n}"
    return taken


if __name__ == "__main__":
    sys.exit(program(main, SampleConfig))
