"""What can go wrong, as types.

    UserError               the user must change something: a sentence, no traceback, exit 2
    ├── ConfigError         a key, a value, a config file
    ├── DataError           songs, bins, tokenizers
    ├── NetworkError        a site that cannot be reached, or answers with nonsense
    │   ├── PageError       a page that came, and does not hold what it should
    │   │   └── Gone        a page that is not there, and asking again will not bring it
    │   └── Blocked         a site that refuses us
    │       └── HostStopped  one that we have stopped asking
    └── CheckpointError     a run folder, weights
    Terminated              SIGTERM, as Ctrl-C is KeyboardInterrupt: exit 143, everything saved

Anything else that escapes is a bug in this project: it keeps its traceback and exits 1.
"""


class UserError(Exception):
    """Says what is wrong (with the value), why it matters, and the command or key that mends it."""

    def __init__(self, what: str, why: str = "", mend: str = "") -> None:
        super().__init__(what, why, mend)
        self.what, self.why, self.mend = what, why, mend

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"  why:  {self.why}")
        if self.mend:
            lines.append(f"  mend: {self.mend}")
        return "\n".join(lines)


def first_line(error: BaseException) -> str:
    """What another library says, short enough for a sentence of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class ConfigError(UserError):
    """A key, a value or a config file is wrong. All problems of one call are told at once."""


class DataError(UserError):
    """Songs, bins or a tokenizer are missing, empty, damaged or do not fit together."""


class NetworkError(UserError):
    """A site cannot be reached, refuses us, or answers with something that is not its page."""


class PageError(NetworkError):
    """A page came and does not hold what it should: the site changed, or it is another page."""


class Gone(PageError):
    """404 or 410, or a page that says so of itself."""


class Blocked(NetworkError):
    """The site refuses us. Never the same as "this song has no lyrics"."""


class HostStopped(Blocked):
    """A host that refuses us, or has trouble, again and again: it is asked nothing more."""


class CheckpointError(UserError):
    """A run folder or its weights are missing, damaged or do not fit what was asked."""


class Terminated(BaseException):
    """SIGTERM arrived. Not an Exception, so that no handler for faults swallows it."""
