"""Rules: what is not sung goes, what is sung stays. All texts are invented or the songbook's."""

import json
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backend.data import rules
from backend.data.repeats import repeats
from backend.data.rules import RULES, clean_text, masked, notice, split_translation
from backend.data.sections import section, strip_headers, sung_lines
from backend.data.song import About
from tests.conftest import ROOT

SONGS = ROOT.parent / "shared" / "data" / "public_domain_songs.jsonl"
HARBOUR = About("Harbour of Salt", "Grey Pilots")
BODY = "The pier was cold\nthe nets were old\n\n[Chorus]\nSalt on the rope\nsalt on the hope"


def clean(text, about=HARBOUR):
    return clean_text(text, about).text


# --- clean_text as a whole ------------------------------------------------------------------------

JUNK = [
    "80 ContributorsTranslationsEspañolHarbour of Salt Lyrics", "1 Contributor", "Contributors",
    "Harbour of Salt Lyrics", " Lyrics", "Read More", "… Read More ", "You might also like", "15",
    "See Grey Pilots LiveGet tickets as low as $154", "142Embed", "Embed", "1.2KEmbed",
    "EmbedShare URLCopyEmbedCopy", '[Letra de "Salt"]', "[Salt Lyrics]", '"Salt" by Someone:',
    "Thanks to someone for sending these lyrics.", "GREY PILOTS LYRICS", "SUBMIT LYRICS", "LINKS",
    "Ann — Drums", "Bo : Vocals", "[Lyrics: Name]", "(Lyrics by Ann)", "Produced by Ann", "<br>",
    "<i>", "</i>", "<", ">", "<3", "<s>", "<|endoftext|>", "&amp;", "&amp;#x27;", "&", "#39;",
    "amp;",
    "[chorus:]", "[VERSE 1: A & B]", "[Verse II]", "[Chorus x2]", "[Chorus", "Chorus:", "(Solo)",
    "[Repeat Chorus]", "[repeat]", "[Bridge / Chorus]", "[Verse 1]Text", "[x2]", "(x2)", " x4",
    "[Solo]", "[Chorus]", "[Spoken: words]", "[Instrumental]", "Припев:", "[1. Strophe]", "(2x)",
]  # fmt: skip
BITS = [
    "\n", "\n", "\n", "\n\n", "\r\n", "\r", " ", "\t", "\u00a0", "\u2005", "\u2028", "\x85", "\x0b",
    "\u200b", "\u200d", "\u00ad", "\ufeff", "\0", "\x1b[36m", "\x92", "\ud800", "\udfff", "\u0301",
    "’", "“", "´", "`", "…", "\u1fef", "\u1ffd", "â€™", "Ã©", "Ã", "©", "é", "—", "a", "la la",
    "The pier was cold", "salt on the rope", "Route 66", "[", "]", "[]", "(", ")", ":", "1", "*",
    "English translation:", "\u1680", "x", "2",
]  # fmt: skip
MESSY = st.lists(
    st.sampled_from(JUNK) | st.sampled_from(BITS) | st.characters(exclude_categories=()),
    max_size=25,
).map("".join)
LINED = st.lists(st.sampled_from(JUNK + BITS), max_size=25).map("\n".join)


@given(MESSY | LINED, st.sampled_from([About(), HARBOUR]))
@settings(max_examples=400, deadline=None)
@example("e\0\u0301", About())
@example("Ã\u1ffdla", About())
@example("a \u200b\u2005 b", About())
@example("[\u200bchorus\u00a0]\n\n\nla", About())
@example("Ã\u200b©\n&\0amp;amp;", About())
def test_cleaning_twice_changes_nothing(text, about):
    once = clean(text, about)
    assert clean(once, about) == once
    assert unicodedata.is_normalized("NFC", once)
    assert "\n\n\n" not in once
    assert once == once.strip("\n")
    assert not [c for c in once if unicodedata.category(c) in ("Cc", "Cs") and c != "\n"]
    assert all(line == line.strip() and "  " not in line for line in once.split("\n"))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@given(text=MESSY | LINED)
@settings(max_examples=60, deadline=None)
def test_each_rule_alone_is_idempotent(rule, text):
    once = rule(text, HARBOUR)
    assert rule(once, HARBOUR) == once


@given(MESSY | LINED, st.sampled_from(["keep", "expand", "once"]))
@settings(max_examples=250, deadline=None)
def test_repeats_are_idempotent_and_leave_a_clean_text(text, mode):
    done = repeats(clean_text(text).text, mode)
    assert repeats(done, mode) == done
    assert clean_text(done).text == done


@given(MESSY | LINED)
@settings(max_examples=200, deadline=None)
def test_questions_have_an_answer_for_every_text(text):
    text = clean_text(text).text
    bare = strip_headers(text)
    assert strip_headers(bare) == bare
    assert not [line for line in bare.split("\n") if line[:1] == "[" and section(line)]
    assert set(sung_lines(bare)) <= set(text.split("\n"))
    notice(text), masked(text)
    assert split_translation(text)[0] or not text


@pytest.mark.parametrize("text", ["", " \n\t\n", "\u200b", "one line"], ids=ascii)
def test_texts_with_next_to_nothing(text):
    assert clean(text) == text.strip(" \n\t\u200b")


def test_every_rule_has_a_line_for_the_report():
    assert all(rule.__doc__ and "\n" not in rule.__doc__ for rule in RULES)


def test_changed_names_the_rules_and_performers_the_names():
    text = "[VERSE 1: Ann & *Bo*]\nIt’s late\n[Chorus: Cy]\nla\n[Verse 2: Ann & Bo]\nla\nlo: me"
    cleaned = clean_text(text)
    assert cleaned.performers == ("Ann & Bo", "Cy")
    assert cleaned.changed == ("characters", "section_headers", "stanzas")
    assert clean_text(cleaned.text) == (cleaned.text, (), ())
    assert clean_text("[Verse\u00a01: Ann\u2019s Band]").performers == ("Ann's Band",)


def test_songs_of_the_songbook_come_out_unchanged(songbook):
    for _, title, text in songbook:
        assert clean(text, About(title)) == text


def test_public_domain_songs_keep_every_line():
    if not SONGS.exists():
        pytest.skip("the shared public domain songs are not here")
    altered = []
    with SONGS.open(encoding="utf-8") as file:
        for row in map(json.loads, list(file)[::20]):
            text = "\n\n".join("\n".join(s["lines"]) for s in row["stanzas"])
            plain = rules.spaces(rules.characters(text))
            cleaned = clean(text, About(row["title"]))
            if [s for s in plain.split("\n") if s] != [s for s in cleaned.split("\n") if s]:
                altered.append(row["id"])
    assert not altered


def adverse():
    for piece in ("[", "(", "<", "<i ", "<i a=", "&", "x ", " x2", "[x2]", "[Chorus]", "Lyrics ",
                  "1 Contributor", "You might also like", "See ", "See x LiveGet tickets ",
                  "142Embed",
                  "Thanks to x for sending ", "A — Drums ", "Lyrics by A ", "a ", "\t", "é", "’",
                  "*",
                  "1 Contributora Lyrics", "1", "Ã", "lyrics and ", "a*",
                  '"', "Repeat "):  # fmt: skip
        yield piece * (200_000 // len(piece))
        yield (piece + "\n") * (200_000 // (len(piece) + 1))


@pytest.mark.e2e
@pytest.mark.parametrize("text", list(adverse()), ids=lambda text: ascii(text[:12] + text[-1]))
def test_a_huge_text_ends(text):
    cleaned = clean_text(text).text
    for mode in ("once", "expand"):
        repeats(cleaned, mode)
    assert notice(cleaned) is None or len(cleaned) < 1001
    masked(cleaned), split_translation(cleaned)


# --- characters -----------------------------------------------------------------------------------

SPACES = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) == "Zs" and c != "\u1680"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cafÃ© crÃ¨me", "café crème"),
        ("donâ€™t", "don't"),
        ("wait â\x80\x94 here", "wait — here"),
        ("rock &amp; roll &#x27;n&#39; all", "rock & roll 'n' all"),
        ("rock &amp;amp; roll &amp;#x27;", "rock & roll '"),
        ("don\x92t go", "don't go"),
        ("wait\x85 don\x92t", "wait... don't"),
        ("\x1b[36;44mblue\x1b[0m", "blue"),
        ("la\ud800la\udfff", "lala"),
        ("\ud83d\ude00", "😀"),
        ("Cafe\u0301 u\u0308ber N\u0303", "Café über Ñ"),
        ("e\0\u0301", "é"),
        ("don’t ‘you’ donʼt rock´n`roll", "don't 'you' don't rock'n'roll"),
        ("“so” „so” «so»", '"so" "so" "so"'),
        ("wait… what", "wait... what"),
        ("a\u00a0b\u2005c\u2009d\u202fe\u3000f\tg", "a b c d e f g"),
        ("a  \u00a0  b", "a b"),
        ("  la la  \n\tla\u00a0", "la la\nla"),
        ("to\u200bmor\u00adrow\ufeff \u2060now\u200e", "tomorrow now"),
        ("la\r\nlo\rlu\u2028li", "la\nlo\nlu\nli"),
        ("la\0la\x07\x1b", "lala"),
    ],
    ids=ascii,
)
def test_encoding_and_characters_are_repaired(text, expected):
    assert clean(text) == expected


@pytest.mark.parametrize("space", SPACES, ids=ascii)
def test_every_kind_of_space_becomes_a_space(space):
    assert clean(f"la{space}la") == "la la"


@pytest.mark.parametrize("end", ["\x0b", "\x0c", "\x85", "\u2028", "\u2029"], ids=ascii)
def test_every_kind_of_line_end_keeps_its_words_apart(end):
    assert clean(f"came the tide{end}under the moon") == "came the tide\nunder the moon"


@pytest.mark.parametrize(
    "text",
    [
        "Façade, naïve, Ærø, Łódź, Þór, Straße, İstanbul, Œuvre", "À la mer, ça va, où es-tu?",
        "Ночь, улица, фонарь, аптека", "Οι άνθρωποι τραγουδούν", "古池や蛙飛びこむ水の音",
        "ｶﾀｶﾅ ＬＯＵＤ ﬁne", "아리랑 아리랑 아라리요", "שלום עליכם", "يا ليل يا عين", "वन्दे मातरम्",
        "می\u200cخواهم بخوانم", "ลอยกระทง", "R&B; rock & roll & co; AT&T",
        "¿Dónde estás? ¡Aquí! — 50 % & 3 < 4 #1 (oh) ~ *", "👩\u200d🚀 👍🏽 ❤️ 🇩🇪",
        "<3 you", "<|endoftext|>", "<s>", "a < b > c", "<i wish> you were", "<sigh>", "I <3 you >",
    ],
    ids=ascii,
)  # fmt: skip
def test_other_scripts_signs_and_angles_are_unharmed(text):
    assert clean(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("la<br>lo<br/>\nlu<BR />li", "la\nlo\nlu\nli"),
        ("la<br>\n<br>\nlo", "la\n\nlo"),
        ("<p>la</p><p>lo</p>", "la\n\nlo"),
        ("<div>la</div><div class='x'>lo</div>", "la\nlo"),
        ("<i>la</i> <b>lo</b> <em>lu</em> <a href='/x'>li</a> <span>le</span>", "la lo lu li le"),
        ('<img src="https://images.invalid/avatars/1.png">la', "la"),
        ("&lt;i&gt;la&lt;/i&gt;", "la"),
        ("<<i>b>la", "la"),
    ],
    ids=ascii,
)
def test_tags_go(text, expected):
    assert clean(text) == expected


# --- what sites put around a song -----------------------------------------------------------------


@pytest.mark.parametrize("about", [HARBOUR, About()], ids=["title known", "title unknown"])
@pytest.mark.parametrize(
    "header",
    [
        "80 ContributorsTranslationsEspañolItalianoTürkçeDeutschHarbour of Salt Lyrics",
        "1 ContributorHarbour of Salt Lyrics",
        "1 Contributorharbour of salt Lyrics",
        "57 ContributorsTranslationsFrançaisСрпскиHarbour of Salt [Live] (ترجمه) Lyrics",
        "3 ContributorsСоль Lyrics",
        "3 ContributorsLyrics [Live] Lyrics",
        "3 ContributorsMy Lyrics, My Life Lyrics",
        "9 ContributorsHarbour of Salt LyricsThe pilots wrote it in one night… Read More ",
        "9 ContributorsHarbour of Salt LyricsThey wrote it.\n\nThen they… Read More\n",
        "171 Contributors\nTranslations\nPortuguês\nHarbour of Salt Lyrics",
        "171 Contributors\nTranslations\nHarbour of Salt Lyrics\nIt is\ntwo lines\nRead More\n",
        "2 ContributorsOne Lyrics\n2 ContributorsTwo Lyrics",
    ],
    ids=ascii,
)
def test_genius_page_header_goes(header, about):
    bracket = "[Verse 1]\nThe pier was cold\nLyrics [Live] Lyrics"
    assert clean(f"{header}{bracket}", about) == bracket
    assert clean(f"{header}\n{BODY}", about) == BODY


def test_genius_title_line_goes_where_the_title_is_known():
    assert clean(f"Harbour of Salt Lyrics\n{BODY}") == BODY
    assert clean(f"HARBOUR OF SALT Lyrics[Intro]\n{BODY}") == f"[Intro]\n{BODY}"
    assert clean(f"Harbour of Salt Lyrics\n{BODY}", About()) == f"Harbour of Salt Lyrics\n{BODY}"


@pytest.mark.parametrize(
    "line",
    [
        "Lyrics are all I have", "These Lyrics by heart I know", "Lyrics: a word for what I sing",
        "3 Contributors came to town with Lyrics", "Harbour of Salt Lyrics they sang",
        "Read More of my letters", "12 Contributors, and no Lyrics",
        "You might also like the rain", "I think You might also like", '"You might also like',
        "You might also likewise go", "See the river live", "Get tickets as low as the sea",
        "Embed the coin in amber", "12Embed", "And in the stone Embed", "Route 66", "142",
        "1. Count the ships", "2. Count the stars", "Thanks to you for all the lyrics you gave me",
        "Thanks to you", "LINKS", "Print", "Copyright my heart", "MY LOVE LYRICS", "Boom - Drums",
        "Written by the moon", "Written By The Stars", "music by the river", "(music by moonlight)",
        "Music by the river", "Produced by love", "Recorded in my heart", "[Music by the river]",
        "[Words are all I have]", "[Recorded voice: all ashore who go ashore]", "Music: it is all",
        '"Hello" by the sea', '"Hello" by Ann she said', "[Letra by letra]", "[Paroles d'amour]",
        "Solo I go", "Chorus of birds:", "Verse by verse", "(Break!)", "most:", "bro:",
        "Ponte al sol:",
    ],
    ids=ascii,
)  # fmt: skip
def test_sung_lines_that_look_like_a_sites_leftovers_survive(line):
    for text in (f"{line}\nla la", f"la la\n{line}\nlo lo", f"{BODY}\n\n{line}\n{line}\nend"):
        assert clean(text) == text
    if line != "12Embed":
        assert clean(f"la la\n{line}") == f"la la\n{line}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("la\nYou might also like[Verse 2]\nlo", "la\n\n[Verse 2]\nlo"),
        ("laYou might also like[Verse 2]\nlo", "la\n\n[Verse 2]\nlo"),
        ("la\n\nYou might also like[Outro]\nlo", "la\n\n[Outro]\nlo"),
        ("la\nYou might also like\nlo", "la\nlo"),
        ("la\n\nYou might also like\n\nlo", "la\n\nlo"),
        ("laYou might also like\nlo", "la\nlo"),
        ("laYou might also likeLo", "la\nLo"),
        ("la\n15You might also likeLo", "la\nLo"),
        ("la15You might also like\nlo", "la\nlo"),
        ("Route 66You might also like\nlo", "Route 66\nlo"),
        ("laSee Grey Pilots LiveGet tickets as low as $154You might also like[Outro]",
        "la\n\n[Outro]"),
        ("la\nSee Grey Pilots LiveGet tickets as low as $1,154\nlo", "la\nlo"),
        ("la\nSee Grey Pilots Live\nGet tickets as low as $54\nYou might also like\nlo", "la\nlo"),
    ],
)  # fmt: skip
def test_genius_sidebar_goes(text, expected):
    assert clean(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("la town142Embed", "la town"), ("la townEmbed", "la town"),
        ("la town.12Embed", "la town."),
        ("la\n142Embed", "la"), ("la\nEmbed", "la"), ("la town1.2KEmbed", "la town"),
        ("townEmbedShare URLCopyEmbedCopy", "town"), ("town EmbedShare URLCopyEmbedCopy", "town"),
        ("more142EmbedShare URLCopyEmbedCopy\n\n", "more"), ("Route 66Embed", "Route 66"),
        ("la\n142\nEmbed", "la\n142"), ("la142Embed142Embed", "la"), ("142Embed", ""),
        ("Embed it\nla\nEmbed", "Embed it\nla\nEmbed"), ("la Embed", "la Embed"),
    ],
)  # fmt: skip
def test_genius_embed_goes_at_the_end_only(text, expected):
    assert clean(text) == expected


@pytest.mark.parametrize(
    "line",
    [
        '[Letra de "Salt"]', "[Songtext zu „Salt“ ft. Ann]", "[Текст песни «Соль»]",
        "[Salt Lyrics]",
        '[Paroles de "Sel"]', '[Testo di "Sale"]', "[Soola laulusõnad]",
        '["Tuz" için şarkı sözleri]',
        '[Tekst piosenki "Sól"]', '[Letra de "Salt [Live]"]', '"Salt" by Grey Pilots:',
        '"Harbour of Salt" by Grey Pilots', "\n[Salt Lyrics]\n[Salt Lyrics]",
    ],
)  # fmt: skip
def test_a_first_line_that_names_the_song_goes(line):
    assert clean(f"{line}\n{BODY}") == BODY


def test_a_line_that_names_the_song_stays_elsewhere():
    for line in ('[Letra de "Salt"]', '"Salt" by Grey Pilots:'):
        assert line in clean(f"la\n{line}\nlo")


@pytest.mark.parametrize(
    "tail",
    [
        "Thanks to someone for sending these lyrics.",
        "Thanks to someone for sending track #3 lyrics.\nThanks to an_other for correcting track #9"
        " lyrics.",
        "Ann — Drums\nBo Berg — Vocals, Guitars\n\nThanks to someone for sending these lyrics.",
        "Ann : Drums\nBo : Lead Vocals",
        "Submits, comments are welcomed at webmaster@darklyrics.com\n\nGREY PILOTS LYRICS",
        "GREY PILOTS LYRICS",
        "Print\nEmail\n-Select Language-\nCopyright © 2001-2019 - DarkLyrics.com --- All lyrics",
    ],
)
def test_darklyrics_tail_goes(tail):
    assert clean(f"{BODY}\n\n{tail}") == BODY


def test_darklyrics_menus_go():
    top = (
        "SUBMIT LYRICS\nLINKS\nMETAL LYRICS - CURRENTLY 13 800+ ALBUMS FROM 4500+ BANDS\nA\nB\n#\n"
    )
    top += (
        "Browse by band name or enter band/album/song to search lyrics for:\nGREY PILOTS LYRICS\n"
    )
    assert clean(f"{top}\n{BODY}\n\nLINKS", About()) == BODY


@pytest.mark.parametrize(
    "line",
    [
        "[Lyrics: Name]", "[Lyrics by A. Name]", "[Music: Name & Other]", "[MUSIC BY NAME]",
        "[Lyrics & Music: Name]", "[All lyrics by Name]", "[Written by Name]",
        "[Words: traditional]",
        "[All music and lyrics are written by Name]", "[Lyrics are by Name]",
        "(Lyrics by Ann Berg)",
        "(All lyrics by Ann)", "(Produced by Ann)", "(Recorded & mixed at Salt Studio)",
        "(Words: Ann)",
    ],
)  # fmt: skip
def test_credits_in_brackets_go_anywhere(line):
    assert clean(f"{line}\n\nla la\nlo lo") == "la la\nlo lo"
    assert clean(f"la la\n\n{line}\n\nlo lo") == "la la\n\nlo lo"


@pytest.mark.parametrize(
    "line",
    ["All lyrics by Ann", "Lyrics by Ann Berg", "Produced by Ann & Bo", "Music and lyrics by Ann",
     "Recorded & mixed by Ann", "Recorded and mixed at Salt Studio"],
)  # fmt: skip
def test_credits_without_brackets_go_at_the_ends_only(line):
    song = "\n".join(f"line {i}" for i in range(9))
    assert clean(f"{line}\n\n{song}") == clean(f"{song}\n\n{line}") == song
    assert clean(f"{line}\nMusic: Bo Salt\n{song}") == clean(f"{song}\nMusic: Bo\n{line}") == song
    text = f"{song}\n{line}\n{song}"
    assert clean(text) == text


@pytest.mark.parametrize(
    "line",
    ["Written by Fire", "Written by Candlelight", "Lyrics by Heart", "Recorded in Heaven",
     "Produced by Mother Nature", "Composed by Angels"],
)  # fmt: skip
def test_one_such_line_at_the_edge_of_a_stanza_is_sung(line):
    song = "\n".join(f"Line {i}" for i in range(4))
    for text in (f"{line}\n{song}", f"{song}\n{line}"):
        assert clean(text) == text


# --- sections -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "header"),
    [
        ("[chorus:]", "[Chorus]"), ("[CHORUS]", "[Chorus]"), ("[ chorus ]", "[Chorus]"),
        ("[VERSE 1: A & B]", "[Verse 1]"), ("[verse2]", "[Verse 2]"), ("[Verse II]", "[Verse 2]"),
        ("[Verse One]", "[Verse 1]"), ("[1. Strophe]", "[Verse 1]"), ("[2nd Verse]", "[Verse 2]"),
        ("[Verse #1]", "[Verse 1]"), ("[Verse 1 - Ann]", "[Verse 1]"), ("[Part I]", "[Part 1]"),
        ("[Chorus x2]", "[Chorus x2]"), ("[Chorus (2x)]", "[Chorus x2]"),
        ("[Chorus] x2", "[Chorus x2]"),
        ("[Chorus: x2]", "[Chorus x2]"), ("[Chorus", "[Chorus]"),
        ("[Verse 1: Ann [of Salt]]", "[Verse 1]"),
        ("Chorus:", "[Chorus]"), ("VERSE 2:", "[Verse 2]"), ("(Chorus)", "[Chorus]"),
        ("(Solo)", "[Solo]"),
        ("(Verse 2:)", "[Verse 2]"), ("[Chorus]:", "[Chorus]"), ("[pre chorus]", "[Pre-Chorus]"),
        ("[PRECHORUS 2:]", "[Pre-Chorus 2]"), ("[Guitar solo: Name]", "[Guitar Solo]"),
        ("[Outro : Both]", "[Outro]"), ("[Bridge/Chorus]", "[Bridge / Chorus]"),
        ("[Intro: Instrumental]", "[Intro / Instrumental]"), ("[Spoken:]", "[Spoken]"),
        ("[Repeat Chorus]", "[Repeat Chorus]"), ("[repeat]", "[Repeat]"),
        ("[REPEAT: chorus]", "[Repeat Chorus]"),
        ("(Repeat Chorus)", "[Repeat Chorus]"), ("[Repeat Verse 1]", "[Repeat Verse 1]"),
        ("[Repeat Chorus 2x]", "[Repeat Chorus x2]"), ("[Chorus repeats]", "[Repeat Chorus]"),
        ("[Strofa 2]", "[Verse 2]"), ("[Verso 1]", "[Verse 1]"), ("[Coro]", "[Chorus]"),
        ("[Vers 1]", "[Verse 1]"), ("[Omkvæd]", "[Chorus]"), ("[Интро]", "[Intro]"),
        ("[Бридж]", "[Bridge]"),
        ("[Дроп]", "[Drop]"), ("Припев:", "[Chorus]"), ("[Куплет 1: Аня]", "[Verse 1]"),
        ("[Приспів]", "[Chorus]"), ("[Refrão]", "[Chorus]"), ("[Pré-Refrão]", "[Pre-Chorus]"),
        ("[Estribillo]", "[Chorus]"), ("[Ritornello]", "[Chorus]"), ("[Couplet 3]", "[Verse 3]"),
        ("[Zwrotka 1]", "[Verse 1]"), ("[Refrén]", "[Chorus]"), ("[Refräng]", "[Chorus]"),
        ("[Refreng]", "[Chorus]"), ("[Kertosäe]", "[Chorus]"), ("[Nakarat]", "[Chorus]"),
        ("[Säkeistö 2]", "[Verse 2]"), ("[Versszak 1]", "[Verse 1]"), ("[Ρεφρέν]", "[Chorus]"),
        ("[Puente]", "[Bridge]"), ("[Brücke]", "[Bridge]"), ("[Refrain]", "[Refrain]"),
    ],
)  # fmt: skip
def test_section_headers_are_normalised(line, header):
    assert clean(f"la la\n\n{line}\nlo lo").replace("\n\n", "\n") == f"la la\n{header}\nlo lo"
    again = section(header)
    assert again is not None
    assert again.header == header


@pytest.mark.parametrize(
    "line",
    [
        "[x2]", "[whispered]", "[Verse One And A Half]", "[He:] I sing and [She:] I sing", "[]",
        "[oh] la la [oh]", "And [chorus] in the middle", "I sang [softly] to you",
        "[Verse 1] la la",
        "la la [Guitar Solo]", "[Drop]ped it", "un[Break]able", "[Spoken: Let there be light]",
        "[Chorus: twice]", "[Chorus: 4 times]", "[Outro: fade out]", "[Bridge: Why?]", "(Drop)",
        "[Chorus: And then we go", "[Verse 1: A] and [B]", "(oh oh)", "She said:",
            "[Chorus: fading]",
        "[Repeat after me]",
    ],
)  # fmt: skip
def test_other_brackets_are_kept_letter_for_letter(line):
    text = f"la la\n{line}\nlo lo"
    assert clean_text(text) == (text, (), ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the steps[Guitar Solo]\nlo", "the steps\n\n[Guitar Solo]\nlo"),
        ("[Verse 1]Text\nlo", "[Verse 1]\nText\nlo"),
        ("[Verse 1]text\nlo", "[Verse 1]\ntext\nlo"),
        ("la[Verse 2: Ann]Lo", "la\n\n[Verse 2]\nLo"),
        ("[Guitar Solo][Chorus]la", "[Guitar Solo]\n\n[Chorus]\nla"),
    ],
)
def test_headers_glued_to_a_line_are_set_apart(text, expected):
    assert clean(text) == expected


def test_a_header_opens_its_stanza():
    assert clean("la\n[Chorus]\n\n\nlo\n\n\n\n[Outro]\nlu") == "la\n\n[Chorus]\nlo\n\n[Outro]\nlu"


@pytest.mark.parametrize("line", ["[x2]", "[Repeat]", "[Repeat Chorus]", "[oh] la la [oh]"])
def test_a_bracket_line_that_is_no_header_stays_with_its_stanza(line):
    for text in (f"la la\n{line}\n\nlo lo", f"la la\n\n{line}\nlo lo", f"la la\n{line}\nlo lo"):
        assert clean(text) == text


LINES = st.lists(
    st.tuples(
        st.sampled_from(["sung", "sung", "sung", "[Chorus]", "[verse 1:]", "[Music: N]", "[x2]"]),
        st.sampled_from(["\n", "\n", "\n\n", "\n \n", "\r\n\r\n", "\n\u00a0\n\n", "\n\n\n\n"]),
    ),
    min_size=1,
)


@given(LINES)
@settings(deadline=None)
def test_a_stanza_break_is_never_lost_and_never_invented(lines):
    sung, source = [], ""  # (line, was there a blank line or a bracket line since the one before?)
    apart = bracket = False
    for i, (kind, end) in enumerate(lines):
        if kind == "sung":
            sung.append((f"line {i}", apart, bracket))
            apart = bracket = False
        else:
            bracket = True
        source += (f"line {i}" if kind == "sung" else kind) + end
        apart = apart or end not in ("\n",)
    cleaned = clean(source).split("\n")
    places = [cleaned.index(line) for line, _, _ in sung]
    assert places == sorted(places)
    for before, after, (_, was_apart, had_bracket) in zip(
        places, places[1:], sung[1:], strict=False
    ):
        if was_apart:
            assert "" in cleaned[before:after]
        elif not had_bracket:
            assert after == before + 1


def test_strip_headers_takes_the_headers_and_keeps_stanzas_and_other_brackets():
    text = "[Verse 1]\nla\nlo\n\n[Chorus]\nlu [hey]\n\n[x2]\n\n[Repeat Chorus]\n\n[Outro]\nend"
    assert strip_headers(clean(text)) == "la\nlo\n\nlu [hey]\n\n[x2]\n\nend"


def test_sung_lines_are_neither_blank_nor_in_brackets():
    assert sung_lines("[Verse 1]\nla [hey]\n\n[x2]\n(oh)") == ["la [hey]", "(oh)"]


# --- repeats --------------------------------------------------------------------------------------

CHORUS = "[Chorus]\nSalt on\nthe rope"


@pytest.mark.parametrize(
    ("text", "expand", "once"),
    [
        (f"{CHORUS}\n\nla\n\n[Repeat Chorus]", f"{CHORUS}\n\nla\n\n{CHORUS}", f"{CHORUS}\n\nla"),
        (f"{CHORUS}\n\n[Outro]\nla\n\n[Chorus]", f"{CHORUS}\n\n[Outro]\nla\n\n{CHORUS}",
         f"{CHORUS}\n\n[Outro]\nla"),
        ("[Chorus x2]\nla\n\nlo", "[Chorus]\nla\n\n[Chorus]\nla\n\nlo", "[Chorus]\nla\n\nlo"),
        ("la\nlo (x2)\nlu", "la\nlo\nlo\nlu", "la\nlo\nlu"),
        ("la\nlo x3", "la\nlo\nlo\nlo", "la\nlo"),
        ("la (2x)\nlo [x2]", "la\nla\nlo\nlo", "la\nlo"),
        ("la\nlo\n(x2)\n\nlu", "la\nlo\n\nla\nlo\n\nlu", "la\nlo\n\nlu"),
        ("la\nlo\n\n2x", "la\nlo\n\nla\nlo", "la\nlo"),
        ("la\nlo\n[Repeat]", "la\nlo\n\nla\nlo", "la\nlo"),
        ("[Verse 1]\na\n\n[Verse 2]\nb\n\n[Repeat Verse 1]",
         "[Verse 1]\na\n\n[Verse 2]\nb\n\n[Verse 1]\na", "[Verse 1]\na\n\n[Verse 2]\nb"),
        ("la\n\n[Repeat Chorus]\n\nlo", "la\n\n[Repeat Chorus]\n\nlo", "la\n\nlo"),
        ("la\n\n[Chorus]", "la\n\n[Chorus]", "la"),
        ("[Solo]\nla\n\n[Solo]", "[Solo]\nla\n\n[Solo]", "[Solo]\nla"),
    ],
)  # fmt: skip
def test_repeats_are_written_out_or_go(text, expand, once):
    assert clean(text) == text
    assert repeats(text, "keep") == text
    assert repeats(text, "expand") == expand
    assert repeats(text, "once") == once


@pytest.mark.parametrize(
    "line",
    ["a board of 2x4", "Malcolm X", "solve for x", "an x 2 me", "box x360", "2x4", "X", "the x"],
)
def test_an_x_that_is_a_word_survives(line):
    for mode in ("expand", "once"):
        assert repeats(f"la\n{line}\nlo\n{line}", mode) == f"la\n{line}\nlo\n{line}"


def test_a_repeat_is_written_out_at_most_sixteen_times():
    assert repeats("la (x99)", "expand") == "\n".join(["la"] * 16)
    huge = "\n".join(["la"] * 9000) + "\n[x16]" * 50
    assert repeats(huge, "expand") == huge


# --- questions about a cleaned text ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[Instrumental]", "instrumental"), ("(Instrumental)", "instrumental"),
        ("This song is an instrumental.", "instrumental"),
        ("[Intro]\n\n[Instrumental]", "instrumental"),
        ("[lyrics were removed due to copyright holder's request]", "removed"),
        ("Lyrics for this song have yet to be released. Please check back once the song has been"
         " released.", "unreleased"),
        ("Lyrics not available or could not be extracted", "no lyrics"), ("No lyrics", "no lyrics"),
        ("Lyrics for this song have yet to be transcribed.", "no lyrics"),
        (f"[Instrumental]\n{BODY}", None), ("[Guitar Solo]", None), ("", None),
        ("An instrumental of my heart\nno lyrics for the rain", None),
        ("No lyrics\nfor you my dear", None),
    ],
)  # fmt: skip
def test_notices(text, kind):
    assert notice(clean(text)) == kind


@pytest.mark.parametrize(
    "marker",
    ["English translation:", "[Translation]", "(English Translation)", "Traducción:", "Übersetzung",
     "Traduction française", "[English version]", "Перевод:", "Translation:"],
)  # fmt: skip
def test_a_pasted_translation_is_split_off(marker):
    one, two = "la\nle\nli\nlo", "[Verse 1]\nda\nde\ndi\ndo"
    assert split_translation(clean(f"{one}\n\n{marker}\n\n{two}")) == (one, two)
    short = clean(f"{one}\n\n{marker}\n\nda\nde\ndi")
    assert split_translation(short) == (short, "")


@pytest.mark.parametrize(
    "line", ["Lost in translation", "Translation", "English", "My translation:"]
)
def test_a_sung_translation_splits_nothing(line):
    text = f"la\nle\nli\nlo\n{line}\nda\nde\ndi\ndo"
    assert split_translation(text) == (text, "")


@pytest.mark.parametrize("text", ["the m***ing rain", "you f**k", "d*mn", "oh sh**"])
def test_masked_words_are_seen(text):
    assert masked(text)


@pytest.mark.parametrize("text", ["**bold** word", "* * *", "*sigh*", "la * la", "2*3", "la"])
def test_other_stars_are_no_masked_words(text):
    assert not masked(text)


@pytest.mark.parametrize(
    ("line", "header", "name"),
    [
        ("[Verse 2: 2Pac]", "[Verse 2]", "2Pac"),
        ("[Verse 1: 50 Pence & Ann]", "[Verse 1]", "50 Pence & Ann"),
        ("[Verse 1: *Ann* & Bo]", "[Verse 1]", "Ann & Bo"),
        ("[Chorus: both]", "[Chorus]", "both"),
        ("[Chorus: will.of.wisp]", "[Chorus]", "will.of.wisp"),
        ("[Hook: $alt Grey]", "[Hook]", "$alt Grey"),
        ("[Chorus: Tide!]", "[Chorus]", "Tide!"),
    ],
)
def test_whoever_sings_a_verse_or_a_chorus_leaves_the_header(line, header, name):
    cleaned = clean_text(f"la la\n{line}\nlo lo")
    assert (cleaned.text, cleaned.performers) == (f"la la\n\n{header}\nlo lo", (name,))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("All the gullsYou might also like are gone", "All the gulls are gone"),
        ("the saltYou might also likesalt again", "the salt\nsalt again"),
        ("[汐「波」歌詞]\nla la", "la la"),
        ("Harbour of Salt LyricsThe pier was cold", "The pier was cold"),
        ("<script>var a = 1;</script>la la<!-- an ad -->", "la la"),
        ("la la\n[Drum Solo: Ann]\nla", "la la\n\n[Drum Solo]\nla"),
        ("‹ja› ‚nein‘", "'ja' 'nein'"),
    ],
)
def test_junk_that_a_stranger_found(text, expected):
    assert clean(text) == expected


def test_entities_in_entities_end():
    assert clean_text("la\n&" + "amp;" * 5000 + "é").text
