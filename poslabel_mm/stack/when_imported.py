"""Code that runs around the import of another module, whoever imports it.

``import poslabel_mm`` has to be fast, and the MM stack takes seconds to import: it is mended when
somebody imports it.
"""

import importlib.abc
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module as the other finders do, and has its code run inside a context.

    It stays until the module has been imported: a module may be looked for without being imported,
    as by :func:`importlib.util.find_spec`, and an import may fail and be repeated.
    """

    def __init__(
        self,
        name: str,
        around: Callable[[], AbstractContextManager],
        before: Callable[[], None] | None,
    ) -> None:
        self.name, self.around, self.before = name, around, before

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is None and self.before is not None:
            self.before()  # says more than that there is no such module
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = self._in_context(spec.loader.exec_module)
        return spec

    def _in_context(self, exec_module: Callable) -> Callable:

        def exec_in_context(module) -> None:
            if self.before is not None:
                self.before()
            with self.around():
                exec_module(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)

        return exec_in_context


def when_imported(
    name: str,
    around: Callable[[], AbstractContextManager],
    before: Callable[[], None] | None = None,
) -> None:
    """Run code around the import of a module, or at once if it has been imported already.

    Args:
        name (str): Full name of the module.
        around (callable): Returns the context manager in which the module's code runs.
        before (callable, optional): Called before the module's code runs, or where there is no
            such module; what it raises ends the import.
    """
    if name not in sys.modules:
        sys.meta_path.insert(0, _Finder(name, around, before))
        return
    if before is not None:
        before()
    with around():
        pass
