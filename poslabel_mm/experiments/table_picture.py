"""The picture that suits a table: curves on its axis, or the gains of its rows."""

from collections.abc import Iterable

from poslabel_mm.experiments.axis_curves import curves_png, digest_of_curves, drawn_values
from poslabel_mm.experiments.gains import Measured, digest, drawn_gains, gains_png
from poslabel_mm.experiments.manifest import Table


def table_png(
    table: Table, measured: Measured, title: str, tables: Iterable[Table] = ()
) -> bytes | None:
    """Draw a table; arguments and result as of :func:`~.axis_curves.curves_png`."""
    if table.axis is None:
        return gains_png(table, measured, title)
    return curves_png(table, measured, title, tables)


def drawn(table: Table, measured: Measured) -> dict[str, list[float]]:
    """The values that the picture of a table shows; none where there is nothing to draw."""
    return (drawn_gains if table.axis is None else drawn_values)(table, measured)


def digest_of(table: Table, measured: Measured, title: str, tables: Iterable[Table] = ()) -> str:
    """What :func:`table_png`, with the same arguments, writes into the picture."""
    if table.axis is None:
        return digest(drawn_gains(table, measured), title, table.gain)
    return digest_of_curves(table, measured, title, tables)
