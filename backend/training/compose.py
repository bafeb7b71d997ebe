"""A song on its way: what its tokens say, what may stand where, and where it ends.

A plan is fixed text and open places, written from left to right:

    start                     [text, Open("song")]
    --structure               ["[Verse 1]\\n", Open("section"), "\\n\\n[Chorus]\\n", ...]
    --keep of a song's lines  ["[Verse 1]\\nkept\\n", Open("line"), "\\nkept", ...]

What may not stand is taken back, and the token that began it is not drawn there again: an end that
comes too early, an empty section, and words, as soon as they are whole: banned ones, runs of words
that stood in the song before, runs that stood in a training song. Milder wishes, that some words be
rarer or more frequent, are spread over their letters (`word_bias`). All of that is about words,
whatever the tokens are.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch

from backend.data.sections import section, sung_lines
from backend.data.song import HEADER
from backend.data.tokenizers import Tokenizer
from backend.evaluation.lyrics import stanzas
from backend.evaluation.novelty import WORD
from backend.models.generation import Row

SECTION_LINES = 16  # a section that goes on is ended here
RECENT = 64  # words that the penalties look back
SHUT = 64  # ids forbidden at one place before what comes is let stand
HEADER_LINE = re.compile(rf"(?:{'|'.join(HEADER)}): [^\n]*\n")


@dataclass(frozen=True)
class Open:
    """A place that the model fills. It begins a line, but for what `start` has said of one."""

    upto: Literal["song", "section", "line"]
    lines: int | None = None  # exactly so many sung lines; of a song, with those of the start
    stanzas: int | None = None  # of a song: exactly so many


@dataclass(frozen=True)
class Again:
    """What was written in an earlier open place of the plan, by its number."""

    place: int


Plan = Sequence[str | Open | Again]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What holds for words, in normalized form."""

    stop: Sequence[str] = ()  # a song ends before these
    banned: Sequence[Sequence[str]] = ()  # words, or runs of them
    no_repeat: int | None = None  # no run of so many words stands twice
    copied: Callable[[Sequence[str]], bool] | None = None  # does a run stand in a training song?
    max_copy: int | None = None  # the longest run that may
    repetition: float = 1.0  # each time that a word stood makes it so many times less likely
    presence: float = 0.0  # nats that a word loses once it stood
    bias: Mapping[str, float] = field(default_factory=dict)  # nats that a word gains


# --- words and tokens -----------------------------------------------------------------------------


class Spelling:
    """A model's tokens as text."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.tokenizer, self.vocab_size = tokenizer, vocab_size
        # a model of nanoGPT's own characters knows neither end of text nor unknown
        self.eot = tokenizer.eot if tokenizer.eot < vocab_size else None

    def encode(self, text: str) -> list[int]:
        """Ids of a text as the model reads it: what it never saw as its nearest."""
        ids = self.tokenizer.encode(self.tokenizer.nearest(text)).tolist()
        return [i for i in ids if i < self.vocab_size]

    @cached_property
    def ids(self) -> Mapping[str, list[int]]:
        """Text in lower case -> the ids that say it."""
        found = defaultdict(list)
        for i in range(min(self.vocab_size, self.tokenizer.vocab_size)):
            if i != self.eot:
                found[self.tokenizer.decode([i]).casefold()].append(i)
        return found

    @cached_property
    def ends_word(self) -> torch.Tensor:
        """(V,) which tokens do not go on with a word."""
        ends = torch.ones(self.vocab_size, dtype=torch.bool)
        for text, ids in self.ids.items():
            ends[ids] = not _in_word(text[:1])
        return ends


def _in_word(c: str) -> bool:
    return c.isalnum() or c in ("'", "’")


def word_bias(begun: str, change: Mapping[str, float], spelling: Spelling) -> torch.Tensor:
    """What is added to logits so that words become likelier or rarer, as a whole: (V,) in nats.

    The change of a word is spread over its letters and its end, each with twice as much as the one
    before, so that `the` is rarer but other words with t are hardly. Where several words go on
    alike, the largest change counts.

    Args:
        begun: letters of the unfinished word at the end of the text, perhaps none.
        change: word -> nats.
    """
    at: dict[int, float] = {}  # id -> change
    after: dict[int, float] = {}  # of ids that begin with a space

    def put(into: dict[int, float], text: str, value: float) -> None:
        for i in spelling.ids.get(text, ()):
            into[i] = max(into.get(i, 0.0), value, key=abs)

    for word, nats in change.items():
        whole = 2 ** (len(word) + 1) - 1
        for k in range(1, len(word) + 1):
            part = nats * ((2**k - 1) / whole)
            if not begun:
                put(at, word[:k], part)
            elif k > len(begun) and word.startswith(begun):
                put(at, word[len(begun) : k], part - nats * ((2 ** len(begun) - 1) / whole))
            put(after, f" {word[:k]}", part)
    bias = torch.zeros(spelling.vocab_size)
    for ids in (at, after):
        if ids:
            bias[list(ids)] = torch.tensor(list(ids.values()))
    if begun in change:
        ended = 2 ** len(begun) / (2 ** (len(begun) + 1) - 1)
        bias[spelling.ends_word] += change[begun] * ended
    return bias


# --- the draft ------------------------------------------------------------------------------------


class Draft:
    """One song being written by its plan: `take` each token of its row, until the row is done or
    has no tokens left.

    Args:
        front: ids before the song, which stay in the context: end-of-text and header.
        headed: a header stands in front, so that the model writes none of its own.
        left: tokens that may be drawn.
    """

    def __init__(
        self,
        plan: Plan,
        rules: Rules,
        spelling: Spelling,
        *,
        front: Sequence[int],
        headed: bool,
        seed: int,
        left: int,
    ) -> None:
        self.rules, self.spelling = rules, spelling
        self.front, self._headed = len(front), headed
        self.row = Row([*front], seed, left, keep=self.front)
        self.text = ""
        self.body: int | None = 0 if headed else None  # where a header of the model's own ends
        self.finish: Literal["end", "length", "lines"] = "length"
        self.refused: Counter[str] = Counter()  # why -> how often something was taken back
        self.words: list[str] = []  # the whole ones so far
        self._ends: list[int] = []  # where each ends
        self._judged = 0  # up to here of the text
        self._told = 0  # up to here `fresh` has given it out
        self._pending: list[int] = []  # ids of half a character
        # of each token drawn in this place: length of the text and pending ids before it
        self._marks: list[tuple[int, list[int]]] = []
        self._plan, self._written = iter(plan), list[str]()  # texts of the open places
        self._go_on("")

    @property
    def over(self) -> bool:
        return self.row.done or self.row.left <= 0

    def fresh(self) -> str:
        """What has come to the song since the last call and will not be taken back."""
        if self.body is None and not self.over:
            return ""
        sure = len(self.text)
        if not self.over:
            line = self.text.rfind("\n") + 1
            may_be_header = any(f"{key}: ".startswith(self.text[line:]) for key in HEADER)
            sure = line if may_be_header else self._begun()
            sure -= max((len(stop) for stop in self.rules.stop), default=0)
            sure = len(self.text[: max(sure, 0)].rstrip())
        self._told = max(self._told, self.body or 0)
        new = self.text[self._told : sure]
        self._told += len(new)
        return new

    def take(self, token: int) -> None:
        """The token that was just put to the row."""
        before = len(self.text)
        self._marks.append((before, [*self._pending]))
        at_end = token == self.spelling.eot
        if not at_end:
            self._pending.append(token)
            piece = self.spelling.tokenizer.decode(self._pending)
            if piece.endswith("\ufffd") and len(self._pending) < 4:
                return  # half a character
            self.text += piece
            self._pending = []
        if self.body is None:
            self.body = _header_end(self.text + "\n" * at_end)
            if self.body is None:
                if not at_end:
                    return
                self.body = 0
            self._judged = self.body
        line = self.text.rfind("\n") + 1
        inside = line > self.body or self._headed
        # a model whose end was refused begins another song
        header = inside and HEADER_LINE.match(self.text[line:] + "\n")
        if header and self._refuse_from(line, "header lines"):
            return
        if self._judge(at_end):
            if at_end:
                self._end_of_text()
            else:
                self._look_for_an_end(before)
            self._wish()

    # --- words

    def _begun(self) -> int:
        """Where the unfinished word at the end of the text begins."""
        at = len(self.text)
        while at and _in_word(self.text[at - 1]):
            at -= 1
        return at

    def _judge(self, at_end: bool = False, *, said: bool = False) -> bool:
        """Take the words that are whole by now; False where one was taken back. What is said, not
        drawn, is not judged."""
        end = len(self.text) if at_end else self._begun()
        if end <= self._judged:
            return True
        line = self.text.rfind("\n", 0, self._judged) + 1
        for match in WORD.finditer(self.text, line, end):
            in_header = self.text.startswith("[", self.text.rfind("\n", 0, match.start()) + 1)
            if match.end() <= self._judged or in_header:
                continue
            word = match[0].casefold().replace("’", "'")
            why = None if said else self._objection(word)
            if why and self._refuse_from(match.start(), why):
                return False
            self.words.append(word)
            self._ends.append(match.end())
            self._judged = match.end()
        self._judged = end
        return True

    def _objection(self, word: str) -> str | None:
        """Why the word may not follow those before it."""
        rules, said = self.rules, [*self.words, word]
        if any(said[-len(run) :] == [*run] for run in rules.banned):
            return "banned words"
        n = rules.no_repeat
        if n and any(said[i : i + n] == said[-n:] for i in range(len(said) - n)):
            return "words that stood before"
        n = rules.max_copy
        if n and rules.copied and len(said) > n and rules.copied(said[-n - 1 :]):
            return "words of a training song"
        return None

    def _wish(self) -> None:
        """The bias of the next token, by the words so far."""
        rules = self.rules
        change = dict(rules.bias)
        if rules.repetition != 1 or rules.presence:
            for word, n in Counter(self.words[-RECENT:]).items():
                cost = n * math.log(rules.repetition) + rules.presence
                change[word] = change.get(word, 0.0) - cost
        if change and not self.over:
            begun = self.text[self._begun() :].casefold()
            self.row.bias = word_bias(begun, change, self.spelling)

    # --- ends

    def _end_of_text(self) -> None:
        """The model ended the song; in a section, that section."""
        if self._lacks(self.text[self._start :]):
            self._refuse(1, "ends that came too early")
        elif self._place.upto == "song":
            self.finish, self.row.done = "end", True
        else:
            self._close(len(self.text))

    def _look_for_an_end(self, before: int) -> None:
        """End the song, or this place in it, where it is time; what ends too early is taken back.

        before: length of the text before the newest token.
        """
        place, start = self._place, self._start
        for stop in self.rules.stop:
            at = self.text.find(stop, max(start, before - len(stop) + 1))
            if at >= 0:
                self._cut(at)
                self.finish, self.row.done = "end", True
                return
        here, new = self.text[start:], self.text[before:]
        if "\n" not in new and "[" not in new:
            return
        whole = here[: here.rfind("\n") + 1]  # lines
        ended = re.search(r"(?:\A|\n)[^\S\n]*\n|(?:\A|\n)(?=\[)", here)  # by a blank line or header
        if place.upto == "song":
            blank, end = self.text.endswith("\n\n"), self.text.endswith("\n")
            enough = end and place.lines and len(self._sung(whole)) >= place.lines
            if enough or (place.stanzas and blank and self._stanzas() >= place.stanzas):
                self._cut(len(self.text.rstrip()))
                self.finish, self.row.done = "lines", True
        elif place.upto == "line":
            if not here.strip() or here[0] == "[":
                self._refuse(1, "empty lines")
            elif "\n" in here:
                self._close(start + here.index("\n"))
        elif ended and self._lacks(here[: ended.start()]):
            self._refuse(1, "ends that came too early")
        elif ended or len(lines_of(whole)) >= (place.lines or SECTION_LINES):
            self._close(start + len((here[: ended.start()] if ended else whole).rstrip()))

    def _lacks(self, here: str) -> bool:
        """Is this place, with so much in it, short of what was asked for, or empty?"""
        place = self._place
        if place.upto == "song":
            lines = len(self._sung(here))
            return lines < (place.lines or 1) or self._stanzas() < (place.stanzas or 0)
        return len(lines_of(here)) < (place.lines or 1)

    def _sung(self, here: str) -> list[str]:
        """Lines of the song with so much of this place."""
        return lines_of(self.text[self.body or 0 : self._start] + here)

    def _stanzas(self) -> int:
        return len(stanzas(self.text[self.body or 0 :]))

    # --- taking back, and going on

    def _refuse_from(self, at: int, why: str) -> bool:
        """Take back the token in which the text at `at` begins, and all after it. False where none
        of this was drawn, or where so much was refused that what comes must do."""
        after = sum(1 for length, _ in self._marks if length > at)
        n = min(after + 1, len(self._marks))
        if not n or len(self.row.forbidden.get(len(self.row.ids) - n, ())) >= SHUT:
            return False
        self._refuse(n, why)
        return True

    def _refuse(self, n: int, why: str) -> None:
        """Take back n tokens, and do not draw the first of them there again."""
        self.refused[why] += 1
        token = self.row.ids[-n]
        self._take_back(n)
        self.row.forbidden.setdefault(len(self.row.ids), set()).add(token)
        self._wish()

    def _take_back(self, n: int) -> None:
        self.row.take_back(n)
        length, self._pending = self._marks[-n]
        self.text = self.text[:length]
        del self._marks[-n:]
        begun = self._begun()  # without what ended it, a word may go on
        self._judged = min(self._judged, begun)
        while self._ends and self._ends[-1] > begun:
            self._ends.pop()
            self.words.pop()

    def _cut(self, at: int) -> str:
        """The text ends at `at`, and what tokens say behind it is taken back. Returns what they had
        said before it, which has to be said again."""
        text = self.text[:at]
        starts = [length for length, _ in self._marks]
        ends = [*starts[1:], len(self.text)]
        # the end of text, and half a character, say nothing: they begin and end there
        behind = sum(e > at or s >= at for s, e in zip(starts, ends, strict=False))
        if behind:
            self._take_back(behind)
        lost, self.text = text[len(self.text) :], text
        self._judge(at_end=True, said=True)  # the last word was judged while its end still stood
        return lost

    def _close(self, at: int) -> None:
        """This place is filled, up to `at`."""
        lost = self._cut(at)
        self._written.append(self.text[self._start :])
        self._go_on(lost)

    def _go_on(self, lost: str) -> None:
        """Say what is fixed, up to the next open place or the end."""
        said = ""
        for part in self._plan:
            if isinstance(part, Open):
                self._place = part
                break
            said += self._written[part.place] if isinstance(part, Again) else part
        else:
            self.finish, self.row.done = "end", True
        self.text += said
        self.row.say(self.spelling.encode(lost + said))
        self._marks, self._pending, self._start = [], [], len(self.text)
        if self.body is None and said:
            self.body = _header_end(self.text)
            self._judged = self.body or 0
        if self.body is not None:
            self._judge(self.row.done, said=True)
        self._wish()


def lines_of(text: str) -> list[str]:
    """What is sung, without lines of white space."""
    return [line for line in sung_lines(text) if line.strip()]


def _header_end(text: str) -> int | None:
    """Where the header ends that the model may write first: 0 where it writes none, None where that
    is still open."""
    end = 0
    while match := HEADER_LINE.match(text, end):
        end = match.end()
    rest = text[end:]
    if any(f"{key}: ".startswith(rest) or rest.startswith(f"{key}: ") for key in HEADER):
        return None
    return end + 1 if end and rest[0] == "\n" else 0


# --- plans ----------------------------------------------------------------------------------------

REPEATED = {"Chorus", "Pre-Chorus", "Post-Chorus", "Refrain", "Hook"}


def sections(structure: str) -> list[str]:
    """The headers of `Verse 1, Chorus, Strophe 2`, in the form of the training songs."""
    names = [name.strip().strip("[]") for name in structure.split(",") if name.strip()]
    found = [(name, section(f"[{name}]")) for name in names]
    return [each.header if each else f"[{name}]" for name, each in found]


def by_sections(headers: Sequence[str], start: str, lines: int | None) -> list[str | Open | Again]:
    """A song of these sections. What repeats by its nature, as a chorus, is written once."""
    plan: list[str | Open | Again] = []
    written: dict[str, int] = {}  # header -> number of its place
    n = 0
    for header in headers:
        plan.append(("\n\n" if plan else "") + header)
        found = section(header)
        names = found.names if found else ()
        if any("Solo" in name or "Instrumental" in name for name in names):
            continue  # nobody sings
        plan.append("\n" + (start if not n else ""))
        if header in written:
            plan.append(Again(written[header]))
            continue
        plan.append(Open("section", lines))
        if REPEATED.intersection(names):
            written[header] = n
        n += 1
    return plan


def around(text: str, keep: Collection[int]) -> list[str | Open | Again]:
    """The same song with other lines in place of those that are not kept, which are numbered from
    1 without blank lines and headers."""
    plan: list[str | Open | Again] = []
    number = 0
    for line in text.split("\n"):
        number += bool(lines_of(line))
        kept = not lines_of(line) or number in keep
        plan += ["\n"] * bool(plan) + [line if kept else Open("line")]
    return plan
