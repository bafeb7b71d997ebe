"""Genius's answers and pages -> songs. Texts are Robert Burns's (public domain) or invented."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.data.song import song_id
from backend.errors import PageError
from backend.scrapers import genius
from backend.scrapers.genius import artists_of, kind_of, listed, page_url, parse_page, song_of
from backend.scrapers.names import Link

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT.parent / "shared" / "data" / "pages" / "lyricsgenius"
BURNS = {"id": 7, "name": "Robert Burns"}
BOX = '<div data-lyrics-container="true" class="Lyrics__Container-sc-d019c5fa-1">'
HEAD = (
    '<div data-exclude-from-selection="true" class="LyricsHeader__Container-sc-3a">'
    "<button>6 Contributors</button><ul><li>Translations</li><li>Türkçe</li></ul>"
    "<h2>To a Mouse Lyrics</h2><p>A poem about … Read More</p></div>"
)
ASIDE = '<div class="RightSidebar__Container"><aside>You might also like</aside></div>'
FOOT = '<div class="LyricsFooter__Container">12<button>Embed</button></div>'
ADVERT = '<div data-exclude-from-selection="true">See Burns LiveGet tickets as low as $17</div>'


def page(*containers, around=("", "")):
    body = f"{ASIDE}{ADVERT}".join(f"{BOX}{text}</div>" for text in containers)
    before, after = around
    html = f'<html><body><div id="lyrics-root">{before}{body}{after}{FOOT}</div></body></html>'
    return html.encode()


def text_of(*containers):
    kind, text = parse_page(page(*containers), "u")
    assert kind == "song"
    return text


def song(**how):
    known = {
        "id": 42, "title": "To a Mouse", "url": "https://genius.com/Robert-burns-to-a-mouse-lyrics",
        "primary_artist": BURNS, "lyrics_state": "complete", "instrumental": False,
    }  # fmt: skip
    return known | how


# --- the page ------------------------------------------------------------------------------------


def test_the_text_is_exact_without_what_stands_around_it():
    html = page(
        f"{HEAD}[Verse 1]<br/>Wee, sleekit, cow&#x27;rin, <i>tim&#x27;rous</i> beastie<br/>"
        '<a href="/1/x" class="ReferentFragment"><span>O, what a panic<br/>in thy breastie</span>'
        "</a><br/><br/>[Chorus: A &amp; <b>B</b>]<br/>Thou need na start<!-- no -->",
    )
    assert parse_page(html, "u") == ("song", (
        "[Verse 1]\nWee, sleekit, cow'rin, tim'rous beastie\nO, what a panic\nin thy breastie\n\n"
        "[Chorus: A & B]\nThou need na start"
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("containers", "text"),
    [
        (["a<br/>b<br/>", "", "[Chorus]<br/>c"], "a\nb\n\n[Chorus]\nc"),  # a real page
        (["a<br/>b", "<br/>c"], "a\nb\nc"),  # lyricsgenius's fixture
        (["a<br/>eps", "[Guitar Solo]<br/>c"], "a\neps\n[Guitar Solo]\nc"),  # glued elsewhere
        (["a<br/><br/>", "", "<br/>c"], "a\n\nc"),
        (["", "a", ""], "a"),
        ([f"{HEAD}", "a<br/>b"], "a\nb"),
        (["a<br/>You might also like<br/>Embed"], "a\nYou might also like\nEmbed"),  # sung
        (["a<br/><br/><br/>b"], "a\n\n\nb"),
    ],
)
def test_a_line_ends_where_a_container_does_and_no_stanza_is_lost_or_made(containers, text):
    assert text_of(*containers) == text


def test_a_container_within_another_is_read_once():
    assert text_of(f"a<br/>{BOX}b</div>") == "a\nb"


@pytest.mark.parametrize(
    "html",
    [
        '<div class="Lyrics__Container-sc-1">a<br/>b<br/><br/>c</div>',
        '<div class="lyrics"><p>a<br>\nb</p><p>c</p></div>',
        '<div class="lyrics"><p>a<br>\nb<br>\n<br>\nc</p></div>',
    ],
)
def test_older_themes_are_read(html):
    assert parse_page(html.encode(), "u") == ("song", "a\nb\n\nc")


def state(html, reason=None):
    text = json.dumps({"songPage": {"lyricsData": {
        "body": {"html": html}, "lyricsPlaceholderReason": reason}}})  # fmt: skip
    literal = text.replace("\\", "\\\\").replace("'", "\\'").replace('"', '\\"')
    return f"<script>window.__PRELOADED_STATE__ = JSON.parse('{literal}');</script>".encode()


WORD = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="<>&["))


@given(WORD.filter(lambda text: len(text.split()) == 1))
def test_without_containers_the_state_of_the_page_is_read(word):
    assert parse_page(state(f"<p>{word}<br>\nit’s “b” 😀</p>"), "u") == (
        "song", f"{word}\nit’s “b” 😀".strip("\n"))  # fmt: skip


def test_a_character_in_two_halves_is_one():
    html = rb"""<script>window.__PRELOADED_STATE__ = JSON.parse('{\"songPage\":{\"lyricsData\":
{\"body\":{\"html\":\"a \uD83D\uDE00 \\uD83D\\uDE00 \x41\"}}}}');</script>"""
    assert parse_page(html, "u") == ("song", "a 😀 😀 A")


@pytest.mark.parametrize(
    ("html", "kind"),
    [
        (page("Lyrics for this song have yet to be released. Please check back once the song has"
              " been released."), "unreleased"),
        (page("", around=("<div>This song is an instrumental</div>", "")), "instrumental"),
        (page("[Instrumental]"), "instrumental"),
        (state("", "unreleased"), "unreleased"),
        (state("", "instrumental"), "instrumental"),
    ],
)  # fmt: skip
def test_a_page_without_text_says_why(html, kind):
    assert parse_page(html, "u") == (kind, None)


def test_a_song_may_sing_what_a_placeholder_says():
    text = "<br/>".join(["This song is an instrumental, he said", *["and went away"] * 30])
    assert parse_page(page(text), "u")[0] == "song"


@pytest.mark.parametrize(
    "html",
    [b"", b"<html></html>", page(), page(" "), page(HEAD), b"<title>Home</title>", state(None),
     b"\xff\xfe\x00"],
)  # fmt: skip
def test_a_page_that_neither_has_a_text_nor_says_why_is_an_error(html):
    with pytest.raises(PageError, match="shows no lyrics"):
        parse_page(html, "u")


@given(st.binary())
def test_any_bytes_are_a_page_or_an_error(html):
    try:
        kind, text = parse_page(html, "u")
    except PageError:
        return
    assert (kind == "song") == (text is not None)


def test_the_fixture_of_lyricsgenius_reads_the_same_from_containers_and_from_the_state():
    if not FIXTURES.is_dir():
        pytest.skip(f"{FIXTURES} is not here")
    html = (FIXTURES / "song_page.html").read_bytes()
    kind, text = parse_page(html, "u")
    assert kind == "song"
    assert text.startswith("[Setup]\nAssert the true")
    assert text.endswith("Test complete, green light bright")
    bare = html[: html.index(b'<div id="lyrics-root"')] + html[html.index(b"<script") :]
    assert parse_page(bare, "u") == (kind, text)
    rows = json.loads((FIXTURES / "song_info_mocked.json").read_text())
    assert [song_of(row, kind=kind_of(row), lyrics=None, fetched_at="x").album for row in rows[:2]
            ] == ["Mock Album"] * 2  # fmt: skip


# --- the API -------------------------------------------------------------------------------------


def hit(**how):
    return {"type": "song", "result": song(**how)}


def test_artists_are_those_of_the_songs_found_each_once_and_no_curators_account():
    others = ["Genius Traducciones al Español", "Genius Türkçe Çeviriler", "Genius Romanizations",
              "Genius English Translations", "Genius Brasil Traduções"]  # fmt: skip
    answer = {"hits": [
        hit(),
        hit(featured_artists=[{"id": 8, "name": "Jean Armour"}]),
        *[hit(primary_artist={"id": 100 + i, "name": name}) for i, name in enumerate(others)],
        hit(primary_artist={"id": 9, "name": "Genius Club"}),
        {"result": {"id": 10, "name": "William Dunbar"}},  # a search for artists
        {"result": None}, {}, hit(primary_artist=None), hit(primary_artist={"id": "x"}),
    ]}  # fmt: skip
    assert artists_of(answer) == [
        Link(name, f"https://api.genius.com/artists/{key}") for key, name in
        [(7, "Robert Burns"), (8, "Jean Armour"), (9, "Genius Club"), (10, "William Dunbar")]
    ]  # fmt: skip
    assert artists_of({"sections": [{"hits": answer["hits"][:1]}]}) == artists_of(answer)[:1]
    assert artists_of({"hits": "none"}) == []


def test_a_list_is_of_the_artists_own_songs_by_id_and_counts_the_others():
    guest = song(id=1, primary_artist={"id": 9, "name": "Robert Burns"})
    shared = song(id=2, primary_artist={"id": 9}, primary_artists=[{"id": 9}, BURNS])
    found = listed({"songs": [song(), guest, shared], "next_page": 3}, 7)
    assert [row["id"] for row in found.songs] == [42, 2]
    assert (found.others, found.next_page) == (1, 3)
    assert listed({"songs": [], "next_page": None}, 7).next_page is None
    with pytest.raises(PageError):
        listed({"response": {}}, 7)


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ({}, "song"),
        ({"lyrics_state": "incomplete"}, "song"),
        ({"instrumental": True}, "instrumental"),
        ({"title": "Tam (Instrumental)"}, "instrumental"),
        ({"lyrics_state": "unreleased"}, "unreleased"),
        ({"url": "https://genius.com/Genius-may-releases-annotated"}, "nonsong"),
        ({"primary_artist": {"id": 1, "name": "Genius Übersetzungen"}}, "translation"),
        ({"song_relationships": [{"relationship_type": "translation_of", "songs": [{"title": "X"}]}
                                 ]}, "translation"),
        ({"song_relationships": [{"type": "translations", "songs": [{"title": "X"}]}]}, "song"),
        ({"song_relationships": [{"type": "translation_of", "songs": []}]}, "song"),
    ],
)  # fmt: skip
def test_the_api_says_what_kind_of_row_it_is(how, kind):
    assert kind_of(song(**how)) == kind


def record(**how):
    return song_of(song(**how), kind="song", lyrics="Wee", fetched_at="now")


def test_a_record_has_what_the_api_and_the_page_say():
    found = record(album={"name": "Kilmarnock"}, release_date_components={"year": 1786, "month": 7},
                   language="sco")  # fmt: skip
    assert found.id == song_id("genius", "42")
    assert (found.artist, found.title, found.album) == ("Robert Burns", "To a Mouse", "Kilmarnock")
    assert (found.year, found.language, found.kind, found.lyrics) == (1786, "sco", "song", "Wee")
    assert found.url.endswith("to-a-mouse-lyrics")
    bare = song_of({"id": 1}, kind="song", lyrics=None, fetched_at="now")
    assert (bare.title, bare.artist, bare.album, bare.year) == ("untitled", None, None, None)
    odd = record(album="x", release_date_components={"year": "1786"}, language=["en"])
    assert (odd.album, odd.year, odd.language) == (None, None, None)


def test_a_version_names_its_relation_by_the_api_first_then_by_its_title():
    live = {"relationship_type": "live_version_of", "songs": [{"full_title": "Mouse by R. Burns"}]}
    assert record(song_relationships=[live]).version_of == "live: Mouse by R. Burns"
    assert record(title="Mouse (Demo)").version_of == "demo: Mouse"
    both = record(title="Mouse (Demo)", song_relationships=[live, {"type": "samples"}])
    assert both.version_of == "live: Mouse by R. Burns"
    assert record().version_of is None


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("Kilmarnock [Tracklist]", "nonsong"), ("Kilmarnock (Album Art)", "nonsong"),
        ("Tracklist", "nonsong"), ("The Tavern (Skit)", "nonsong"), ("Poems - Credits", "nonsong"),
        ("Interview", "song"), ("Skittles", "song"), ("Credits Roll", "song"),
    ],
)  # fmt: skip
def test_what_stands_beside_songs_keeps_its_text_and_says_so(title, kind):
    found = record(title=title)
    assert (found.kind, found.lyrics) == (kind, "Wee")


def test_an_address_that_is_not_genius_s_is_not_followed():
    assert page_url(song()).startswith(genius.WEB)
    for url in ("http://genius.com/x", "https://evil.invalid/x", None, 5):
        with pytest.raises(PageError, match="no page of"):
            page_url(song(url=url))
    with pytest.raises(PageError, match="no id"):
        genius.song_in({"song": {"title": "X"}})
