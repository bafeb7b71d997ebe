"""Names of artists and titles of songs, as people and sites spell them. Pure."""

import difflib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """A name and where it leads, absolute and without fragment."""

    name: str
    url: str


FOLDED = str.maketrans({"æ": "ae", "ø": "o", "ð": "d", "þ": "th", "ł": "l", "œ": "oe", "đ": "d",
                        "ı": "i"})  # fmt: skip


def plain(name: str) -> str:
    """A name without accents, case and punctuation: what two spellings share.

    >>> plain("Mötley Crüe"), plain("ÆTHER REALM"), plain("The Absence"), plain("!!!")
    ('motleycrue', 'aetherrealm', 'absence', '!!!')
    """
    folded = unicodedata.normalize("NFKD", name.casefold().translate(FOLDED))
    words = re.findall(r"\w+", "".join(c for c in folded if not unicodedata.combining(c)))
    words = words[1:] if len(words) > 1 and words[0] == "the" else words
    return "".join(words) or "".join(folded.split())


def matching(name: str, links: Sequence[Link]) -> list[Link]:
    """Links of that name; else those that add a country, as in ABSURD (RUSSIA)."""
    unique = {link.url: link for link in links}.values()
    equal = [link for link in unique if plain(link.name) == plain(name)]
    return equal or [
        link for link in unique if plain(re.sub(r"\s*\([^()]*\)\s*$", "", link.name)) == plain(name)
    ]


def nearest(name: str, links: Sequence[Link]) -> list[str]:
    """The names most like it."""
    names = {plain(link.name): link.name for link in links}
    return [names[key] for key in difflib.get_close_matches(plain(name), names, n=5, cutoff=0.5)]


# What follows a title in brackets, or after a dash, and says which version of the song it is. A
# word alone proves nothing: (Live and Let Die) is no concert.
YEAR = r"(?:['’]?\d{2,4}\s+)?"
AFTER = r"(?:\s+(?:version|mix|edit|take|recording|session|track|\d{4}|#?\d+))*"
VERSIONS = {
    "live": rf"(?:recorded )?live(?:\s+(?:at|in|from|on|@|version|session|bonus)\b.*|\s+\d{{4}})?"
    rf"|.*\blive(?:\s+version)|{YEAR}live",
    "remix": r".*\b(?:remix|rmx)(?:\s+version)?(?:\s+\d{4})?|remix(?:ed)?(?:\s+by\b.*)?"
    r"|.*\b(?:club|dance|dub|extended) mix",
    "demo": rf"{YEAR}(?:\w+ )?demo{AFTER}|pre-?production|rough mix|rehearsal",
    "acoustic": rf"(?:\w+ )?acoustic{AFTER}|unplugged{AFTER}",
    "remaster": r"(?:\d{4}\s+)?(?:digital(?:ly)?\s+)?remaster(?:ed)?(?:\s+version)?(?:\s+\d{4})?",
    "re-recording": rf"re-?record(?:ed|ing){AFTER}",
    "edit": r"(?:\w+ )?edit(?:\s+version)?",
    "cover": r"(?:.+ )?cover(?:\s+version)?|cover of .+",
    "version": r".+\bversion(?:\s+\d+)?|version \w+|alternat(?:e|ive) (?:take|mix|lyrics)",
}
MARKED = re.compile(r"(?P<title>.*?\S)\s*(?:[(\[](?P<a>[^()\[\]]+)[)\]]|\s[-–—]\s+(?P<b>[^-–—]+))$")
OPENS = re.compile(r"[(\[](?P<a>[^()\[\]]+)[)\]]\s*(?P<title>\S.*)$")


def version_of(title: str) -> str | None:
    """`relation: title` of a song that is a version of another, as its own title says it.

    >>> version_of("Dr. Feelgood (Demo)"), version_of("Tam - Live at Wembley")
    ('demo: Dr. Feelgood', 'live: Tam')
    >>> version_of("Live and Let Die"), version_of("Tam (Long Live the Mouse)")
    (None, None)
    """
    rest = title.strip()
    relation = base = None
    # The last mark first; what stands before one may carry another: Tam (Demo) [2009 Remaster].
    while match := MARKED.fullmatch(rest) or (OPENS.fullmatch(rest) if relation is None else None):
        groups = match.groupdict()
        mark = (groups["a"] or groups.get("b") or "").strip()
        kind = next((k for k, p in VERSIONS.items() if re.fullmatch(p, mark, re.IGNORECASE)), None)
        if kind is None and not groups["a"]:
            break
        relation, rest = kind or relation, match["title"].strip()
        base = rest if kind else base  # [From the Vault], (feat. X): no version by themselves
    return f"{relation}: {base}" if relation else None
