"""What a text says is sung again: [Repeat Chorus], [Chorus] with nothing under it, a line (x2)."""

import re
from typing import Literal

from backend.data.rules import PASSES, clean_text
from backend.data.sections import LONGEST_LINE, Section, fits, opens_stanza, section, stanzas
from backend.data.song import UNKNOWN, About

MOST = 16  # times that one marker repeats
LONGEST = 100_000  # characters that repeats may add up to; beyond, markers are no markers
MARK = r"[(\[](?:[x×] ?\d{1,2}|\d{1,2} ?[x×])[)\]]|(?-i:x)\d{1,2}"  # not Malcolm X, not 2x4
AT_END = re.compile(rf"(.*\S) ({MARK})", re.IGNORECASE)
ALONE = re.compile(rf"{MARK}|\d{{1,2}}x", re.IGNORECASE)
PLAYED = ("Break", "Breakdown", "Drop", "Interlude")  # without words, as are solos


def repeats(text: str, mode: Literal["keep", "expand", "once"], about: About = UNKNOWN) -> str:
    """A cleaned text whose [Repeat Chorus], [Chorus x2] and (x2) are written out or gone."""
    if mode == "keep":
        return text
    for _ in range(PASSES):
        after = _expanded(text) if mode == "expand" else _once(text)
        if after == text or (after := clean_text(after, about).text) == text:
            break
        text = after
    return text


def _once(text: str) -> str:
    lines = text.split("\n")
    kept: list[str] = []
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        found = section(line) if line[:1] == "[" else None
        if found:
            if found.repeat or not below or below[0] == "[" and section(below):
                continue
            line = found._replace(times=1).header
        elif fits(ALONE, line):
            continue
        while len(line) <= LONGEST_LINE and (match := AT_END.fullmatch(line)):
            line = match[1]
        kept.append(line)
    return stanzas("\n".join(kept))


def _expanded(text: str) -> str:
    written: list[list[str]] = []  # stanzas, each with its header
    words: list[str] = []  # of the stanza before, without its header
    known: dict[tuple[tuple[str, ...], int | None], list[str]] = {}
    size = 0

    def write(header: list[str], body: list[str], times: int) -> None:
        nonlocal words, size
        times = min(times, MOST)
        size += times * sum(map(len, header + body))
        if size <= len(text) + LONGEST:
            written.extend([header + body] * times)
        words = body or words

    def close(head: Section | None, body: list[str]) -> None:
        if head is None:
            if body:
                write([], body, 1)
            return
        name = head.names[0]
        wordless = name in PLAYED or name.endswith("Solo") or name.startswith("Instrumental")
        if not body and not wordless:
            body = known.get((head.names, head.number), [])
        if not body:
            write([head.header], [], 1)
            return
        known[head.names, head.number] = known[head.names, None] = body
        write([head._replace(times=1).header], body, head.times)

    for block in text.split("\n\n"):
        lines = block.split("\n")
        head = section(lines[0]) if opens_stanza(lines[0]) else None
        body: list[str] = []
        for line in lines[1:] if head else lines:
            found = section(line) if line[:1] == "[" else None
            alone = fits(ALONE, line)
            if not found and not alone:
                match = AT_END.fullmatch(line) if len(line) <= LONGEST_LINE else None
                body += [match[1]] * min(_count(match[2]), MOST) if match else [line]
                continue
            close(head, body)
            head, body = None, []
            if alone:  # the stanza before, so many times in all
                write([], words, _count(line) - 1) if words else write([line], [], 1)
            elif found and found.names and (again := known.get((found.names, found.number))):
                write([found._replace(times=1, repeat=False).header], again, found.times)
            elif found and not found.names and words:
                write([], words, found.times)
            else:  # nothing to repeat
                write([line], [], 1)
        close(head, body)
    if size > len(text) + LONGEST:
        return text
    return "\n\n".join("\n".join(lines) for lines in written)


def _count(mark: str) -> int:
    return max(1, int(re.sub(r"\D", "", mark)))
