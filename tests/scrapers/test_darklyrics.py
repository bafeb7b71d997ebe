"""DarkLyrics's pages -> links and songs. Texts are Robert Burns's (public domain) or invented."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.data.song import song_id
from backend.errors import PageError
from backend.scrapers import darklyrics
from backend.scrapers.darklyrics import parse_album, parse_artist, parse_heading, parse_home
from backend.scrapers.darklyrics import parse_index as parse_letter
from backend.scrapers.names import Link

ROOT = Path(__file__).resolve().parents[2]
SKELETON = ROOT.parent / "shared" / "data" / "pages" / "darklyrics_skeleton"
URL = "http://www.darklyrics.com/lyrics/robertburns/auldsongs.html"
LETTERS = [*"abcdefghijklmnopqrstuvwxyz", "19"]

AULD_LANG_SYNE = """\
[Lyrics: Robert Burns]

Should auld acquaintance be forgot,
And never brought to min’?

[Chorus:]
For auld lang syne, my jo,
For auld lang syne,
We’ll tak a cup o’ kindness yet,
For auld lang syne.

[Solo]

[Repeat Chorus]"""
RED_ROSE = """\
O my Luve's like a red, red rose,
That's newly sprung in June:
O my Luve's like the melodie,
That's sweetly play'd in tune."""

CREDITS = """
<br /><div class="thanks">Robert Burns — Words<br />
<br />
Thanks to someone for sending these lyrics.<br />
Thanks to someone_else for correcting track #2 lyrics.</div><br />

<br /><div class="note">Submits, comments, corrections are welcomed at \
webmaster@darklyrics.com</div>
<br /><br /><a href="http://www.darklyrics.com/r/robertburns.html">ROBERT BURNS LYRICS</a>
"""


def head(number, title, anchor=None):
    return f'<h3><a name="{anchor or number}">{number}. {title}</a></h3><br />\n'


def printed(text):
    """Text as the site prints it: a <br /> after each line, stage directions in italics."""
    return "".join(
        (f"<i>{line}</i>" if line.startswith("[") else line) + "<br />\n"
        for line in text.split("\n")
    )


def song(number, title, text):
    return head(number, title) + (printed(text) if text else "") + "<br /><br />\n"


def page(
    *songs,
    credits=CREDITS,
    heading='album: "Auld Songs" (1796)',
    title="ROBERT BURNS LYRICS - &quot;Auld Songs&quot; (1796) album",
    charset='<meta http-equiv="Content-Type" content="text/html; charset=utf-8" />',
):
    """An album page in the exact shape of the site's."""
    nav = "".join(f'<a class="lrb" href="/{x}.html">{x.upper()}</a>' for x in LETTERS)
    tracks = "".join(f'<a href="#{n}">{n}. Track</a><br />\n' for n in range(1, len(songs) + 1))
    return f"""\
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN" \
"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">
<head>
<title>{title}</title>
{charset}
<meta name="robots" content="noarchive" />
</head>
<body onload="ss_init();">
<div id="main">
<div class="llyr m10t notranslate">
<a class="clink fl" href="/submit.html">SUBMIT LYRICS</a>
METAL LYRICS - CURRENTLY <span>13 800+</span> ALBUMS FROM <span>4500+</span> BANDS
<div class="cb"></div>
</div>
<div class="listrow">
{nav}
</div>
<div class="cntwrap">
<div class="cont">
<h1><a href="http://www.darklyrics.com/r/robertburns.html">ROBERT BURNS LYRICS</a></h1>
<div class="albumlyrics">
<h2>{heading}</h2>
{tracks}
<br /></div>
<script language="javascript" type="text/javascript" src="../../rect.js"></script>
<div class="lyrics">
{"".join(songs)}
{credits}</div>
<div id="dlgtr1" class="trdlg">
<select id="seltr1"><option value="0" selected="selected">-Select Language-</option></select>
</div>
</div>
</div>
<div class="listrow">
{nav}
</div>
<div class="copyright notranslate">All lyrics are the property of their owners.<br /></div>
</div>
</body>
</html>
""".encode()


def songs_of(html, url=URL):
    return parse_album(html, url, source="darklyrics", fetched_at="2026-08-10T00:00:00+00:00")


def lyrics_of(*songs, **how):
    return [s.lyrics for s in songs_of(page(*songs, **how))]


# --- the text of songs ---------------------------------------------------------------------------


def test_the_text_of_each_song_is_exact_with_stanzas_and_stage_directions():
    found = songs_of(
        page(
            song(1, "Intro", "[Instrumental]"),
            song(2, "Auld Lang Syne", AULD_LANG_SYNE),
            song(3, "A Red, Red Rose", RED_ROSE),
            song(4, "Ca' The Yowes (Demo)", ""),
        )
    )
    assert [s.lyrics for s in found] == [None, AULD_LANG_SYNE, RED_ROSE, None]
    assert [s.kind for s in found] == ["instrumental", "song", "song", "empty"]
    assert [s.title for s in found] == [
        "Intro",
        "Auld Lang Syne",
        "A Red, Red Rose",
        "Ca' The Yowes (Demo)",
    ]


def test_a_song_carries_where_and_when_it_is_from():
    _, found = songs_of(page(song(1, "Intro", "[Instrumental]"), song(2, "Rose", RED_ROSE)))
    assert found.source == "darklyrics"
    assert (found.artist, found.album, found.year) == ("ROBERT BURNS", "Auld Songs", 1796)
    assert (found.track, found.url) == (2, f"{URL}#2")
    assert found.fetched_at == "2026-08-10T00:00:00+00:00"


def test_the_id_of_a_song_is_its_path_and_fragment_whatever_the_host():
    html = page(song(7, "Rose", RED_ROSE))
    (here,) = songs_of(html)
    (mirror,) = songs_of(html, URL.replace("www.darklyrics.com", "mirror.invalid"))
    assert here.id == mirror.id == song_id("darklyrics", "/lyrics/robertburns/auldsongs.html#7")
    assert len(here.id) == 16


LINE = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp"), exclude_characters="&<>[]"),
    max_size=20,
).filter(lambda line: line.strip())  # fmt: skip


@given(st.lists(st.lists(LINE, min_size=1, max_size=4), min_size=1, max_size=3))
def test_any_lines_and_stanzas_come_back_as_they_were_printed(stanzas):
    text = "\n\n".join("\n".join(stanza) for stanza in stanzas)
    text += "\nGang aft a-gley"  # whatever came before, it is a song
    assert lyrics_of(song(1, "Any", text), song(2, "Rose", RED_ROSE)) == [text, RED_ROSE]


@pytest.mark.parametrize(
    "credits",
    [
        CREDITS,
        CREDITS.replace('<div class="thanks">', '<div class="note">', 1),
        CREDITS[CREDITS.index('<br /><div class="note">') :],  # nobody to thank
        '<br /><br /><a href="http://www.darklyrics.com/r/robertburns.html">ROBERT BURNS</a>\n',
        "",
    ],
    ids=["thanks and note", "two notes", "note alone", "link alone", "nothing"],
)
@pytest.mark.parametrize("last", [RED_ROSE, "[Instrumental]", ""])
def test_credits_thanks_and_note_never_leak_into_the_last_song(credits, last):
    found = songs_of(page(song(1, "Syne", AULD_LANG_SYNE), song(2, "Last", last), credits=credits))
    assert [s.lyrics for s in found] == [AULD_LANG_SYNE, RED_ROSE if last == RED_ROSE else None]
    assert found[1].kind == {RED_ROSE: "song", "[Instrumental]": "instrumental", "": "empty"}[last]


def test_a_song_line_that_starts_like_a_heading_stays_in_its_song():
    text = "1. The best laid schemes\n2. O' mice an' men\nGang aft a-gley"
    assert lyrics_of(song(1, "Counting", text), song(2, "Rose", RED_ROSE)) == [text, RED_ROSE]


def test_a_leading_space_on_a_line_is_kept():
    text = " Wee, sleekit, cow'rin,\n  tim'rous beastie,\nO, what a panic's"
    assert lyrics_of(song(1, "To a Mouse", text)) == [text]


def test_words_of_the_page_itself_may_stand_in_a_song():
    text = "Search the email, print the album:\nsubmit, comments, corrections\nROBERT BURNS LYRICS"
    assert lyrics_of(song(1, "Chrome", text)) == [text]


def test_line_breaks_of_the_source_mean_nothing():
    body = head(1, "A") + "O my\nLuve's<br />like\r\na red<br />\r\n<br />\r\nred rose<br />\n"
    assert lyrics_of(body) == ["O my Luve's\nlike a red\n\nred rose"]


def test_two_songs_run_together_in_the_source_are_still_two():
    body = '<h3><a name="1">1. A</a></h3><br />O my Luve<br />'
    body += '<h3><a name="2">2. B</a></h3><br />Wee beastie<br />'
    assert lyrics_of(body) == ["O my Luve", "Wee beastie"]


def test_bold_and_italic_words_stay_and_comments_and_scripts_vanish():
    body = head(1, "A") + "O <b>my</b> <i>Luve</i><!-- hidden --><script>x()</script><br />\n"
    assert lyrics_of(body) == ["O my Luve"]


@pytest.mark.parametrize("tag", ["i", "b", "em", "font"])
def test_an_unclosed_tag_does_not_swallow_the_songs_after_it(tag):
    # The pages are not always well-formed.
    body = head(1, "A") + f"<{tag}>[Solo]<br />\nO my Luve<br />\n<br /><br />\n"
    found = songs_of(page(body, song(2, "Syne", AULD_LANG_SYNE), song(3, "Rose", RED_ROSE)))
    assert [s.title for s in found] == ["A", "Syne", "Rose"]
    assert [s.lyrics for s in found] == ["[Solo]\nO my Luve", AULD_LANG_SYNE, RED_ROSE]


def test_a_stray_closing_tag_ends_nothing():
    body = head(1, "A") + "O my Luve</i></p></font><br />\nred rose<br />\n<br /><br />\n"
    assert lyrics_of(body, song(2, "Rose", RED_ROSE)) == ["O my Luve\nred rose", RED_ROSE]


def test_songs_wrapped_in_another_element_are_found_or_the_page_is_refused():
    html = page("<div>", song(1, "Rose", RED_ROSE), "</div>")
    try:
        found = songs_of(html)
    except PageError:
        return
    assert [s.lyrics for s in found] == [RED_ROSE]


# --- kinds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    ["<i>[Instrumental]</i><br />", "[instrumental]<br />", "(Instrumental)<br />",
     "Instrumental.<br />", "<i>[Instrumental song]</i><br />"],
)  # fmt: skip
def test_an_instrumental_has_no_text(body):
    (found,) = songs_of(page(head(1, "Intro") + body + "\n<br /><br />\n"))
    assert (found.kind, found.lyrics) == ("instrumental", None)


@pytest.mark.parametrize("body", ["", "<br /><br />\n", " <br />\n&nbsp;<br />\n", "<i></i>"])
def test_a_heading_without_text_is_empty(body):
    (found, after) = songs_of(page(head(1, "Silence") + body, song(2, "Rose", RED_ROSE)))
    assert (found.kind, found.lyrics) == ("empty", None)
    assert after.lyrics == RED_ROSE


@pytest.mark.parametrize(
    "notice",
    [
        "[Lyrics were removed due to copyright holder's request]",
        "<i>[lyrics were removed due to the copyright holder's request]</i>",
    ],
)
def test_a_notice_in_place_of_the_text_is_not_a_text(notice):
    (found,) = songs_of(page(head(1, "Gone") + f"{notice}<br />\n"))
    assert (found.kind, found.lyrics) == ("removed", None)


def test_a_song_with_an_instrumental_part_is_a_song():
    text = "[Instrumental]\n\nO my Luve's like a red, red rose\n\n[Instrumental]"
    (found,) = songs_of(page(song(1, "Rose", text)))
    assert (found.kind, found.lyrics) == ("song", text)


# --- headings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "album", "year"),
    [
        ('album: "Auld Songs" (1796)', "Auld Songs", 1796),
        ('EP: "Tam" (1791)', "Tam", 1791),
        ('compilation: "Auld Songs"', "Auld Songs", None),
        ('album: "Format C: For Cortex" (2004)', "Format C: For Cortex", 2004),
        ('album: "White Noise / Black Silence" (2001)', "White Noise / Black Silence", 2001),
        ('album: "The "Best" Laid Schemes" (1785)', 'The "Best" Laid Schemes', 1785),
        ('album: "Tam (Live)" (1791)', "Tam (Live)", 1791),
        ('album: "1984 (2001)" (1999)', "1984 (2001)", 1999),
        ("Auld Songs (1796)", "Auld Songs", 1796),
        ("", "", None),
    ],
)
def test_album_and_year_are_read_from_any_heading(text, album, year):
    assert parse_heading(text) == (album, year)
    (found,) = songs_of(page(song(1, "Rose", RED_ROSE), heading=text))
    assert (found.album, found.year) == (album, year)


def test_songs_of_no_release_have_no_album():
    (found,) = songs_of(page(song(1, "Rose", RED_ROSE), heading="non-album songs"))
    assert (found.album, found.year) == (None, None)


@given(st.text())
def test_no_heading_breaks_the_page(text):
    title, year = parse_heading(text)
    assert title in text
    assert year is None or 0 <= year <= 9999


def test_titles_keep_their_punctuation():
    for shown, title in [
        ("White Noise / Black Silence", "White Noise / Black Silence"),
        ("Tam &amp; Meg: A Tale (Demo)", "Tam & Meg: A Tale (Demo)"),
        ("2. Second", "2. Second"),
        ("1785", "1785"),
        ("&quot;Auld&quot;", '"Auld"'),
    ]:
        assert songs_of(page(head(3, shown) + "la<br />\n"))[0].title == title


def test_songs_without_anchors_are_still_told_apart():
    body = "<h3>1. Auld Lang Syne</h3><br />\n" + printed(AULD_LANG_SYNE)
    body += "<h3>2. Rose</h3><br />\n" + printed(RED_ROSE)
    body += "<h3>Untracked</h3><br />\nWee beastie<br />\n"
    found = songs_of(page(body))
    assert [s.lyrics for s in found] == [AULD_LANG_SYNE, RED_ROSE, "Wee beastie"]
    assert [s.title for s in found] == ["Auld Lang Syne", "Rose", "Untracked"]
    assert [s.track for s in found] == [1, 2, None]
    assert len({s.id for s in found}) == 3
    with_anchors = songs_of(page(song(1, "Auld Lang Syne", AULD_LANG_SYNE)))
    assert found[0].id == with_anchors[0].id


def test_a_page_without_headings_of_artist_and_album_still_gives_its_songs():
    html = f'<html><body><div class="lyrics">{song(1, "Rose", RED_ROSE)}</div></body></html>'
    (found,) = songs_of(html.encode())
    assert found.lyrics == RED_ROSE
    assert (found.artist, found.album, found.year) == (None, None, None)


# --- encodings -----------------------------------------------------------------------------------


def test_a_page_is_utf8_whether_it_says_so_or_not():
    text = "We’ll tak a cup — “o’ kindness” yet, Ægir, Дым, 夜"
    assert lyrics_of(song(1, "Syne", text)) == [text]
    assert lyrics_of(song(1, "Syne", text), charset="") == [text]
    wrong = '<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-1" />'
    assert lyrics_of(song(1, "Syne", text), charset=wrong) == [text]


def test_a_stray_byte_costs_one_character_not_the_page():
    html = page(song(1, "Rose", RED_ROSE)).replace(b"sprung", b"spr\xfcng")
    assert songs_of(html)[0].lyrics == RED_ROSE.replace("sprung", "sprüng")


def test_a_page_of_another_encoding_is_read():
    html = page(song(1, "Rose", RED_ROSE.replace("sprung", "sprüng — “now”")), charset="")
    wanted = RED_ROSE.replace("sprung", "sprüng — “now”")
    assert songs_of(html)[0].lyrics == wanted
    assert songs_of(b"\xef\xbb\xbf" + html)[0].lyrics == wanted
    assert songs_of(html.decode().encode("utf-16"))[0].lyrics == wanted
    assert songs_of(html.decode().encode("cp1252"))[0].lyrics == wanted


def test_a_character_that_was_cut_is_marked():
    html = page(song(1, "Rose", RED_ROSE + " 夜")).replace("夜".encode(), "夜".encode()[:2])
    assert songs_of(html)[0].lyrics == RED_ROSE + " \ufffd"


def test_entities_are_characters():
    body = head(1, "A") + "rock &amp; roll &lt;3 &#8217; &eacute;<br />\n"
    assert lyrics_of(body) == ["rock & roll <3 ’ é"]


# --- pages that are not what they should be ------------------------------------------------------

NOT_FOUND = b"<html><head><title>Page not Found</title></head><body>not Found</body></html>"


@pytest.mark.parametrize(
    "html",
    [b"", b"<html></html>", b"\x00\xff\xfe", page(), NOT_FOUND,
     b'<html><body><div class="lyrics"></div></body></html>'],
)  # fmt: skip
@pytest.mark.parametrize("parse", [songs_of, lambda html: parse_artist(html, URL),
                                   lambda html: parse_letter(html, URL)])  # fmt: skip
def test_a_page_without_what_it_should_hold_is_an_error_not_an_empty_result(html, parse):
    with pytest.raises(PageError):
        parse(html)


@pytest.mark.parametrize("html", [b"", b"<html></html>", NOT_FOUND])
def test_a_home_page_without_letters_is_an_error(html):
    with pytest.raises(PageError):
        parse_home(html, darklyrics.SITE)


def test_an_error_names_the_page():
    with pytest.raises(PageError, match="auldsongs.html shows no songs"):
        songs_of(page())


def test_an_album_whose_name_says_not_found_is_no_missing_page():
    title = "ROBERT BURNS LYRICS - &quot;Home Not Found&quot; (1796) album"
    assert lyrics_of(song(1, "Rose", RED_ROSE), title=title) == [RED_ROSE]


# --- pages that lead on --------------------------------------------------------------------------


def links(body):
    return f"<html><title>X</title><body>{body}</body></html>".encode()


def test_the_home_page_leads_to_all_letters_and_to_the_digits():
    found = parse_home(page(), darklyrics.SITE + darklyrics.HOME)
    assert list(found) == LETTERS
    assert found["19"] == "http://www.darklyrics.com/19.html"


def test_a_letter_page_gives_the_artists_of_both_columns():
    html = links(
        '<div class="artists fl"><a href="r/robertburns.html">ROBERT BURNS</a><br /></div>'
        '<div class="artists fr"><a href="/r/ronald.html">RONALD  (SCOTLAND)</a><a href="r/x.html">'
        "</a></div>"
    )
    assert parse_letter(html, "http://www.darklyrics.com/r.html") == [
        Link("ROBERT BURNS", "http://www.darklyrics.com/r/robertburns.html"),
        Link("RONALD (SCOTLAND)", "http://www.darklyrics.com/r/ronald.html"),
    ]


def test_old_forms_of_the_sites_name_are_its_own_and_nonsense_is_no_link():
    html = links(
        '<div class="artists fl"><a href="https://darklyrics.com/r/a.html">A</a>'
        '<a href="HTTP://www.DarkLyrics.com/r/b.html">B</a>'
        '<a href="http://[x">C</a></div>'
    )
    found = parse_letter(html, "http://www.darklyrics.com/r.html")
    assert [link.url for link in found] == [
        "http://www.darklyrics.com/r/a.html",
        "http://www.darklyrics.com/r/b.html",
    ]


def test_a_letter_may_have_no_artists():
    assert parse_letter(links('<div class="artists fl"></div>'), URL) == []


def test_an_artist_page_gives_each_album_once_in_the_order_of_the_page():
    html = links(
        '<div class="cont"><h1>ROBERT BURNS LYRICS</h1>'
        '<div class="album"><h2>album: <strong>"Auld Songs"</strong> (1796)</h2>'
        '<a href="../lyrics/robertburns/auldsongs.html#1">Intro</a><br />'
        '<a href="../lyrics/robertburns/auldsongs.html#2">Syne</a><br /></div>'
        '<div class="album"><h2>EP: <strong>"Tam"</strong> (1791)</h2>'
        '<a href="../lyrics/robertburns/tam.html#1">Tam</a><br /></div>'
        '<a href="/submit.html">SUBMIT</a></div>'
    )
    assert parse_artist(html, "http://www.darklyrics.com/r/robertburns.html") == [
        Link('album: "Auld Songs" (1796)', URL),
        Link('EP: "Tam" (1791)', "http://www.darklyrics.com/lyrics/robertburns/tam.html"),
    ]


# --- the skeleton pages --------------------------------------------------------------------------


@pytest.fixture
def skeleton():
    if not SKELETON.is_dir():
        pytest.skip(f"{SKELETON} is not here")
    return lambda name: (SKELETON / name).read_bytes()


def test_the_skeleton_album_gives_its_four_songs_exactly(skeleton):
    found = songs_of(skeleton("album.html"))
    assert [s.lyrics for s in found] == [None, AULD_LANG_SYNE, RED_ROSE, None]
    assert [s.kind for s in found] == ["instrumental", "song", "song", "empty"]
    assert {(s.artist, s.album, s.year) for s in found} == {("ROBERT BURNS", "Auld Songs", 1796)}


def test_the_skeleton_artist_gives_two_releases(skeleton):
    found = parse_artist(skeleton("artist.html"), "http://www.darklyrics.com/r/robertburns.html")
    assert [link.name for link in found] == ['album: "Auld Songs" (1796)', 'EP: "Tam" (1791)']
    assert found[0].url == URL


def test_the_skeleton_letter_page_gives_both_columns_and_the_letters(skeleton):
    url = "http://www.darklyrics.com/r.html"
    found = parse_letter(skeleton("index_r.html"), url)
    assert [link.name for link in found] == ["ROBERT BURNS", "RONALD AIRD (SCOTLAND)"]
    assert found[0].url == "http://www.darklyrics.com/r/robertburns.html"
    assert list(parse_home(skeleton("index_r.html"), url)) == LETTERS


def test_the_skeleton_search_page_is_neither_album_nor_letter(skeleton):
    html = skeleton("search.html")
    for parse in (songs_of, lambda html: parse_letter(html, URL)):
        with pytest.raises(PageError):
            parse(html)


def test_a_link_inside_a_song_keeps_its_words_and_what_follows():
    body = '<h3><a name="1">1. A</a></h3>one<br />\nsee <a href="/x">here</a> for more<br />\nthree'
    html = f'<html><body><div class="lyrics">{body}</div></body></html>'
    (song,) = parse_album(html.encode(), URL, source="darklyrics", fetched_at="now")
    assert song.lyrics == "one\nsee here for more\nthree"


def test_two_songs_under_one_number_keep_their_own_ids():
    body = (
        '<h3><a name="1">1. A</a></h3><br />\none<br />\n<h3><a name="1">1. B</a></h3><br />\ntwo'
    )
    html = f'<html><body><div class="lyrics">{body}</div></body></html>'
    songs = parse_album(html.encode(), URL, source="darklyrics", fetched_at="now")
    assert [song.lyrics for song in songs] == ["one", "two"]
    assert len({song.id for song in songs}) == 2
