"""Write the tables of measured values into the pages, and draw their gains, from the CSVs.

python docs/images/results.py
"""

from pathlib import Path

import poslabel_mm  # noqa: F401  mends the MM stack before it is imported
from poslabel_mm.experiments import gains, results
from poslabel_mm.experiments.manifest import Table, load_paper
from poslabel_mm.experiments.recorded import read_csv

DOCS = Path(__file__).resolve().parents[1]
PAGES = {'fashion-mnist': 'fashion-mnist.md', 'imagenette': 'results.md'}
START = '| row | config |'  # of the table in a page


def measured(manifest: str) -> tuple[Table, dict[str, dict[int, dict[str, float]]]]:
    """The first table of a manifest, and the recorded metrics of its rows by seed."""
    table = load_paper(manifest).table(1)
    values = read_csv(DOCS / f'{manifest}.csv')
    return table, {
        row.id: {seed: value.metrics for seed, value in values.get((table.id, row.id), {}).items()}
        for row in table.rows
    }


def page(manifest: str) -> str:
    """The page of a manifest with its table as the values have it."""
    table, values = measured(manifest)
    rows = [row for row in table.rows if values[row.id]]
    text = (DOCS / PAGES[manifest]).read_text('utf-8')
    before, _, after = text.partition(START)
    return before + results.table_of(table, rows, values) + '\n\n' + after.partition('\n\n')[2]


def picture() -> bytes:
    """The picture of the gains on Imagenette."""
    return gains.gains_png(*measured('imagenette'), 'Imagenette, 64 px')


if __name__ == '__main__':
    for manifest, name in PAGES.items():
        (DOCS / name).write_text(page(manifest), 'utf-8')
    (DOCS / 'images' / 'imagenette.png').write_bytes(picture())
