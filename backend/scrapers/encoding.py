"""Bytes -> text: pages of sites, which are always read, and files of people, or a refusal. Pure."""

import codecs

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def page_text(html: bytes) -> str:
    """The text of a page, whatever it says of its encoding.

    DarkLyrics is UTF-8, which most pages say in the page and none in the HTTP header; read as
    Latin-1 they turn to mojibake. What is no UTF-8 at all is Windows-1252; a stray byte of it among
    UTF-8 is read so too, and what is neither becomes U+FFFD rather than a lost page.

    >>> page_text("Mötley".encode("cp1252")), page_text("夜".encode() + b" M" + b"\\xf6")
    ('Mötley', '夜 Mö')
    """
    if html.startswith(UTF16):
        return html.decode("utf-16", errors="replace")
    try:
        return html.decode("utf-8-sig")
    except UnicodeDecodeError:
        is_utf8 = not html.decode("utf-8", errors="ignore").isascii()
        return html.decode("utf-8-sig", "windows") if is_utf8 else html.decode("cp1252", "replace")


def _windows(error: UnicodeError) -> tuple[str, int]:
    """For codecs: a byte that is no UTF-8, as Windows-1252 has it; a cut character is lost."""
    assert isinstance(error, UnicodeDecodeError)
    wrong = error.object[error.start : error.end]
    return wrong.decode("cp1252", "replace") if len(wrong) == 1 else "\ufffd", error.end


codecs.register_error("windows", _windows)


def file_text(data: bytes) -> tuple[str, str]:
    """The text of a file and its encoding.

    UTF-8; UTF-16 with its mark, or without where every other byte of it is zero; else Latin-1 or
    Windows-1252, which differ in 0x80 to 0x9f only: letters there, controls here.

    >>> file_text("Dã".encode("cp1252")), file_text("né".encode("utf-16-le"))
    (('Dã', 'latin-1'), ('né', 'utf-16'))

    Raises:
        ValueError: it is none of them.
    """
    if data.startswith(UTF16):
        return data.decode("utf-16"), "utf-16"
    if b"\0" in data:
        for order, zeros in (("utf-16-le", data[1::2]), ("utf-16-be", data[::2])):
            if len(data) % 2 == 0 and zeros.count(0) > len(zeros) / 2:
                text = data.decode(order)
                if "\0" not in text:
                    return text, "utf-16"
        raise ValueError("not a text file")
    try:
        return data.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError as error:
        if not any(0x80 <= byte < 0xA0 for byte in data):
            return data.decode("latin-1"), "latin-1"
        try:
            return data.decode("cp1252"), "windows-1252"
        except UnicodeDecodeError:
            raise ValueError(f"neither UTF-8 ({error}) nor Windows-1252") from None
