"""What a run leaves to look at, in Prefect's UI. Each is made of files that the stages wrote: the
UI shows nothing that is not on the disk, and a server that is gone costs pictures, not a run.

    dataset-card      data/<name>/dataset_card.md
    training          progress while it trains, out/<run>/status.json
    loss-curve        out/<run>/report.md with loss.png
    evaluation        out/<run>/evaluation.md
    lyrics            out/<run>/lyrics/<time>-<seed>.jsonl, with how much of it was copied
"""

import base64
import contextvars
import json
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectException

from backend.report import Report

PROGRESS_S = 5.0
GONE = (httpx.HTTPError, PrefectException)  # the server, or what it says to us

logger = logging.getLogger(__name__)


def key(kind: str, name: str) -> str:
    """Versions of one key are a history: one for each corpus and run.

    >>> key("lyrics", "My_Songs")
    'lyrics-my-songs'
    """
    return re.sub(r"[^a-z0-9]+", "-", f"{kind} {name}".lower()).strip("-")


def show(kind: str, name: str, text: str, about: str) -> None:
    """One Markdown artifact of the task or flow that runs now."""
    try:
        create_markdown_artifact(text, key=key(kind, name), description=about)
    except GONE as error:
        logger.warning("no %s in the UI: %s", kind, error)


class Progress:
    """Per cent of something, sent every few seconds by a thread: a server that is slow or gone
    holds up nobody."""

    def __init__(self) -> None:
        self.per_cent = 0.0

    @contextmanager
    def shown(self, name: str) -> Iterator[None]:
        try:
            artifact = cast(UUID, create_progress_artifact(0.0, key("training", name), "Training"))
        except GONE as error:
            logger.warning("no progress in the UI: %s", error)
            yield
            return
        over = threading.Event()

        def send() -> None:
            sent = 0.0
            while not over.wait(PROGRESS_S):
                if self.per_cent != sent:
                    sent = self.per_cent
                    update(sent)

        def update(per_cent: float) -> None:
            try:
                update_progress_artifact(artifact, per_cent)
            except GONE as error:
                logger.warning("progress was not sent: %s", error)

        context = contextvars.copy_context()  # which server, among others
        threading.Thread(target=context.run, args=(send,), daemon=True).start()
        try:
            yield
            update(self.per_cent)
        finally:
            over.set()


def with_pictures(path: Path) -> str:
    """A Markdown file, its pictures in the text itself, so that no host has to serve them; without
    the lines that Hugging Face reads at its head."""
    if not path.is_file():
        return f"There is no {path}."

    def inline(found: re.Match[str]) -> str:
        picture = path.parent / found[1]
        if not picture.is_file():
            return found[0]
        return f"](data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()})"

    text = re.sub(r"\A---\n.*?\n---\n+", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"\]\(([\w-]+\.png)\)", inline, text)


def add_lyrics(report: Report, songs: Path) -> Report:
    """The songs of a .jsonl that sample wrote, each with its novelty."""
    report.section("Songs")
    for line in songs.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        head = " · ".join(part for part in (row["title"], row["artist"]) if part)
        report.prose(f"**{head or 'Untitled'}** (seed {row['seed']}): {novelty(row)}")
        report.verbatim(row["text"].strip())
    return report


def novelty(row: dict[str, Any]) -> str:
    """How much of a song was in the training songs word for word.

    >>> novelty({"novelty": {"longest_words": 4, "song_id": "ab12", "share_5gram": 0.02}})
    'longest run of words from a training song: 4 (ab12); 2 % of its runs of five words are there'
    """
    found = row.get("novelty")
    if not found:
        return "novelty unknown"
    run = f"longest run of words from a training song: {found['longest_words']}"
    if found.get("song_id"):
        run += f" ({found['song_id']})"
    if found.get("share_5gram") is not None:
        run += f"; {100 * found['share_5gram']:.0f} % of its runs of five words are there"
    return run
