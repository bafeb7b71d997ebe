"""Section headers: [Chorus], [Verse 2], in any language, and the stanzas under them.

Names follow Genius's header guide: verses are numbered, [Chorus] and [Refrain] are not the same,
voices stand after a colon. DarkLyrics has no grammar; its headers are brought to theirs.
"""

import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

from backend.data.song import UNKNOWN, About

LONGEST_LINE = 200  # longer lines are prose, which no line pattern looks at: regexes stay linear


class Section(NamedTuple):
    """A section header alone on its line, or a directive to repeat one."""

    names: tuple[str, ...]  # canonical English; two for [Bridge / Chorus], none for [Repeat]
    number: int | None = None
    performers: str = ""
    times: int = 1
    repeat: bool = False  # [Repeat Chorus]: it opens no stanza, it stands for one

    @property
    def header(self) -> str:
        """The normal form: [Verse 2], [Chorus x2], [Bridge / Chorus], [Repeat Chorus]."""
        words = ["Repeat"] * self.repeat + [" / ".join(self.names)] * bool(self.names)
        words += [str(self.number)] * (self.number is not None) + [f"x{self.times}"] * (
            self.times > 1
        )
        return f"[{' '.join(words)}]"


# Genius's names, and what other languages call them; case and accents are folded away.
SECTION_NAMES = """\
Intro: introduction introducción introdução introduzione einleitung вступление интро вступ інтро
    úvod wstęp giriş johdanto bevezető εισαγωγή inledning
Verse: vers verso estrofa estrofe strofa strophe couplet куплет verš zwrotka sloka sloha säkeistö
    verssz versszak στροφή κουπλέ kıta
Pre-Chorus: precoro prérefrão prérefrain preestribillo prehook preritornello prerefren předrefrén
    prerefräng prerefreng preomkvæd предприпев передприспів esikertosäe nakaratöncesi προρεφρέν
Chorus: coro refrão estribillo ritornello refren refrén refräng refreng omkvæd kertosäe nakarat
    припев приспів ρεφρέν chœur koor finalchorus lastchorus kehrvers viðlag
Post-Chorus: postcoro pósrefrão postrefrain postestribillo postrefren postritornello postrefräng
    postrefreng postomkvæd постприпев післяприспів jälkikertosäe
Refrain:
Hook: хук
Bridge: puente ponte pont brücke brug mostek most бридж міст bro brygga silta köprü
    punte γέφυρα
Interlude: interludio zwischenspiel интерлюдия інтерлюдія mezihra välisoitto tussenspel mellanspel
    mellomspill mellemspil közjáték interludiu ιντερλούδιο
Break:
Breakdown: брейкдаун
Drop: дроп
Bass Solo: bassolo solodebajo
Drum Solo: drumsolo schlagzeugsolo trumsolo
Keyboard Solo: synthsolo
Piano Solo: klaviersolo
Solo: соло szóló soolo σόλο
Guitar Solo: gitarrensolo gitarrsolo gitarsolo gitaarsolo kitarasoolo solodeguitarra solodeguitare
    assolodichitarra гитарноесоло sólonakytaru kytarovésólo gitárszóló sologitarowe
Instrumental: instrumentale strumentale инструментал інструментал instrumentaal enstrümantal
Instrumental Intro:
Instrumental Break: instrumentalbridge
Instrumental Outro:
Spoken: spokenword hablado falado parlato parlé gesprochen
Part: parte partie teil часть частина część deel
Skit: скит скіт
Outro: аутро концовка кінцівка zakończenie závěr befejezés çıkış loppusoitto schluss
"""


def _key(name: str) -> str:
    """Letters alone, without case and accents: `Pré-Refrão` and `pre refrao` are one name."""
    return "".join(filter(str.isalpha, unicodedata.normalize("NFKD", name.casefold())))


SECTIONS: dict[str, str] = {}  # key -> canonical name
for _entry in re.split(r"\n(?=\w)", SECTION_NAMES):
    _name, _, _words = _entry.partition(":")
    SECTIONS.update({_key(word): _name for word in [_name, *_words.split()]})
NUMERALS = {
    word: n
    for words in ("i ii iii iv v vi vii viii ix x", "one two three four five six seven eight")
    for n, word in enumerate(words.split(), 1)
}
TIMES = re.compile(r"[(\[]?(?:[x×]\s?(\d{1,2})|(\d{1,2})\s?[x×])[)\]]?", re.IGNORECASE)
HEAD = re.compile(
    r"(?:(\d{1,2})(?:\.|st|nd|rd|th|[aºª°]|ère|e|er|-я|-й|\.ª)?\s*)?"
    r"([^\d#:\[\]()!?\",;]+?)"
    rf"(?:\s*\#?(?:n[or]?[.°º]\s?)?(\d{{1,2}})\.?|\s+({'|'.join(NUMERALS)}))?"
    rf"(?:\s*{TIMES.pattern})?",
    re.IGNORECASE,
)
REPEAT = re.compile(
    r"(?:repeat|repete?|rpt)\b[:.]?\s*(?:the\s)?(.*)|(.+?)\s(?:repeats?|repeated)", re.IGNORECASE
)
# What follows the colon is a name if it looks like one: not in [Outro: fade out].
PERFORMER = re.compile(r"(?!Repeat|Twice|Thrice)[^\W\d_a-z]\S*(\s+\S+){0,7}(?<![?!,;:])$")
ANYBODY = re.compile(  # but [Chorus: 4 times], [Chorus: fading]
    r"(?!Repeat|Twice|Thrice|fad(?:e|ing)\b|\d+ times)[^\s?,;:](?:[^?;]{0,60}[^?,;:])?$",
    re.IGNORECASE,
)
SUNG_BY = {"Verse", "Chorus", "Pre-Chorus", "Post-Chorus", "Refrain", "Hook", "Bridge"}
BALANCED = re.compile(r"[^\[\]]*(?:\[[^\[\]]*\][^\[\]]*)?")
AFTER = re.compile(rf"([^\[\]]+)\]\s*{TIMES.pattern}", re.IGNORECASE)
# Without square brackets these are words like any other.
COMMON = frozenset({"bro", "most", "brug", "break", "drop", "part"})


def section(line: str) -> Section | None:
    """The section header or repeat directive that stands alone on this line, or None."""
    if line[:1] not in ("[", "(") and line[-1:] != ":":
        return None
    return _section(line) if 3 < len(line) <= LONGEST_LINE else None


@lru_cache(maxsize=4096)  # the same few hundred lines in every song
def _section(line: str) -> Section | None:
    if line[0] == "[":
        body = line[1:].rstrip(":").strip()
        if body.endswith("]") and BALANCED.fullmatch(body[:-1]):
            return _inside(body[:-1].strip())
        if after := AFTER.fullmatch(body):  # [Chorus] x2
            found = _inside(after[1].strip())
            return found._replace(times=_times(after[2] or after[3])) if found else None
        found = _inside(body)  # unclosed: then what follows a colon may be sung
        return found if found and not found.performers and "]" not in body else None
    bare = line[1:-1] if line[0] == "(" and line[-1] == ")" else line
    bare = bare.removesuffix(":").strip()
    if "(" in bare[:1] or (line[0] == "(" and line[-1] != ")"):
        return None
    found = _inside(bare)
    plain = found and not found.performers and found.names and _key(bare) not in COMMON
    return found if plain else None


def _inside(text: str) -> Section | None:
    """What stands between the brackets of a header."""
    if directive := REPEAT.fullmatch(text):
        rest = (directive[1] or directive[2] or "").strip()
        times = TIMES.fullmatch(rest)
        if not rest or times:
            return Section((), times=_times(times), repeat=True)
        found = _inside(rest)
        return None if not found or found.repeat else found._replace(repeat=True, performers="")
    head, colon, tail = text.partition(":")
    found = _head(head.strip())
    if not found and not colon:
        head, dash, tail = _split_dash(text)
        found = _head(head) if dash else None
    tail = tail.strip()
    if not found or not tail:
        return found
    if times := TIMES.fullmatch(tail):
        return found._replace(times=_times(times))
    also = _head(tail)
    if also and len(found.names) == 1 and also._replace(names=found.names) == found:
        return found._replace(names=found.names + also.names)  # [Intro: Instrumental]
    tail = re.sub(r"[*_]", "", tail)  # *Ann* and _Bo_ are keys of voices
    # [Spoken: Let there be light] is what is spoken; [Verse 2: 2Pac], [Chorus: both] is who sings
    who = ANYBODY if set(found.names) <= SUNG_BY or found.number is not None else PERFORMER
    if "Spoken" in found.names or not who.match(tail):
        return None
    return found._replace(performers=tail)


def _split_dash(text: str) -> tuple[str, str, str]:
    """`Verse 1 - Ann` as partition would do it; a hyphen without spaces is none."""
    parts = re.split(r"\s[-–—]\s", text, maxsplit=1)
    return (parts[0].strip(), "-", parts[1]) if len(parts) == 2 else (text, "", "")


def _head(text: str) -> Section | None:
    """Names, number and times of a header: `Verse 2`, `1. Strophe`, `Bridge / Chorus x2`."""
    match = HEAD.fullmatch(text)
    if not match or (match[1] and (match[3] or match[4])):
        return None
    words = re.split(r"[/&+]", match[2]) if _key(match[2]) not in SECTIONS else [match[2]]
    names = tuple(SECTIONS.get(_key(word), "") for word in words)
    number = match[1] or match[3]
    value = int(number) if number else NUMERALS.get((match[4] or "").lower())
    if not all(names) or len(names) > 2 or (len(names) == 2 and value is not None):
        return None
    return Section(names, value, times=_times(match[5] or match[6]))


def _times(found: re.Match[str] | str | None) -> int:
    if isinstance(found, re.Match):
        found = found[1] or found[2]
    return max(1, int(found or 1))


# A header without a space on that side; not the [Drop]ped and un[Break]able of an editor.
GLUED = re.compile(
    r"(?<=[^\s\[(])(\[[^\[\]\n]{3,80}\])(?=[\w\[\"'(¿¡]|$)"
    r"|^(\[[^\[\]\n]{3,80}\])(?=[\w\[\"'(¿¡])",
    re.MULTILINE,
)
WORD_END = re.compile(r"(?:s|e?d|p?p?ed|p?p?ing|ers?|ists?|able)\b")


def glued_headers(text: str, about: About = UNKNOWN) -> str:
    """Headers glued to the line before or after them get a line of their own."""
    if "[" not in text:
        return text

    def split(match: re.Match[str]) -> str:
        found = section(match[1] or match[2])
        if not found or WORD_END.match(text, match.end()):
            return match[0]
        end = "" if text[match.end() : match.end() + 1] in "\n" else "\n"
        return ("\n" if match[1] else "") + match[0] + end

    return GLUED.sub(split, text)


HEADERISH = re.compile(r"^[\[(]|:$", re.MULTILINE)


def section_headers(text: str, about: About = UNKNOWN) -> str:
    """[chorus:], [VERSE 1: A & B], (Solo) alone on a line -> [Chorus], [Verse 1], [Solo]."""
    if not HEADERISH.search(text):
        return text
    lines = text.split("\n")
    return "\n".join([found.header if (found := section(line)) else line for line in lines])


def opens_stanza(line: str) -> bool:
    """Whether this line is a header in square brackets, and no directive."""
    found = section(line) if line[:1] == "[" else None
    return found is not None and not found.repeat


def stanzas(text: str, about: About = UNKNOWN) -> str:
    """One blank line between stanzas and before a header, none at the ends or after a header."""
    lines: list[str] = []
    before, opened = "", True  # as if a header stood above: no blank line at the start
    for line in text.split("\n"):
        if not line and (not before or opened):
            continue
        opens = opens_stanza(line)
        if opens and before:
            lines.append("")
        lines.append(line)
        before, opened = line, opens
    return "\n".join(lines).strip("\n")


def strip_headers(text: str) -> str:
    """The text without its [Section] and [Repeat] lines, stanza breaks kept."""
    return stanzas("\n".join(s for s in text.split("\n") if s[:1] != "[" or not section(s)))


def sung_lines(text: str) -> list[str]:
    """Lines that are not blank, and not wholly in [brackets]."""
    return [s for s in text.split("\n") if s and not (s[0] == "[" and s[-1] == "]")]


def fits(pattern: re.Pattern[str], line: str) -> bool:
    """Whether a whole line is of this pattern; a line of prose never is."""
    return len(line) <= LONGEST_LINE and pattern.fullmatch(line) is not None
