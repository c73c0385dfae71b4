"""A table of weights' names in two layouts, read in both directions."""

import re
from collections.abc import Mapping

# `{i}` and `{j}` are numbers; `{i+1}` is the one after `{i}`.
NUMBER = re.compile(r'\{(\w)(\+1)?\}')


class KeyMap:
    """Translates names of weights between MMPretrain's layout and another.

    Args:
        pairs (Mapping[str, str]): Names of modules or tensors in MMPretrain's layout, by which
            the other's are found, such as ``{'backbone.layers.{i}.ln1': 'blocks.{i}.norm1'}``.
            What follows a module's name (``.weight``, ``.bias``) is the same in both.
    """

    def __init__(self, pairs: Mapping[str, str]) -> None:
        self.pairs = dict(pairs)
        self._to_theirs = [(_pattern(own), own, other) for own, other in pairs.items()]
        self._to_ours = [(_pattern(other), other, own) for own, other in pairs.items()]

    def __or__(self, pairs: Mapping[str, str]) -> 'KeyMap':
        """The table with further pairs."""
        return KeyMap({**self.pairs, **pairs})

    def theirs(self, name: str) -> str | None:
        """The other layout's name of one of MMPretrain's, or None where it has none."""
        return _translated(name, self._to_theirs)

    def ours(self, name: str) -> str | None:
        """MMPretrain's name of one of the other layout's, or None where it has none."""
        return _translated(name, self._to_ours)


def _pattern(template: str) -> re.Pattern:
    parts = NUMBER.split(template)  # text, letter, '+1' or None, text, ...
    text = ''.join(
        re.escape(literal) + (f'(?P<{letter}>[0-9]+)' if letter else '')
        for literal, letter in zip(parts[::3], [*parts[1::3], None])
    )
    return re.compile(rf'{text}(?P<rest>(\.(weight|bias))?)')


def _translated(name: str, table: list[tuple[re.Pattern, str, str]]) -> str | None:
    for pattern, source, target in table:
        match = pattern.fullmatch(name)
        if match is None:
            continue
        # The number itself is the one without `+1`.
        more = {letter: bool(plus) for letter, plus in NUMBER.findall(source)}
        numbers = {letter: int(match[letter]) - more[letter] for letter in more}
        if min(numbers.values(), default=0) < 0:
            continue
        return _filled(target, numbers) + match['rest']
    return None


def _filled(template: str, numbers: dict[str, int]) -> str:
    return NUMBER.sub(lambda found: str(numbers[found[1]] + bool(found[2])), template)
