"""What is no part of a song's words goes, and what is said of its parts is said in one way.

Pure: text in, text out. RULES run in order, again and again until none of them changes anything
(one uncovers what another takes), so cleaning twice is cleaning once. A rule deletes only what
nobody sings: where a pattern fits a sung line as well, it asks for a second sign (its place in the
song, a missing space, a name, the title) or leaves the line alone.
"""

import itertools
import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

from backend.data.sections import (
    LONGEST_LINE,
    fits,
    glued_headers,
    section,
    section_headers,
    stanzas,
    sung_lines,
)
from backend.data.song import UNKNOWN, About

PASSES = 20  # two or three do; this only bounds what nobody foresaw


class Cleaned(NamedTuple):
    text: str
    performers: tuple[str, ...]  # names after the colon of section headers, in order, each once
    changed: tuple[str, ...]  # names of the rules that changed the text


# --- characters -----------------------------------------------------------------------------------

NESTED = re.compile(r"&(?:amp;)+(?=amp;)")
ENTITY = re.compile(r"&#?\w{1,24};")
# U+0085 alone is a line end (rule characters); beside other C1 codes it is cp1252's ellipsis.
BROKEN = re.compile(r"[\x1b\x80-\x84\x86-\x9f]")
# A first byte of UTF-8 read as Latin-1, cp1252, cp1251 or Mac Roman, before one of the others.
MISREAD = re.compile(r"[\xc2-\xf4РСГ√‚][^\x00-\x7f]|[ÂÃ] ")
SURROGATE = re.compile(r"[\ud800-\udfff]")


def encoding(text: str, about: About = UNKNOWN) -> str:
    """Mojibake, HTML entities, terminal escapes and lone surrogates repaired or gone; NFC."""
    if text.isascii() and "&" not in text and "\x1b" not in text:
        return text
    from ftfy import TextFixerConfig, fix_text  # here: `--help` stays fast
    from ftfy.badness import is_bad

    if SURROGATE.search(text):  # pairs become their character, halves go
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
    text = unicodedata.normalize("NFC", text)
    text = NESTED.sub("&", text)  # ftfy would undo one level at a time
    # Off is what rule characters does its own way, and what harms other scripts and old prints.
    config = TextFixerConfig(
        unescape_html=True,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        fix_surrogates=False,
        remove_control_chars=False,
        explain=False,
    )
    # ftfy is slow where it has nothing to do; it can only act on one of these three.
    for _ in range(PASSES):
        if not (
            ENTITY.search(text) or BROKEN.search(text) or (MISREAD.search(text) and is_bad(text))
        ):
            break
        fixed = unicodedata.normalize("NFC", SURROGATE.sub("", fix_text(text, config)))
        if fixed == text:
            break
        text = fixed
    return text


INLINE = "a|abbr|b|big|cite|code|em|font|h[1-6]|i|img|li|ol|small|span|strong|sub|sup|tt|u|ul"
ATTRIBUTES = r"(?:\s+[\w-]+\s*=[^<>\n]*)?\s*/?>"  # "<i wish>" has none; `<s>` may be sung
BREAK = re.compile(rf"</?br{ATTRIBUTES}\n?", re.IGNORECASE)
PARAGRAPH = re.compile(rf"(?:</?p{ATTRIBUTES}\n?)+", re.IGNORECASE)
DIVISION = re.compile(rf"(?:</?div{ATTRIBUTES}\n?)+", re.IGNORECASE)
TAG = re.compile(rf"</?(?:{INLINE}){ATTRIBUTES}", re.IGNORECASE)


SCRIPT = re.compile(
    r"<(script|style|iframe)\b[^<>]*>.{0,9999}?</\1>|<!--.{0,9999}?-->", re.IGNORECASE | re.DOTALL
)


def html(text: str, about: About = UNKNOWN) -> str:
    """Left-over tags of a known list; `<br>`, `<p>` and `<div>` end lines."""
    for _ in range(PASSES):  # a tag inside a tag
        if "<" not in text or ">" not in text:
            break
        after = TAG.sub("", BREAK.sub("\n", SCRIPT.sub("", text)))
        after = DIVISION.sub("\n", PARAGRAPH.sub("\n\n", after))
        if after == text:
            break
        text = after
    return text


CHARACTERS: dict[str, str] = {
    **dict.fromkeys("\r\v\f\x85\u2028\u2029", "\n"),
    **dict.fromkeys("’‘‚‛ʼ´`‹›", "'"),
    **dict.fromkeys("“”„«»", '"'),
    **dict.fromkeys("\t\u00a0\u202f\u205f\u3000", " "),
    **dict.fromkeys(map(chr, range(0x2000, 0x200B)), " "),  # en, em, thin, hair, ... spaces
    **dict.fromkeys("\u200b\u200e\u200f\u2060\ufeff\u00ad", ""),  # but U+200C spells Persian
    "…": "...",
}
REPLACED = re.compile(f"[{''.join(CHARACTERS)}]")
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # Cc and Cs but \n


def characters(text: str, about: About = UNKNOWN) -> str:
    """NFC, one kind of quote and space, no invisible or control characters, \\n line ends."""
    if text.isascii() and "`" not in text and not CONTROL.search(text):
        return text
    text = text.replace("\r\n", "\n")
    text = unicodedata.normalize("NFC", text)
    text = REPLACED.sub(
        lambda match: CHARACTERS[match[0]], text
    )  # str.translate takes ten times this
    text = CONTROL.sub("", text)
    return unicodedata.normalize("NFC", text)  # neighbours may compose now that others are gone


def spaces(text: str, about: About = UNKNOWN) -> str:
    """No spaces at line ends, one between words."""
    if "  " in text:
        text = re.sub(r" {2,}", " ", text)
    return "\n".join([line.strip() for line in text.split("\n")])


# --- what sites put around a song -----------------------------------------------------------------

CONTRIBUTORS = re.compile(r"\d[\d.,]*K? Contributor(?!s?(?:[ .,;:!?'-]|\Z))s?")
HEADING_END = re.compile(r"(?<= )Lyrics(?=\Z|\[|[^\s,.;:!?')\]-])")
READ_MORE = re.compile(r"(?:\A[^\n]*?|\.\.\.\s*)Read More\b *\n?|^Read More$\n?", re.MULTILINE)


def genius_header(text: str, about: About = UNKNOWN) -> str:
    """Genius's page header: "80 Contributors...TITLE Lyrics", with its blurb up to Read More."""
    if "yrics" not in text[:4000]:
        return text
    heading = f"{_plain(about.title)} lyrics" if about.title else ""
    for _ in range(PASSES):
        after = _without_heading(text.lstrip("\n"), heading)
        if after is None:
            break
        text = after
    return text


def _without_heading(text: str, heading: str) -> str | None:
    """The text after its page header, or None where it has none. `heading`: "title lyrics"."""
    start = CONTRIBUTORS.match(text)
    if not start:
        end = len(heading)
        if not heading or text[:end].casefold() != heading:
            return None
        after = re.match(r"\Z|[\n\[]|[^\W_a-z]", text[end:])  # "TITLE LyricsFirst line"
        return text[end:] if after else None
    # Glued, the header is the first line; with a line each, it ends before any bracket.
    region = text[:4000]
    glued = region[start.end()] != "\n"
    region = region.partition("\n" if glued else "\n[")[0]
    if heading and (place := region.casefold().find(heading)) >= 0:
        end = place + len(heading)
    elif match := (HEADING_END if glued else re.compile(r"(?<= )Lyrics(?=\n|\Z|\[)")).search(
        region
    ):
        end = match.end()
    else:
        return None
    text = text[end:]
    blurb = None if text.startswith("[") else READ_MORE.search(text[:2000].lstrip("\n"))
    return text.lstrip("\n")[blurb.end() :] if blurb else text


# Glued to a word or alone; after a space or an opening quote somebody sings it.
LIKE = r"""(?:(?<![ \d])\d+)?(?<![ "'(\[-])You might also like(?=\n|\Z|[\[(]|[^\W_a-z])"""
LIKE += r"|(?<=[^\W\d_A-Z])You might also like"
TICKETS = r"See (?:(?!See )[^\n]){1,80}? Live\n?Get tickets as low as \$\d[\d,]*\n?"
SIDEBAR = re.compile(rf"(?:{TICKETS}|{LIKE})+")


def genius_sidebar(text: str, about: About = UNKNOWN) -> str:
    """Genius's "You might also like" and ticket advertisements between the lines."""
    while "You might also like" in text or "Get tickets as low as $" in text:
        first, *rest = SIDEBAR.split(text)
        if not rest:
            break
        text = first
        for piece in rest:
            at_start, at_end = text[-1:] in "\n", piece[:1] in "\n"
            if at_start and at_end:
                piece = piece[1:]  # it had a line of its own
            elif not at_start and not at_end and piece[0] != " ":
                piece = "\n" + piece
            text += piece
    return text


# Digits after a space are sung (Route 66); glued to a word or alone they count Genius's points.
EMBED = re.compile(
    r"(?:(?<![\s\d])(?<!\d[.,])\d+(?:[.,]\d+)?[KM]?)?"
    r"(?:EmbedShare URLCopyEmbedCopy|(?<! )Embed)\Z"
)


def genius_embed(text: str, about: About = UNKNOWN) -> str:
    """Genius's "142Embed" at the very end."""
    for _ in range(PASSES):
        end = text.rstrip("\n")
        if not end.endswith(("Embed", "EmbedCopy")):
            break
        song, _, last = end.rpartition("\n")
        match = EMBED.search(last[-LONGEST_LINE:])
        if not match or (last == "Embed" and re.search(r"\bEmbed\b", song)):
            break
        text = end[: len(end) - len(match[0])]
    return text


OPENING = (  # [Letra de "X"]: as Genius's languages say it, before or after the title
    "letra d[eao]s?|songtexte? (?:zu|von)|lyrics (?:to|for|of)|(?:текст|слова) (?:песни|пісні)"
    "|paroles (?:de|du)|testo di|songtekst (?:van|bij)|tekst (?:piosenki|til|utworu|pjesme|do)"
    "|text (?:skladby|písně|piesne)|låttext till|sang(?:tekst)? til|sanat kappaleeseen|versuri"
    "|στίχοι|tekst|lời bài hát|lirik(?: lagu)?|كلمات(?: أغنية)?|מילים(?: לשיר)?"
)
CLOSING = "lyrics|laulusõnad|sanat|(?:şarkı )?sözleri|dalszöveg(?:e)?|lyrikai"
TITLE_LINE = re.compile(
    rf"\[(?:(?:{OPENING}) ?(?:\"|(?-i:[^\W\d_a-z]))[^\n]*"
    rf"|[^\n\[][^\n]*(?: (?:{CLOSING})|歌詞|歌词|가사))\]",
    re.IGNORECASE,
)
TYPED = re.compile(r"\"([^\"\n]+)\" by \S[^:\n]*(:?)")  # "Title" by Artist:


def title_line(text: str, about: About = UNKNOWN) -> str:
    """A first line that names the song: [Songtext zu "X"], "Title" by Artist:."""
    while (first := (body := text.lstrip("\n"))[:LONGEST_LINE].partition("\n")[0])[:1] in (
        "[",
        '"',
    ):
        typed = TYPED.fullmatch(first)
        known = typed and (typed[2] or _plain(typed[1]) == _plain(about.title))
        if not known and not TITLE_LINE.fullmatch(first):
            break
        text = body[len(first) :]
    return text


# What only DarkLyrics prints; then the lines that mean something only beside those.
SURE = re.compile(
    r"Thanks to \S.{0,80}? for (?:sending|correcting|submitting|adding) .{0,60}\blyrics\.?"
    r"|Submits, comments, corrections are welcomed? .*|.{0,60}\bwebmaster@darklyrics\.com.{0,20}"
    r"|(?-i:SUBMIT LYRICS|METAL LYRICS - CURRENTLY\b.*)|-Select Language-"
    r"|Browse by band name or\b.*"
    r"|Copyright © 2\d{3}-2\d{3}\b.*|All lyrics are the property (?:and copyright )?of their\b.*"
    r"|All lyrics provided for educational purposes\b.*",
    re.IGNORECASE,
)
CHROME = re.compile(
    r"LINKS|Print|E-?mail|Translate|Translate/Email/Print|[A-Z#]|-? ?Privacy Policy.*"
    r"|[^a-z]{1,60} LYRICS"
)
ROLES = (
    "vocals?|voices?|guitars?|bass|drums?|percussion|keyboards?|synths?|piano|violin|cello"
    "|lyrics|words|music"
)
LINE_UP = re.compile(  # Name — Lead Vocals, Guitars
    r"[^\W\d_a-z](?:(?! [—–:-] )[^\n]){0,60} [—–:-] "
    rf"(?i:[\w ,&/().-]{{0,60}}?\b(?:{ROLES})\b[\w ,&/().-]{{0,60}})"
)


def site_lines(text: str, about: About = UNKNOWN) -> str:
    """DarkLyrics's line-up, thanks and menus around a song."""
    marked = "yrics" in text or "YRICS" in text or "-Select Language-" in text
    if not marked and not LINE_UP.fullmatch(text[-LONGEST_LINE:].rstrip("\n").rpartition("\n")[2]):
        return text
    lines = text.split("\n")
    sure = [fits(SURE, line) for line in lines]
    any_sure = any(sure)
    band = f"{_plain(about.artist)} lyrics" if about.artist else None

    def menu(i: int) -> bool:
        line = lines[i]
        named = line.casefold() == band or (any_sure and fits(CHROME, line))
        return not line or sure[i] or named

    start, tail = 0, len(lines)
    while start < len(lines) and menu(start):
        start += 1
    while tail > start and (menu(tail - 1) or fits(LINE_UP, lines[tail - 1])):
        tail -= 1
    if not any_sure and sum(fits(LINE_UP, line) for line in lines[tail:]) < 2:
        tail = len(lines)  # one such line alone may be sung
        while tail > start and menu(tail - 1):
            tail -= 1
    if not (any_sure or any(lines[:start]) or any(lines[tail:])):
        return text
    return "\n".join(lines[i] for i in range(start, tail) if not sure[i])


WORK = "lyrics|music|words"
DEED = "written|produced|recorded|mixed|mastered|composed|arranged"
ALSO = r"(?:, | and | & | ?/ ?)"
WHAT = (
    rf"(?:all )?(?:{WORK})(?:{ALSO}(?:{WORK}))*(?: (?:are|were|is|was))?(?: (?:{DEED}))?"
    rf"|(?:{DEED})(?:{ALSO}\w+)?"
)
NAME = r"(?-i:[^\W\d_a-z])"  # "by" and a name, not "music by the river"
PLACE = r"|(?:recorded|mixed|mastered)(?: (?:and|&) \w+)? (?:at|in) (?=" + NAME + ")"
CREDIT = re.compile(
    rf"\[(?:(?:{WHAT})(?::| by {NAME}){PLACE})[^\]]*\]"
    rf"|\((?:(?:{WHAT})(?:: ?| by:? )(?={NAME}){PLACE})[^)]*\)",
    re.IGNORECASE,
)
# Without brackets: "by" in small letters (a line of Capitals Everywhere is sung).
SUNG = r"(?!(?:The|A|An|My|Your|His|Her|Our|Their|This|That|All|God|Love|Me|You|Us)\b)"
CREDIT_PLAIN = re.compile(
    rf"(?:(?:{WHAT})(?: (?:(?-i:by)|by:)|:) {SUNG}{NAME}|{PLACE[1:]}{SUNG})[^,;!?]*", re.IGNORECASE
)


def credits(text: str, about: About = UNKNOWN) -> str:
    """Whole lines such as [Lyrics: Name] and Produced by Name: people named, not sung."""
    if not CREDIT_HINT.search(text):
        return text
    lines = text.split("\n")
    kept = [s for s in lines if s[:1] not in ("[", "(") or not fits(CREDIT, s)]
    for _ in range(2):  # from the top, then from the end
        # Without brackets: two together, or a stanza of its own; one line alone may open a song.
        while kept:
            blank = next((i for i, line in enumerate(kept) if line), len(kept))
            run = list(itertools.takewhile(lambda line: fits(CREDIT_PLAIN, line), kept[blank:]))
            end = blank + len(run)
            if not run or (len(run) == 1 and end < len(kept) and kept[end]):
                break
            del kept[:end]
        kept.reverse()
    return "\n".join(kept)


CREDIT_HINT = re.compile(rf"^[\[(]?(?:all )?(?:{WORK}|{DEED})\b", re.IGNORECASE | re.MULTILINE)

# --- all of them ----------------------------------------------------------------------------------

RULES: tuple[Callable[[str, About], str], ...] = (
    encoding,
    html,
    characters,
    spaces,
    genius_header,
    genius_sidebar,
    genius_embed,
    title_line,
    site_lines,
    credits,
    glued_headers,
    section_headers,
    stanzas,
)


def clean_text(text: str, about: About = UNKNOWN) -> Cleaned:
    """All rules in order, until nothing changes."""
    performers: list[str] = []
    changed: set[str] = set()
    for _ in range(PASSES):
        start = text
        for rule in RULES:
            if rule is section_headers and "[" in text:
                performers += [s.performers for line in text.split("\n") if (s := section(line))]
            after = rule(text, about)
            if after != text:
                changed.add(rule.__name__)
                text = after
        if text == start:
            break
    names = tuple(dict.fromkeys(filter(None, performers)))
    return Cleaned(text, names, tuple(r.__name__ for r in RULES if r.__name__ in changed))


def _plain(name: str) -> str:
    """A title or a name in the characters of a cleaned text, without case."""
    return " ".join(characters(name).split()).casefold()


# --- questions about a cleaned text ---------------------------------------------------------------


def masked(text: str) -> bool:
    """Whether a word is m***ed: nothing can repair it, the report counts it."""
    return "*" in text and MASKED.search(text) is not None


MASKED = re.compile(r"(?<![\w*])[^\W\d_]+(?:\*+[^\W\d_]|\*\*+(?!\w))")

NOTICES = {
    "instrumental": r"(?:this (?:song|track) is )?(?:an )?instrumental(?: (?:song|track|piece))?",
    "removed": r"(?:the )?(?:lyrics|text) (?:were|was|have been|has been|are) removed\b.*",
    "unreleased": r"lyrics (?:for|to) this song have yet to be released|lyrics (?:will be|are) "
    r"(?:added|available) (?:up)?on(?:ce)? (?:the )?(?:release|song).*|unreleased",
    "no lyrics": r"(?:sorry,? )?(?:there are )?no lyrics(?: (?:available|found|yet))?(?: for .*)?"
    r"|(?:the )?lyrics (?:are )?(?:currently )?(?:not|un) ?(?:available|found)\b.*"
    r"|(?:we (?:do not|don't) have|lyrics for this song have yet to be transcribed).*",
}
FILLER = re.compile(r"please check back\b.*|sorry|coming soon", re.IGNORECASE)


def notice(text: str) -> str | None:
    """What the site says where it has no words, if the whole text is nothing else."""
    kinds: list[str] = []
    for line in text[:1000].split("\n"):
        found = section(line)
        if found and found.names[:1] != ("Instrumental",):
            continue
        for sentence in re.split(r"[.!]+(?: |$)", line.strip("[]()*- ")):
            said = sentence.strip("[]()*- ")
            kind = next((k for k, p in NOTICES.items() if re.fullmatch(p, said, re.IGNORECASE)), "")
            if said and not kind and not FILLER.fullmatch(said):
                return None
            kinds += [kind] * bool(kind)
    return kinds[0] if kinds and len(text) <= 1000 else None


LANGUAGES = (
    "english|german|french|spanish|italian|portuguese|russian|polish|dutch|swedish|finnish|norwegian"
    "|danish|japanese|korean|turkish|greek|latin|icelandic|hungarian|czech|ukrainian|romanian"
)
TRANSLATION = re.compile(
    rf"(?:(?:{LANGUAGES}) (?:translation|version)|translation(?: (?:in|to|into) (?:{LANGUAGES}))?"
    r"|(?:deutsche |englische )?übersetzung|traduction(?: (?:française|anglaise|en \w+))?"
    r"|traducción(?: (?:al|en) \w+|española|inglesa)?|traduzione(?: (?:italiana|inglese|in \w+))?"
    r"|tradução(?: (?:em|para) \w+)?|vertaling|tłumaczenie|(?:русский )?перевод|переклад|překlad"
    r"|käännös|(?:svensk )?översättning|oversættelse|oversettelse|(?:türkçe )?çeviri(?:si)?"
    r"|fordítás|traducere|μετάφραση|翻訳|번역)",
    re.IGNORECASE,
)


def split_translation(text: str) -> tuple[str, str]:
    """(original, the translation pasted under it or ""), where each part has four sung lines."""
    lines = text.split("\n")
    for i, line in enumerate(lines):
        said = line.strip("[]()*-=: ")
        if len(said) > 40 or not TRANSLATION.fullmatch(said):
            continue
        if said.casefold() == "translation" and said == line:
            continue  # one English word without bracket or colon may be sung
        parts = stanzas("\n".join(lines[:i])), stanzas("\n".join(lines[i + 1 :]))
        if all(len(sung_lines(part)) >= 4 for part in parts):
            return parts
    return text, ""
