"""Every message that docs/troubleshooting.md quotes is one that the code can print."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS = re.findall(
    r'^\| `([^`|]+)` \| ([^|]+) \| (.+) \|$',
    (ROOT / 'docs/troubleshooting.md').read_text('utf-8'),
    re.M,
)


def texts() -> set[str]:
    """All texts of the package and lines of its scripts, with `…` for what is put in later."""
    found = set()
    for path in (ROOT / 'tools').glob('*.sh'):
        found.update(re.sub(r'\$\w+', '…', path.read_text('utf-8')).splitlines())
    for path in (ROOT / 'poslabel_mm').rglob('*.py'):
        tree = ast.parse(path.read_text('utf-8'))
        # A text that stands by itself is a docstring.
        alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if id(node) in alone:
                continue
            if isinstance(node, ast.JoinedStr):
                parts = [
                    part.value if isinstance(part, ast.Constant) else '…' for part in node.values
                ]
                found.add(''.join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


TEXTS = texts()


def is_printed(message: str) -> bool:
    """Whether the words of a message follow each other in one text of the package."""
    words = '.*'.join(re.escape(part.strip()) for part in message.split('…'))
    return any(re.search(words, text, re.S) for text in TEXTS)


def test_every_row_of_the_page_is_read():
    lines = (ROOT / 'docs/troubleshooting.md').read_text('utf-8').splitlines()
    rows = [line for line in lines if line.startswith('| `')]
    assert len(rows) == len(ROWS) > 30
    assert all(cause.strip() and cure.strip() for _, cause, cure in ROWS)


@pytest.mark.parametrize('message', [message for message, _, _ in ROWS])
def test_quoted_message_is_in_the_source(message):
    assert sum(len(part.strip()) for part in message.split('…')) > 12, 'it could be any message'
    assert is_printed(message)


def test_a_message_that_nothing_prints_is_found():
    assert not is_printed('the patch tokens of … have … colours')
