"""The fetcher against a real server that misbehaves in every way a site can."""

import gzip
import socket
import threading
import time
import tracemalloc
import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend import __version__
from backend.errors import Blocked, ConfigError, Gone, HostStopped, NetworkError, PageError
from backend.scrapers import fetch
from backend.scrapers.fetch import Fetcher, retry_after_s

SITE = "http://verse.invalid/"  # never resolves: whatever arrives came from the test's server
URL = SITE + "a.html"
POEM = "<p>The best laid schemes o' mice an' men<br />Gang aft a-gley</p>"


@pytest.fixture
def waits():
    """Seconds that the fetcher wanted to sleep; it does not really sleep."""
    return []


@pytest.fixture
def fetcher(server, waits):
    def make(**how):
        how = {"delay_s": 0, "backoff_s": 0.01, "sleep": waits.append} | how
        return Fetcher(SITE, served_at=how.pop("served_at", server.address), **how)

    return make


# --- a page --------------------------------------------------------------------------------------


def test_a_page_comes_whole_under_the_sites_own_address(server, fetcher):
    server.answer("/a.html", POEM, headers={"X-Thing": "yes"})
    page = fetcher().get(URL)
    assert (page.url, page.status, page.body) == (URL, 200, POEM.encode())
    assert page.headers["x-thing"] == "yes"
    age = datetime.now(UTC) - datetime.fromisoformat(page.fetched_at)
    assert timedelta(seconds=-1) < age < timedelta(seconds=30)


def test_the_bytes_of_a_page_are_not_touched(server, fetcher):
    body = "é — ’ 夜".encode() + b"\xff\r\n \n"
    server.answer("/a.html", body)
    assert fetcher().get(URL).body == body


def test_a_compressed_page_is_unpacked(server, fetcher):
    server.answer("/a.html", gzip.compress(POEM.encode()), headers={"Content-Encoding": "gzip"})
    assert fetcher().get(URL).body == POEM.encode()


def test_an_address_of_another_host_is_never_asked(server, fetcher):
    for url in ("http://other.invalid/a.html", "http://verse.invalid.evil.example/a.html"):
        with pytest.raises(NetworkError, match="is not on"):
            fetcher().get(url)
    assert server.asked == []


def test_a_mirror_may_live_in_a_folder(server, fetcher):
    server.answer("/mirror/a.html", POEM)
    assert fetcher(served_at=server.address + "mirror").get(URL).url == URL


def test_the_user_agent_says_who_we_are(server, fetcher, monkeypatch):
    server.answer("/a.html", POEM)
    fetcher().get(URL)
    monkeypatch.setenv("CRAWL_CONTACT", "rab@ellisland.invalid")
    fetcher().get(URL)
    agents = [asked.headers["User-Agent"] for asked in server.asked]
    assert agents[:2] == [f"lyrics-pipeline/{__version__} (+personal use)"] * 2  # robots.txt too
    assert agents[2:] == [f"lyrics-pipeline/{__version__} (+rab@ellisland.invalid)"] * 2


@pytest.mark.parametrize("contact", ["Jörg <j@x.invalid>", "Łukasz", "夜 <y@x.invalid>"])
def test_a_contact_in_any_alphabet_does_not_stop_the_crawl(server, fetcher, monkeypatch, contact):
    monkeypatch.setenv("CRAWL_CONTACT", contact)
    server.answer("/a.html", POEM)
    assert fetcher().get(URL).status == 200


# --- robots.txt ----------------------------------------------------------------------------------


def test_what_robots_txt_disallows_is_not_fetched(server, fetcher):
    server.answer("/robots.txt", "User-agent: *\nDisallow: /private/")
    server.answer("/a.html", POEM).answer("/private/b.html", POEM)
    polite = fetcher()
    with pytest.raises(PageError, match=r"robots\.txt does not allow .*/private/b\.html"):
        polite.get(SITE + "private/b.html")
    assert polite.get(URL).body
    assert server.paths() == ["/a.html"]


def test_robots_txt_may_speak_to_us_by_name(server, fetcher):
    server.answer(
        "/robots.txt", "User-agent: lyrics-pipeline\nDisallow: /\n\nUser-agent: *\nAllow: /"
    )
    with pytest.raises(PageError, match="does not allow"):
        fetcher().get(URL)
    assert server.paths() == []


def test_robots_txt_is_read_once_and_first(server, fetcher):
    server.answer("/robots.txt", "").answer("/a.html", POEM)
    polite = fetcher()
    polite.get(URL)
    polite.get(URL)
    assert [asked.path for asked in server.asked] == ["/robots.txt", "/a.html", "/a.html"]
    assert polite.requests == 3


@pytest.mark.parametrize("status", [404, 410])
def test_a_site_without_robots_txt_may_be_crawled(server, fetcher, status):
    server.answer("/robots.txt", "gone", status=status).answer("/a.html", POEM)
    assert fetcher().get(URL).status == 200


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_a_site_whose_robots_txt_cannot_be_read_is_not_crawled(server, fetcher, status):
    server.answer("/robots.txt", "no", status=status).answer("/a.html", POEM)
    with pytest.raises(Blocked):
        fetcher().get(URL)
    assert server.paths() == []


@pytest.mark.parametrize("how", [{"reset": True, "length": 99}, {"drip_s": 0.4}])
def test_a_site_whose_robots_txt_cannot_be_had_is_not_crawled(server, fetcher, monkeypatch, how):
    monkeypatch.setattr(fetch, "TIMEOUT_S", (1, 0.05))
    server.answer("/robots.txt", "User-agent: *", **how).answer("/a.html", POEM)
    polite = fetcher(retries=1)
    for _ in range(2):
        with pytest.raises(HostStopped, match="cannot reach"):
            polite.get(URL)
    assert [asked.path for asked in server.asked] == ["/robots.txt"] * 2


def test_robots_txt_that_fails_once_is_asked_again(server, fetcher):
    server.answer("/robots.txt", "busy", status=503)
    server.answer("/robots.txt", "User-agent: *\nDisallow: /a.html")
    with pytest.raises(PageError, match="does not allow"):
        fetcher().get(URL)


def test_the_crawl_delay_of_robots_txt_wins_where_it_is_longer(server, fetcher, waits):
    server.answer("/robots.txt", "User-agent: *\nCrawl-delay: 7").answer("/a.html", POEM)
    polite = fetcher(delay_s=0.5)
    polite.get(URL)
    waits.clear()
    polite.get(URL)
    assert 6.9 < sum(waits) < 9
    slow = fetcher(delay_s=20)
    slow.get(URL)
    assert slow.host.delay_s == 20


def test_robots_txt_holds_for_where_a_redirect_leads_too(server, fetcher):
    server.answer("/robots.txt", "User-agent: *\nDisallow: /private/")
    server.answer("/a.html", status=302, headers={"Location": "/private/b.html"})
    server.answer("/private/b.html", POEM)
    with pytest.raises(NetworkError):
        fetcher().get(URL)
    assert server.paths() == ["/a.html"]


# --- pace ----------------------------------------------------------------------------------------


def test_requests_are_never_closer_than_the_delay_by_the_servers_clock(server, fetcher):
    # Retries, redirects, a second site on the same host, two threads: one host, one pace.
    server.answer("/a.html", POEM)
    server.answer("/b.html", "busy", status=503).answer("/b.html", POEM)
    server.answer("/c.html", status=302, headers={"Location": "/a.html"})
    hosts = {}
    polite = fetcher(delay_s=0.08, backoff_s=0.001, sleep=time.sleep, hosts=hosts)
    other = Fetcher("http://other.invalid/", served_at=server.address, delay_s=0, hosts=hosts)
    thread = threading.Thread(
        target=lambda: [other.get("http://other.invalid/a.html") for _ in range(3)]
    )
    thread.start()
    for name in ("a", "b", "c", "a"):
        polite.get(f"{SITE}{name}.html")
    thread.join()
    times = sorted(asked.at for asked in server.asked)
    assert len(times) == 10  # robots.txt once; a, b, b again, c, a, a; three of the other site
    gaps = [after - before for before, after in zip(times, times[1:], strict=False)]
    assert min(gaps) >= 0.08
    assert max(gaps) < 2


def test_the_pace_follows_a_slow_host_and_slows_down_after_errors(server, fetcher):
    server.answer("/robots.txt", "").answer("/a.html", POEM, before=lambda: time.sleep(0.3))
    server.answer("/a.html", POEM)
    server.answer("/b.html", "busy", status=501)
    polite = fetcher(delay_s=0.1)
    polite.get(URL)
    slow = polite.host.pace_s
    assert 0.19 < slow < 0.5
    for _ in range(2):
        with pytest.raises(NetworkError):
            polite.get(SITE + "b.html")
    assert polite.host.pace_s == pytest.approx(4 * slow)
    for _ in range(12):
        polite.get(URL)
    assert 0.1 <= polite.host.pace_s < 0.15


# --- trouble that passes -------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 522, 524])
def test_a_server_that_was_busy_once_is_asked_again(server, fetcher, status):
    server.answer("/a.html", "busy", status=status).answer("/a.html", POEM)
    assert fetcher().get(URL).body == POEM.encode()
    assert server.paths() == ["/a.html"] * 2


def test_retry_after_in_seconds_is_obeyed(server, fetcher, waits):
    server.answer("/a.html", status=429, headers={"Retry-After": "90"}).answer("/a.html", POEM)
    fetcher().get(URL)
    assert 89.9 <= sum(waits) < 100


def test_retry_after_as_a_date_is_obeyed(server, fetcher, waits):
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    server.answer("/a.html", status=503, headers={"Retry-After": then}).answer("/a.html", POEM)
    fetcher().get(URL)
    assert 85 <= sum(waits) < 100


def test_a_wait_of_more_than_ten_minutes_is_left_to_the_user(server, fetcher, waits):
    server.answer("/a.html", status=429, headers={"Retry-After": "7200"})
    with pytest.raises(Blocked, match="120 minutes"):
        fetcher().get(URL)
    assert sum(waits) < 1
    assert server.paths() == ["/a.html"]


UNPARSABLE = [
    "soon",
    "-5",
    "1.5e3",
    "²",
    "Wed, 99 Oct 2015",
    "Wed, 21 Oct 2015 07:28:00 +9" + "9" * 15,
]


@pytest.mark.parametrize("value", UNPARSABLE)
def test_a_retry_after_that_says_nothing_is_passed_over(server, fetcher, value):
    server.answer("/a.html", status=503, headers={"Retry-After": value}).answer("/a.html", POEM)
    assert fetcher().get(URL).body == POEM.encode()


@given(st.text(st.characters(max_codepoint=255)))
def test_no_retry_after_breaks_the_crawl(value):
    assert retry_after_s({"retry-after": value, "date": value}) >= 0


def test_a_retry_after_in_the_past_means_now():
    for value in ("Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00", ""):
        assert retry_after_s({"retry-after": value}) == 0
    assert retry_after_s({}) == 0


def test_a_retry_after_counts_from_the_sites_own_clock():
    # Ours may be wrong by hours.
    said = {"date": "Wed, 21 Oct 2015 07:28:00 GMT", "retry-after": "Wed, 21 Oct 2015 07:30:00 GMT"}
    assert retry_after_s(said) == 120


def test_a_retry_after_holds_for_every_page_of_the_host(server, fetcher, waits):
    server.answer("/a.html", status=503, headers={"Retry-After": "100"}).answer("/b.html", POEM)
    polite = fetcher(retries=0)
    with pytest.raises(NetworkError):
        polite.get(URL)
    waits.clear()
    polite.get(SITE + "b.html")
    assert sum(waits) > 98


def test_waits_grow_from_try_to_try(server, fetcher, waits):
    server.answer("/a.html", "busy", status=503)
    with pytest.raises(NetworkError):
        fetcher(backoff_s=1.0).get(URL)
    waits = waits[-4:]  # before them, what robots.txt took
    assert waits == sorted(waits)
    assert 1 + 2 + 4 + 8 - 0.1 <= sum(waits) <= 1.5 * (1 + 2 + 4 + 8)


def test_a_cut_page_is_fetched_again_and_never_returned(server, fetcher):
    server.answer("/a.html", POEM[:20], length=len(POEM)).answer("/a.html", POEM)
    assert fetcher().get(URL).body == POEM.encode()
    server.answer("/b.html", POEM[:20], length=len(POEM))
    with pytest.raises(NetworkError):
        fetcher(retries=1).get(SITE + "b.html")
    assert server.paths() == ["/a.html"] * 2 + ["/b.html"] * 2


def test_a_page_whose_compression_is_broken_is_fetched_again(server, fetcher):
    server.answer("/a.html", b"no gzip at all", headers={"Content-Encoding": "gzip"})
    server.answer("/a.html", POEM)
    assert fetcher().get(URL).body == POEM.encode()


@pytest.mark.parametrize(
    ("body", "how"),
    [
        (POEM[:20].encode(), {"reset": True, "length": len(POEM)}),
        (b"", {"reset": True, "length": len(POEM)}),
        (POEM[:20].encode(), {"chunked": True}),
        (gzip.compress(POEM.encode())[:-9], {"headers": {"Content-Encoding": "gzip"}}),
        (gzip.compress(POEM.encode())[:30],
         {"headers": {"Content-Encoding": "gzip"}, "length": -1}),
        (zlib.compress(POEM.encode())[:-5], {"headers": {"Content-Encoding": "deflate"}}),
        (b"\x00", {"headers": {"Content-Encoding": "deflate"}}),
        (b"<html>" + POEM[:20].encode(), {"length": -1}),
    ],
    ids=["reset in the body", "reset", "chunks cut", "gzip cut", "gzip cut, no length",
         "deflate cut", "no deflate", "no length, no end"],
)  # fmt: skip
def test_a_page_that_was_damaged_on_its_way_is_fetched_again(server, fetcher, body, how):
    server.answer("/a.html", body, **how).answer("/a.html", POEM)
    assert fetcher().get(URL).body == POEM.encode()
    assert server.paths() == ["/a.html"] * 2


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", lambda b: gzip.compress(b[:9]) + gzip.compress(b[9:])),
        ("X-GZip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda b: zlib.compress(b)[2:-4]),  # without its head, as some send it
        ("identity", bytes),
    ],
)
def test_every_way_of_packing_that_we_ask_for_is_unpacked(server, fetcher, encoding, pack):
    server.answer("/a.html", pack(POEM.encode()), headers={"Content-Encoding": encoding})
    assert fetcher().get(URL).body == POEM.encode()
    assert {asked.headers["Accept-Encoding"] for asked in server.asked} == {"gzip, deflate"}


def test_a_page_without_length_that_has_its_end_is_whole(server, fetcher):
    for path, body in (("/a.html", f"<html>{POEM}</HTML>\n"), ("/b.html", POEM)):
        server.answer(path, body, length=-1)
        assert fetcher().get(SITE + path[1:]).body == body.encode()
    assert server.paths() == ["/a.html", "/b.html"]


def test_a_packing_that_nobody_asked_for_is_told(server, fetcher):
    server.answer("/a.html", b"x", headers={"Content-Encoding": "br"})
    with pytest.raises(PageError, match="packed as 'br'"):
        fetcher().get(URL)


def test_a_server_that_does_not_answer_is_given_up_in_time(server, fetcher, monkeypatch):
    monkeypatch.setattr(fetch, "TIMEOUT_S", (1, 0.1))
    server.answer("/robots.txt", "").answer("/a.html", POEM, before=lambda: time.sleep(0.4))
    server.answer("/a.html", POEM)
    assert fetcher().get(URL).body == POEM.encode()


def test_a_page_that_drips_for_ever_is_given_up(server, fetcher, monkeypatch):
    monkeypatch.setattr(fetch, "WHOLE_PAGE_S", 0.2)
    server.answer("/robots.txt", b"").answer("/a.html", POEM, drip_s=0.05)
    began = time.monotonic()
    with pytest.raises(NetworkError, match="took more than"):
        fetcher(retries=1).get(URL)
    assert time.monotonic() - began < 1.5
    assert server.paths() == ["/a.html"] * 2


def test_a_page_that_stalls_is_given_up(server, fetcher, monkeypatch):
    monkeypatch.setattr(fetch, "TIMEOUT_S", (1, 0.1))
    server.answer("/robots.txt", b"").answer("/a.html", POEM, drip_s=0.4)
    with pytest.raises(NetworkError, match="imed out"):
        fetcher(retries=0).get(URL)


# --- trouble that stays --------------------------------------------------------------------------


def test_a_server_that_is_always_busy_is_given_up_with_its_status(server, fetcher):
    server.answer("/a.html", "busy", status=503)
    with pytest.raises(NetworkError, match="answers 503") as caught:
        fetcher(retries=2).get(URL)
    assert not isinstance(caught.value, PageError)
    assert server.paths() == ["/a.html"] * 3


@pytest.mark.parametrize("status", [403, 503])
def test_a_challenge_is_a_block_whatever_its_status_and_is_not_tried_again(server, fetcher, status):
    server.answer("/a.html", "<title>Just a moment...</title>", status=status)
    server.answer("/b.html", "?", status=status, headers={"cf-mitigated": "challenge"})
    polite = fetcher()
    for name in "ab":
        with pytest.raises(Blocked, match="refuses us"):
            polite.get(f"{SITE}{name}.html")
    assert server.paths() == ["/a.html", "/b.html"]


def test_three_refusals_in_a_row_and_the_host_is_asked_nothing_more(server, fetcher):
    server.answer("/a.html", "no", status=403).answer("/b.html", POEM)
    polite = fetcher()
    for _ in range(2):  # a page that comes well begins the count anew
        for _ in range(2):
            with pytest.raises(Blocked):
                polite.get(URL)
        polite.get(SITE + "b.html")
    for _ in range(2):
        with pytest.raises(Blocked):
            polite.get(URL)
    with pytest.raises(HostStopped, match=r"stopped asking verse\.invalid: .*\(403\)") as caught:
        polite.get(URL)
    assert "no block is got round" in caught.value.why
    assert "same command" in caught.value.mend
    server.forget()
    with pytest.raises(HostStopped):
        polite.get(SITE + "b.html")
    assert server.asked == []


def test_three_failures_in_a_row_and_the_host_is_left_alone(server, fetcher):
    server.answer("/a.html", "?", status=501)
    polite = fetcher()
    for _ in range(2):
        with pytest.raises(NetworkError):
            polite.get(URL)
    with pytest.raises(HostStopped, match="answers 501") as caught:
        polite.get(URL)
    assert "it has trouble" in caught.value.why


def test_a_token_goes_to_the_host_and_nowhere_else(server, fetcher):
    secret = {"Authorization": "Bearer s3cret"}
    server.answer("/robots.txt", "who are you?", status=401).answer("/a.html", "{}")
    server.answer("/b.html", "no", status=401)
    polite = fetcher()
    page = polite.get(URL, headers=secret)
    assert [asked.headers.get("Authorization") for asked in server.asked] == [None, "Bearer s3cret"]
    assert "s3cret" not in repr(page)
    with pytest.raises(ConfigError, match="does not accept the token") as caught:
        polite.get(SITE + "b.html", headers=secret)
    assert "s3cret" not in f"{caught.value!r} {caught.value} {caught.value.__cause__}"


def test_what_netrc_knows_of_a_host_is_not_sent(server, fetcher, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("default login rab password mouse\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server.answer("/a.html", POEM)
    polite = fetcher()
    polite.host.session.trust_env = True  # as for a host that is not this machine
    polite.get(URL)
    assert not [asked for asked in server.asked if "Authorization" in asked.headers]


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_a_block_and_is_not_argued_with(server, fetcher, status):
    server.answer("/a.html", "Forbidden", status=status)
    with pytest.raises(Blocked, match=f"refuses us .{status}.") as caught:
        fetcher().get(URL)
    assert "what is stored stays stored" in caught.value.mend
    assert server.paths() == ["/a.html"]


def test_a_server_that_keeps_saying_slow_down_is_a_block(server, fetcher):
    server.answer("/a.html", "slow down", status=429)
    with pytest.raises(Blocked):
        fetcher(retries=1).get(URL)


@pytest.mark.parametrize(
    "body",
    [
        "<title>Just a moment...</title><script>challenge()</script>",
        "<html><title>Access denied</title><h1>Access Denied</h1></html>",
        "<form id='cf-challenge'></form>",
        "<p>Please solve this CAPTCHA</p>",
        "<title>Welcome</title><form><input name='p' type='password'></form>",
    ],
)
def test_a_challenge_page_with_status_200_is_a_block(server, fetcher, body):
    server.answer("/a.html", body)
    with pytest.raises(Blocked, match="refuses us"):
        fetcher().get(URL)


@pytest.mark.parametrize(
    "body",
    [
        '<h1>X LYRICS</h1><div class="lyrics"><h3>1. Just A Moment...</h3>Captcha</div>',
        '<title>ACCESS DENIED LYRICS</title><h1>ACCESS DENIED LYRICS</h1><div class="album"></div>',
        '<title>METAL LYRICS - A</title><div class="artists fl"><a href="a/x.html">ACCESS DENIED'
        "</a></div>",
    ],
    ids=["a song", "a band's page", "a letter page"],
)
def test_a_song_or_a_band_with_such_a_name_is_no_challenge(server, fetcher, body):
    server.answer("/a.html", body)
    assert fetcher().get(URL).body == body.encode()


@pytest.mark.parametrize("status", [404, 410])
def test_a_page_that_is_not_there_is_gone_and_not_asked_for_again(server, fetcher, status):
    server.answer("/a.html", "not here", status=status)
    with pytest.raises(Gone, match=str(status)):
        fetcher().get(URL)
    assert server.paths() == ["/a.html"]


@pytest.mark.parametrize("status", [204, 304, 400, 418, 501])
def test_any_other_status_is_no_page(server, fetcher, status):
    server.answer("/a.html", "", status=status)
    with pytest.raises(NetworkError, match=f"answers {status}"):
        fetcher().get(URL)
    assert server.paths() == ["/a.html"]


def test_an_empty_page_is_no_page(server, fetcher):
    server.answer("/a.html", "  \n")
    with pytest.raises(PageError, match="empty page"):
        fetcher().get(URL)


@pytest.mark.parametrize("packed", [False, True])
def test_a_page_over_the_size_limit_is_refused(server, fetcher, packed):
    body = b"la " * (fetch.MAX_BODY // 3 + 10)
    headers = {"Content-Encoding": "gzip"} if packed else {}
    server.answer("/a.html", gzip.compress(body, 1) if packed else body, headers=headers)
    with pytest.raises(PageError, match="larger than 10 MB"):
        fetcher().get(URL)
    assert server.paths() == ["/a.html"]


def test_a_bomb_is_not_unpacked(server, fetcher):
    bomb = gzip.compress(bytes(100 * 2**20), 6)  # 100 MB in 0.1
    server.answer("/a.html", bomb, headers={"Content-Encoding": "gzip"})
    polite = fetcher()
    tracemalloc.start()
    with pytest.raises(PageError, match="larger than"):
        polite.get(URL)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * 2**20


def test_a_host_that_refuses_connections_is_told_quickly(fetcher, waits):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(NetworkError, match=rf"cannot reach 127\.0\.0\.1:{port}") as caught:
        fetcher(served_at=f"http://127.0.0.1:{port}/", backoff_s=2.0).get(URL)
    assert "refused" in caught.value.what
    assert "--source=demo" in caught.value.mend
    assert sum(waits) < 10
    assert time.monotonic() - began < 3


# --- what we have already ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours"), [("ETag", "If-None-Match"), ("Last-Modified", "If-Modified-Since")]
)
def test_a_page_that_has_not_changed_is_not_sent_again(server, fetcher, theirs, ours):
    value = {"ETag": '"x1"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}[theirs]
    server.answer("/a.html", POEM, headers={theirs: value})
    polite = fetcher()
    page = polite.get(URL)
    again = polite.get(URL, known=page)
    assert server.asked[-1].headers[ours] == value
    assert again is page if theirs == "ETag" else again.body == page.body


# --- redirects -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["/b.html", "b.html", "{server}b.html", SITE + "b.html"])
def test_a_redirect_within_the_site_is_followed(server, fetcher, status, target):
    location = target.format(server=server.address)
    server.answer("/a.html", status=status, headers={"Location": location}).answer("/b.html", POEM)
    assert fetcher().get(URL).body == POEM.encode()
    assert server.paths() == ["/a.html", "/b.html"]


@pytest.mark.parametrize(
    "target", ["http://other.invalid/a.html", "//other.invalid/a.html", "https://verse.invalid/"]
)
def test_a_redirect_to_another_host_is_refused(server, fetcher, target):
    server.answer("/a.html", status=302, headers={"Location": target})
    with pytest.raises(Blocked, match="leads off the site"):
        fetcher().get(URL)
    assert server.paths() == ["/a.html"]


def test_redirects_in_circles_end(server, fetcher):
    server.answer("/a.html", status=302, headers={"Location": "/b.html"})
    server.answer("/b.html", status=302, headers={"Location": "/a.html"})
    with pytest.raises(NetworkError, match="in circles"):
        fetcher().get(URL)
    assert len(server.paths()) < 10


@pytest.mark.parametrize("target", ["http://[::1", "http://127.0.0.1:99999999/", "\x80\xff"])
def test_a_redirect_to_nonsense_is_a_fault_of_the_site(server, fetcher, target):
    server.answer("/a.html", status=302, headers={"Location": target})
    with pytest.raises(NetworkError):
        fetcher().get(URL)


def test_a_redirect_that_leads_nowhere_is_no_page(server, fetcher):
    server.answer("/a.html", "moved", status=302)
    with pytest.raises(NetworkError, match="answers 302"):
        fetcher().get(URL)


def test_a_mirror_under_a_path_obeys_the_robots_of_its_host(server, fetcher):
    server.answer("/robots.txt", b"User-agent: *\nDisallow: /")
    server.answer("/mirror/a.html", POEM)
    with pytest.raises(PageError, match="does not allow"):
        fetcher(served_at=server.address + "mirror/").get(URL)
    assert server.paths() == []  # robots.txt aside


def test_a_crawl_delay_holds_from_the_first_page_on(server, fetcher, waits):
    server.answer("/robots.txt", b"User-agent: *\nCrawl-delay: 7")
    server.answer("/a.html", POEM)
    fetcher().get(URL)
    assert sum(waits) >= 6.9


def test_a_crawl_delay_of_hours_is_refused_not_slept(server, fetcher, waits):
    server.answer("/robots.txt", b"User-agent: *\nCrawl-delay: 86400")
    with pytest.raises(Blocked, match="between two requests"):
        fetcher().get(URL)
    assert sum(waits) < 60
