"""The only place that touches the network: robots.txt, rate limit, retries, block detection.

An honest user agent, one request at a time per host, no evasion of any block. Addresses are the
site's own; a mirror or a test server takes their host's place here and nowhere else.
"""

import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin, urlsplit

import requests
from protego import Protego

from backend import __version__
from backend.errors import NetworkError, PageError

TIMEOUT_S = (10, 30)  # connect, read
WHOLE_PAGE_S = 120
MAX_BODY = 10 * 2**20
RETRIED = {408, 429, 500, 502, 503, 504, 522, 524}
LONGEST_WAIT_S = 600
TOLD_WAIT_S = 5
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PAGE_MARKS = (b'class="lyrics', b'class="album', b'class="artists', b'class="listrow')
CHALLENGES = (b"just a moment...", b"cf-challenge", b"captcha", b"access denied")


class Blocked(NetworkError):
    """The site refuses us. Never the same as "this song has no lyrics"."""


class Gone(PageError):
    """404 or 410: the page is not there, and asking again will not bring it."""


@dataclass(frozen=True)
class Page:
    """A page as it came, under the site's own address."""

    url: str
    status: int
    headers: dict[str, str]
    body: bytes
    fetched_at: str


class Fetcher:
    """Fetches pages of one site politely.

    Args:
        site: root of the site's own addresses, such as http://www.darklyrics.com/.
        served_at: root that stands in for it (a mirror, a test server); None is the site itself.
        delay_s: least seconds between the starts of two requests; robots.txt may ask for more.
        sleep, retries, backoff_s: for tests.
    """

    def __init__(
        self,
        site: str,
        *,
        served_at: str | None,
        delay_s: float,
        retries: int = 4,
        backoff_s: float = 2.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.site, self.served_at, self.delay_s = site, served_at or site, delay_s
        self.retries, self.backoff_s, self.sleep = retries, backoff_s, sleep
        contact = os.environ.get("CRAWL_CONTACT", "personal use")
        contact = " ".join(contact.encode("ascii", "replace").decode().split())  # a header's worth
        self.user_agent = f"lyrics-pipeline/{__version__} (+{contact})"
        self.session = requests.Session()
        self.session.headers["User-Agent"] = self.user_agent
        # A proxy that the user set up is used, but not for a server on this machine.
        self.session.trust_env = urlsplit(self.served_at).hostname not in LOOPBACK
        self.requests = 0
        self._next = 0.0
        self._robots: Protego | None = None

    def get(self, url: str) -> Page:
        """The page at a site's own address.

        Raises:
            Gone: it is not there. Blocked: the site refuses us.
            NetworkError: it could not be had after all retries.
        """
        if not url.startswith(self.site):
            raise NetworkError(
                f"{url} is not on {self.site}", why="links to other hosts are not followed"
            )
        if self._robots is None:
            self._robots = self._read_robots()
        return self._checked(url, self._retrying(url))

    def _read_robots(self) -> Protego:
        """robots.txt: absent is permission, unreachable is not."""
        page = self._retrying(urljoin(self.site, "/robots.txt"), attempts=min(self.retries, 2))
        if page.status in (401, 403, 429) or page.status >= 500:
            raise Blocked(
                f"{page.url} answers {page.status}",
                why="a site whose robots.txt cannot be read is not crawled",
                mend="try again later",
            )
        robots = Protego.parse(page.body.decode("utf-8", "replace") if page.status == 200 else "")
        self.delay_s = max(self.delay_s, float(robots.crawl_delay(self.user_agent) or 0))
        if self.delay_s > LONGEST_WAIT_S:
            raise Blocked(f"{page.url} asks for {self.delay_s:,.0f} s between two requests")
        self._next = max(self._next, time.monotonic() + self.delay_s)
        return robots

    def _checked(self, url: str, page: Page) -> Page:
        if page.status in (404, 410):
            raise Gone(f"{url} is not there ({page.status})")
        start = page.body[:4096].lower()
        challenged = any(word in start for word in CHALLENGES) and not any(
            mark in page.body for mark in PAGE_MARKS
        )
        if page.status in (401, 403, 429) or challenged:
            raise Blocked(
                f"{url} refuses us ({page.status})",
                mend="wait some hours and run the same command: what is stored stays stored",
            )
        if page.status != 200:
            raise NetworkError(f"{url} answers {page.status}", mend="run the same command later")
        if not page.body.strip():
            raise PageError(f"{url} is an empty page")
        return page

    def _retrying(self, url: str, attempts: int | None = None) -> Page:
        attempts = self.retries if attempts is None else attempts
        for attempt in range(attempts + 1):
            wait = self.backoff_s * 2**attempt * random.uniform(1.0, 1.5)
            try:
                page = self._follow(url)
            except requests.RequestException as error:
                if attempt == attempts:
                    raise NetworkError(
                        f"cannot reach {urlsplit(self._served(url)).netloc}: {_short(error)}",
                        mend="check the network; --source=demo and --source=files need none",
                    ) from error
            else:
                if page.status not in RETRIED or attempt == attempts:
                    return page
                wait = max(wait, retry_after_s(page.headers.get("retry-after"), datetime.now(UTC)))
            if wait > LONGEST_WAIT_S:
                raise Blocked(
                    f"{urlsplit(url).netloc} asks us to wait {wait / 60:.0f} minutes",
                    mend="run the same command after that",
                )
            if wait >= TOLD_WAIT_S:
                print(f"waiting {wait:.0f} s for {urlsplit(url).netloc}", flush=True)
            self.sleep(wait)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _follow(self, url: str) -> Page:
        """One request and its redirects, which stay on the site."""
        asked = url
        for _ in range(5):
            if self._robots and not self._robots.can_fetch(self._served(url), self.user_agent):
                raise Blocked(
                    f"{urljoin(self.site, '/robots.txt')} does not allow {url}",
                    mend="leave that site alone, or use your own files: --source=files",
                )
            try:
                page = self._request(url)
            except requests.RequestException:
                raise
            except ValueError as error:  # requests reads Location itself, and trips over nonsense
                raise NetworkError(f"{url} answers with headers that cannot be read") from error
            target = page.headers.get("location")
            if page.status not in (301, 302, 303, 307, 308) or not target:
                return replace(page, url=asked)  # known by the address that links name
            try:
                url = self._own(urljoin(self._served(url), target))
            except ValueError:
                raise NetworkError(f"{page.url} leads to {target!r}, which is no address") from None
            if not url.startswith(self.site):
                raise NetworkError(
                    f"{page.url} leads off the site, to {url}",
                    why="links to other hosts are not followed",
                )
        raise NetworkError(f"{url} redirects in circles")

    def _request(self, url: str) -> Page:
        pause = self._next - time.monotonic()
        if pause > 0:
            self.sleep(pause)
        self._next = time.monotonic() + self.delay_s * random.uniform(1.0, 1.25)
        self.requests += 1
        began = time.monotonic()
        with self.session.get(
            self._served(url), timeout=TIMEOUT_S, stream=True, allow_redirects=False
        ) as response:
            body = bytearray()
            for piece in response.iter_content(2**16):
                body += piece
                if len(body) > MAX_BODY:
                    raise PageError(f"{url} is larger than {MAX_BODY // 2**20} MB")
                if time.monotonic() - began > WHOLE_PAGE_S:
                    raise requests.Timeout(f"the page took more than {WHOLE_PAGE_S} s")
            headers = {k.lower(): v for k, v in response.headers.items()}
        fetched_at = datetime.now(UTC).isoformat(timespec="seconds")
        return Page(url, response.status_code, headers, bytes(body), fetched_at)

    def _served(self, url: str) -> str:
        """The site's own address -> where it is served; robots.txt is always the host's."""
        if url == urljoin(self.site, "/robots.txt"):
            return urljoin(self.served_at, "/robots.txt")
        return self.served_at.rstrip("/") + "/" + url.removeprefix(self.site)

    def _own(self, address: str) -> str:
        """The reverse, for redirects."""
        root = self.served_at.rstrip("/") + "/"
        return self.site + address.removeprefix(root) if address.startswith(root) else address


def retry_after_s(value: str | None, now: datetime) -> float:
    """Seconds that a Retry-After header asks for: a number or a date; 0 where it says nothing.

    >>> retry_after_s("120", datetime.now(UTC))
    120.0
    """
    if not value:
        return 0.0
    if number := re.fullmatch(r"\s*([0-9]+)\s*", value):
        return float(number[1])
    try:
        then = parsedate_to_datetime(value)
        if then.tzinfo is None:
            then = then.replace(tzinfo=UTC)
        return max(0.0, (then - now).total_seconds())
    except (ValueError, OverflowError):
        return 0.0


def _short(error: Exception) -> str:
    """The last part of a nested network error, which is the one that says something."""
    text = str(error)
    last = re.sub(r"[\"')\s]+$", "", text.rsplit(": ", 1)[-1])
    return last + ")" * (last.count("(") - last.count(")")) or type(error).__name__
