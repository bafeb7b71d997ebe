"""Small Markdown reports, written by every stage that has something to show to people."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from backend.storage import atomic_write


class Report:
    """Grows from top to bottom; `write` puts it on disk at once.

    >>> print(Report("Songs").table(["artist", "songs"], [["Anon | co", 2]]).text())
    # Songs
    <BLANKLINE>
    | artist | songs |
    |---|---|
    | Anon \\| co | 2 |
    <BLANKLINE>
    """

    def __init__(self, title: str, front: str = "") -> None:
        """front: what machines read before the title, such as YAML."""
        self._parts = [*([front] if front else []), f"# {title}"]

    def section(self, title: str) -> Self:
        self._parts.append(f"## {title}")
        return self

    def prose(self, text: str) -> Self:
        self._parts.append(text)
        return self

    def table(self, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Self:
        self._parts.append(table(head, rows))
        return self

    def verbatim(self, text: str) -> Self:
        """Text whose line breaks count, such as a song. The fence outgrows any in the text."""
        fence = "```"
        while fence in text:
            fence += "`"
        self._parts.append(f"{fence}text\n{text}\n{fence}")
        return self

    def image(self, path: str, caption: str) -> Self:
        self._parts.append(f"![{caption}]({path})")
        return self

    def text(self) -> str:
        return "\n\n".join(self._parts) + "\n"

    def write(self, path: Path) -> Path:
        with atomic_write(path) as file:
            file.write(self.text())
        return path


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    return "\n".join([_row(head), "|" + "---|" * len(head), *(_row(row) for row in rows)])


def _row(cells: Sequence[Any]) -> str:
    shown = (f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells)
    return (
        "| " + " | ".join(" ".join(cell.splitlines()).replace("|", "\\|") for cell in shown) + " |"
    )
