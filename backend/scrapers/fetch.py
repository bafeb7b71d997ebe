"""The only place that touches the network: robots.txt, pace, retries, blocks.

An honest user agent, one request at a time per host, no evasion of any block. Addresses are the
site's own; a mirror or a test server takes their host's place here and nowhere else.
"""

import os
import random
import re
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from protego import Protego

from backend import __version__
from backend.errors import Blocked, ConfigError, Gone, HostStopped, NetworkError, PageError

TIMEOUT_S = (10, 30)  # connect, read
WHOLE_PAGE_S = 120
MAX_BODY = 10 * 2**20
PIECE = 2**16
RETRIED = {408, 429, 500, 502, 503, 504, 522, 524}
REDIRECTS = {301, 302, 303, 307, 308}
LONGEST_PACE_S = 60  # between two requests, when a host is slow or has trouble
LONGEST_WAIT_S = 600
TOLD_WAIT_S = 5
IN_A_ROW = 3  # pages that are refused, or fail, until a host is left alone
LOOPBACK = ("127.0.0.1", "localhost", "::1")
FAULTS = (requests.RequestException, urllib3.exceptions.HTTPError, zlib.error, OSError)
# What a page of a site has and a challenge has not.
PAGE_MARKS = (b'class="lyrics', b'class="album', b'class="artists', b'class="listrow',
              b"data-lyrics-container", b"__PRELOADED_STATE__", b"lyrics-root")  # fmt: skip
CHALLENGES = (b"just a moment...", b"cf-challenge", b"cf-browser-verification", b"captcha",
              b"access denied", b"attention required!", b"verify you are human",
              b"are you a robot", b"unusual traffic", b"ddos protection")  # fmt: skip
LOGIN = re.compile(rb"<input[^>]*type\s*=\s*[\"']?password", re.IGNORECASE)


class Cancelled(BaseException):
    """The user stopped the crawl while a thread of it was waiting."""


@dataclass(frozen=True)
class Page:
    """A page as it came, under the site's own address."""

    url: str
    status: int
    headers: dict[str, str]
    body: bytes
    fetched_at: str


class Host:
    """What politeness has to remember of one host. Every request to it passes here, one by one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.RLock()
        self.session = requests.Session()
        self.session.headers["Accept-Encoding"] = "gzip, deflate"
        # A proxy that the user set up is used, but not for a server on this machine; what their
        # netrc knows of the host is not ours to send.
        self.session.trust_env = urlsplit(f"//{name}").hostname not in LOOPBACK
        self.session.auth = lambda request: request
        self.robots: Protego | None = None
        self.delay_s = 0.0  # least seconds from an answer to the next request
        self.pace_s = 0.0  # what they are now: more where the host is slow, or has trouble
        self.not_before = 0.0  # on the monotonic clock
        self.waited_s = 0.0

    def answered(self, well: bool, seconds: float, penalty_s: float) -> None:
        """Adapt the pace to an answer that took `seconds`, and keep the next one away."""
        if well:
            latency = seconds if self.delay_s else 0.0  # no delay at all is for one's own server
            self.pace_s = max(self.delay_s, (self.pace_s + latency) / 2)
        else:
            self.pace_s = min(LONGEST_PACE_S, max(self.delay_s, 2 * self.pace_s, penalty_s))
        # From the answer on, so that the gap holds by the site's own clock too.
        self.wait_at_least(self.pace_s * random.uniform(1.0, 1.25))

    def wait_at_least(self, seconds: float) -> None:
        """No request before that, whatever page it is for."""
        self.not_before = max(self.not_before, time.monotonic() + seconds)


class Fetcher:
    """Fetches pages of one site politely.

    Args:
        site: root of the site's own addresses, such as http://www.darklyrics.com/.
        served_at: root that stands in for it (a mirror, a test server); None is the site itself.
        delay_s: least seconds between an answer and the next request; robots.txt may ask for more.
        hosts: those of the whole crawl by name, so that two fetchers of one host share its pace.
        sleep, retries, backoff_s: for tests, and for whoever wants to stop us while we wait.
        say: where long waits are told.
    """

    def __init__(
        self,
        site: str,
        *,
        served_at: str | None,
        delay_s: float,
        hosts: dict[str, Host] | None = None,
        retries: int = 4,
        backoff_s: float = 2.0,
        sleep: Callable[[float], object] = time.sleep,
        say: Callable[[str], object] = print,
    ) -> None:
        self.site, self.served_at = site, served_at or site
        self.retries, self.backoff_s, self.sleep, self.say = retries, backoff_s, sleep, say
        self.refused = self.failed = 0  # pages in a row
        self.stopped: HostStopped | None = None
        self.requests = 0
        name = urlsplit(self.served_at).netloc
        self.host = Host(name) if hosts is None else hosts.setdefault(name, Host(name))
        self.host.delay_s = max(self.host.delay_s, delay_s)
        self.host.pace_s = max(self.host.pace_s, delay_s)
        contact = os.environ.get("CRAWL_CONTACT", "personal use")
        contact = " ".join(contact.encode("ascii", "replace").decode().split())  # a header's worth
        self.user_agent = f"lyrics-pipeline/{__version__} (+{contact})"

    def get(
        self, url: str, *, headers: Mapping[str, str] | None = None, known: Page | None = None
    ) -> Page:
        """The page at a site's own address.

        Args:
            headers: more of them, as an API's authorization. They are never stored or shown.
            known: the page as it came before: the site is asked whether it changed, and `known`
                itself is the answer if not.

        Raises:
            Gone: it is not there. Blocked: the site refuses us. HostStopped: this host is asked
            nothing more. ConfigError: it does not accept the token. PageError: empty or too large,
            or robots.txt forbids it. NetworkError: after all retries.
        """
        if not url.startswith(self.site):
            raise NetworkError(
                f"{url} is not on {self.site}", why="links to other hosts are not followed"
            )
        host = self.host
        with host.lock:
            if self.stopped:
                raise self.stopped
            if host.robots is None:
                host.robots = self._read_robots(authorized=bool(headers))
            try:
                page = self._page(url, headers, known)
            except Blocked as error:
                self.refused += 1
                if self.refused >= IN_A_ROW:
                    raise self._stop(error) from error
                raise
            except PageError:  # the page is at fault; the host answers
                self.refused = self.failed = 0
                raise
            except NetworkError as error:
                self.failed += 1
                if self.failed >= IN_A_ROW:
                    raise self._stop(error) from error
                raise
            self.refused = self.failed = 0
            return page

    def own(self, address: str) -> str:
        """Where it is served -> the site's own address."""
        root = self.served_at.rstrip("/") + "/"
        return self.site + address.removeprefix(root) if address.startswith(root) else address

    def _stop(self, error: NetworkError) -> HostStopped:
        """From now on nothing is asked of this site."""
        if isinstance(error, HostStopped):
            return error
        refuses = isinstance(error, Blocked)
        self.stopped = HostStopped(
            f"stopped asking {urlsplit(self.site).netloc}: {error.what}",
            why="it refuses us; what was fetched is stored, and no block is got round"
            if refuses
            else "it has trouble; what was fetched is stored",
            mend="wait some hours, then run the same command from a usual home connection; or bring"
            " your own files: --source=files"
            if refuses
            else error.mend or "run the same command later",
        )
        return self.stopped

    def _read_robots(self, authorized: bool) -> Protego:
        """robots.txt: absent is permission, unreachable is not."""
        url = urljoin(self.site, "/robots.txt")
        try:
            page = self._retrying(url, None, attempts=min(self.retries, 2))
        except NetworkError as error:
            raise self._stop(error) from error
        # An API that wants a token for everything has no robots.txt to show without one.
        absent = page.status in (404, 410) or (authorized and page.status in (401, 403))
        if not absent and (page.status in (401, 403, 429) or page.status >= 500):
            raise self._stop(
                Blocked(
                    f"{page.url} answers {page.status}, and a site whose robots.txt cannot be read "
                    "is not crawled"
                )
            )
        robots = Protego.parse(page.body.decode("utf-8", "replace") if page.status == 200 else "")
        host = self.host
        host.delay_s = max(host.delay_s, float(robots.crawl_delay(self.user_agent) or 0))
        if host.delay_s > LONGEST_WAIT_S:
            raise self._stop(
                Blocked(f"{page.url} asks for {host.delay_s:,.0f} s between two requests")
            )
        host.pace_s = max(host.pace_s, host.delay_s)
        host.wait_at_least(host.delay_s)
        return robots

    def _page(self, url: str, headers: Mapping[str, str] | None, known: Page | None) -> Page:
        sent = dict(headers or {})
        if known:
            for ours, theirs in (("If-None-Match", "etag"), ("If-Modified-Since", "last-modified")):
                if theirs in known.headers:
                    sent[ours] = known.headers[theirs]
        page = self._retrying(url, sent)
        if page.status == 304 and known:
            return known
        if page.status in (404, 410):
            raise Gone(f"{url} is not there ({page.status})")
        if page.status == 401 and headers:
            raise ConfigError(
                f"{self.host.name} does not accept the token (401)",
                mend="a client access token of https://genius.com/api-clients as "
                "GENIUS_ACCESS_TOKEN in .env",
            )
        if page.status in (401, 403, 429) or _is_challenge(page):
            raise Blocked(
                f"{url} refuses us ({page.status})",
                mend="wait some hours and run the same command: what is stored stays stored",
            )
        if page.status != 200:
            raise NetworkError(f"{url} answers {page.status}", mend="run the same command later")
        if not page.body.strip():
            raise PageError(f"{url} is an empty page")
        return page

    def _retrying(
        self, url: str, headers: Mapping[str, str] | None, attempts: int | None = None
    ) -> Page:
        attempts = self.retries if attempts is None else attempts
        for attempt in range(attempts + 1):
            wait = self.backoff_s * 2**attempt * random.uniform(1.0, 1.5)
            try:
                page = self._follow(url, headers)
            except FAULTS as error:
                if attempt == attempts:
                    raise NetworkError(
                        f"cannot reach {self.host.name}: {_short(error)}",
                        mend="check the network; --source=demo and --source=files need none",
                    ) from error
            else:
                asked = retry_after_s(page.headers) if page.status >= 400 else 0.0
                if page.status not in RETRIED or attempt == attempts or _is_challenge(page):
                    self._wait(asked)
                    return page
                wait = max(wait, asked)
            self._wait(wait)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _wait(self, seconds: float) -> None:
        """Nothing is asked of the host before that, for whichever page."""
        if seconds > LONGEST_WAIT_S:
            raise self._stop(
                Blocked(f"{self.host.name} asks us to wait {seconds / 60:.0f} minutes")
            )
        if seconds >= TOLD_WAIT_S:
            self.say(f"waiting {seconds:.0f} s for {self.host.name}")
        self.host.wait_at_least(seconds)

    def _follow(self, url: str, headers: Mapping[str, str] | None) -> Page:
        """One request and its redirects, which stay on the site."""
        asked, robots = url, self.host.robots
        for _ in range(5):
            if robots and not robots.can_fetch(self._served(url), self.user_agent):
                raise PageError(
                    f"{urljoin(self.site, '/robots.txt')} does not allow {url}",
                    mend="leave that page alone, or use your own files: --source=files",
                )
            try:
                page = self._request(url, headers)
            except requests.RequestException:
                raise
            except ValueError as error:  # requests reads Location itself, and trips over nonsense
                raise NetworkError(f"{url} answers with headers that cannot be read") from error
            target = page.headers.get("location")
            if page.status not in REDIRECTS or not target:
                return replace(page, url=asked)  # known by the address that links name
            try:
                url = self.own(urljoin(self._served(url), target))
            except ValueError:
                raise NetworkError(f"{page.url} leads to {target!r}, which is no address") from None
            if not url.startswith(self.site):
                raise Blocked(  # to a login, more often than not
                    f"{page.url} leads off the site, to {url}",
                    why="links to other hosts are not followed",
                )
        raise PageError(f"{asked} redirects in circles")

    def _request(self, url: str, headers: Mapping[str, str] | None) -> Page:
        """One request when its time has come, and the pace after it."""
        host = self.host
        pause = max(0.0, host.not_before - time.monotonic())
        host.waited_s += pause
        self.sleep(pause)  # also for no time at all: whoever stops us is heard there
        self.requests += 1
        began = time.monotonic()
        well, seconds = False, 0.0
        try:
            with host.session.get(
                self._served(url), timeout=TIMEOUT_S, stream=True, allow_redirects=False,
                headers={"User-Agent": self.user_agent, **(headers or {})},
            ) as response:  # fmt: skip
                seconds = time.monotonic() - began
                body = _read(url, response, deadline=began + WHOLE_PAGE_S)
                well = response.status_code < 400 or response.status_code in (404, 410)
        finally:
            host.answered(well, seconds, self.backoff_s)
        fields = {k.lower(): v for k, v in response.headers.items()}
        return Page(
            url, response.status_code, fields, body, datetime.now(UTC).isoformat(timespec="seconds")
        )

    def _served(self, url: str) -> str:
        """The site's own address -> where it is served; robots.txt is always the host's."""
        if url == urljoin(self.site, "/robots.txt"):
            return urljoin(self.served_at, "/robots.txt")
        return self.served_at.rstrip("/") + "/" + url.removeprefix(self.site)


def _read(url: str, response: requests.Response, deadline: float) -> bytes:
    """The body, unpacked by ourselves: piece by piece, so that neither a page that drips nor one
    that grows without end is read to its end, and a packed one that was cut is noticed.

    Raises:
        PageError: over the limit, or packed in a way that we did not ask for. FAULTS: cut, damaged.
    """
    packing = response.headers.get("Content-Encoding", "identity").strip().lower()
    if packing not in ("identity", "", "gzip", "x-gzip", "deflate"):
        raise PageError(f"{url} came packed as {packing!r}, which nobody asked for")
    unpack = None
    body = bytearray()
    while piece := response.raw.read1(PIECE, decode_content=False):
        if time.monotonic() > deadline:
            raise requests.Timeout(f"the page took more than {WHOLE_PAGE_S} s")
        if packing in ("identity", ""):
            body += piece
        while piece and packing not in ("identity", ""):
            if unpack is None or unpack.eof:  # gzip may come in several members
                raw = packing == "deflate" and (piece[0] & 15) != 8  # some leave zlib's head out
                unpack = zlib.decompressobj(-15 if raw else 47)
            body += unpack.decompress(piece, MAX_BODY + 1 - len(body))
            piece = unpack.unconsumed_tail or unpack.unused_data
            if len(body) > MAX_BODY:
                break
        if len(body) > MAX_BODY:
            raise PageError(f"{url} is larger than {MAX_BODY // 2**20} MB")
    known_end = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
    if unpack is not None:
        known_end = unpack.eof
        if not known_end:
            raise requests.ConnectionError("the packed page was cut")
    if not known_end and b"<html" in body[:2000].lower() and b"</html" not in body[-2000:].lower():
        raise requests.ConnectionError("the page was cut")  # its end is all that could say so
    return bytes(body)


def _is_challenge(page: Page) -> bool:
    """A page that asks who we are in place of the one we asked for, whatever its status."""
    if page.headers.get("cf-mitigated") == "challenge":
        return True
    if page.body[:1] in b"{[" or any(mark in page.body for mark in PAGE_MARKS):
        return False
    start = page.body[:4096].lower()
    return any(word in start for word in CHALLENGES) or bool(LOGIN.search(page.body))


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds that Retry-After asks for: a number, or a date by the site's own clock; else 0.

    >>> retry_after_s({"retry-after": "120"})
    120.0
    """
    value = headers.get("retry-after", "")
    if number := re.fullmatch(r"\s*([0-9]+)\s*", value):
        return float(number[1])
    then, now = _date(value), _date(headers.get("date", "")) or datetime.now(UTC)
    return max(0.0, (then - now).total_seconds()) if then else 0.0


def _date(value: str) -> datetime | None:
    try:
        then = parsedate_to_datetime(value)
        return then if then.tzinfo else then.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _short(error: Exception) -> str:
    """The last part of a nested network error, which is the one that says something."""
    text = str(error)
    last = re.sub(r"[\"')\s]+$", "", text.rsplit(": ", 1)[-1])
    return last + ")" * (last.count("(") - last.count(")")) or type(error).__name__
