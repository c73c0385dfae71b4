"""Lines and tables on the screen."""

import sys
from collections.abc import Collection, Sequence


def print_line(line: str) -> None:
    """Print a line at once, into a pipe too."""
    print(line, flush=True)


def print_table(
    title: str,
    header: Sequence[str],
    groups: Sequence[Sequence[Sequence[str]]],
    numbers: Collection[str] = (),
) -> None:
    """Print a table: in a frame on a terminal, in plain columns otherwise.

    Args:
        title (str): Printed above it.
        header (Sequence[str]): Names of the columns.
        groups (Sequence[Sequence[Sequence[str]]]): Rows of cells. In a frame, a line separates
            the groups.
        numbers (Collection[str]): The columns that a frame aligns to the right.
    """
    if not sys.stdout.isatty():
        rows = [header, *(row for group in groups for row in group)]
        widths = [max(map(len, column)) for column in zip(*rows)]
        print(title)
        for cells in rows:
            print('  '.join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip())
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for name in header:
        table.add_column(name, justify='right' if name in numbers else 'left', overflow='fold')
    for group in groups:
        for cells in group:
            table.add_row(*cells)
        table.add_section()
    Console().print(table, markup=False)
