"""Tables of plain text: fast enough for ten thousand lines, and nothing in a cell can move a terminal's cursor."""

from collections.abc import Iterator, Sequence

from slipway.documents.text import plain

GAP = "  "


def lines(headers: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> Iterator[str]:
    """One line a row, columns as wide as their widest cell; those in `right` end at one edge, as numbers do."""
    table = [list(map(_cell, row)) for row in ([headers, *rows] if any(headers) else rows)]
    if not table:
        return
    widths = [max(map(_width, column)) for column in zip(*table, strict=True)]
    for row in table:
        yield GAP.join(_set(cell, widths[at], at in right) for at, cell in enumerate(row)).rstrip()


def _cell(text: str) -> str:
    return text if text.isascii() and text.isprintable() else plain(text)


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _set(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
