"""Reports: Markdown that shows what it was given, whatever it holds."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from backend.report import Report, table

CELLS = st.text(alphabet=st.sampled_from("ab |\n\rä-`"), max_size=8)


def rows_of(markdown):
    """Cells of a Markdown table, split where no backslash stands before the bar."""
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in re.split(r"\r\n|\n|\r", markdown)
    ]


def test_pipes_in_cells_are_escaped():
    assert table(["a|b", "n"], [["Sea | Song", 1]]).split("\n") == [
        r"| a\|b | n |",
        "|---|---|",
        r"| Sea \| Song | 1 |",
    ]


@settings(deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS), max_size=4))
def test_every_row_keeps_its_columns_on_one_line(rows):
    shown = rows_of(table(["artist", "title"], rows))
    assert len(shown) == len(rows) + 2
    assert all(len(row) == 2 for row in shown)
    for got, given_row in zip(shown[2:], rows, strict=True):
        squeezed = [re.sub(r"[\n\r ]+", " ", cell).strip() for cell in given_row]
        assert [re.sub(" +", " ", cell.replace("\\|", "|")) for cell in got] == squeezed


def test_large_numbers_are_readable():
    assert "| 1,234,567 | 0.5 | None |" in table(["a", "b", "c"], [[1234567, 0.5, None]])


def test_a_table_without_rows_is_its_head():
    assert table(["a", "b"], []) == "| a | b |\n|---|---|"


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("a`\n~ ")))
def test_a_song_comes_back_from_its_fence_letter_for_letter(song):
    lines = Report("Songs").verbatim(song).text().removeprefix("# Songs\n\n").split("\n")
    fence = lines[0].removesuffix("text")
    assert re.fullmatch("`{3,}", fence)
    # CommonMark closes a fence at the first line of at least as many backticks and nothing else.
    end = next(
        i
        for i, line in enumerate(lines[1:], 1)
        if re.fullmatch(rf" {{0,3}}`{{{len(fence)},}} *", line)
    )
    assert "\n".join(lines[1:end]) == song
    assert lines[end + 1 :] == [""]


def test_a_report_on_disk_is_what_text_says_in_the_order_given(tmp_path):
    report = (
        Report("Songs")
        .prose("Two of them.")
        .section("Kept")
        .table(["title"], [["Tide"]])
        .image("loss.png", "Loss")
        .verbatim("Fähre\n\nTide")
    )
    path = report.write(tmp_path / "new" / "report.md")
    assert path.read_text(encoding="utf-8") == report.text()
    parts = ["# Songs", "Two of them.", "## Kept", "| Tide |", "![Loss](loss.png)", "Fähre"]
    places = [report.text().index(part) for part in parts]
    assert places == sorted(places)
