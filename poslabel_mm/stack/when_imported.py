"""Callbacks for the moment in which another module has been imported.

``import poslabel_mm`` is to be fast, and the MM stack takes seconds to import: what has to be
mended in it is mended when somebody imports it.
"""
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable


class _Finder(importlib.abc.MetaPathFinder):
    """Finds a module as the finders after it do, and calls back once it is imported."""

    def __init__(self, name: str, before: Callable[[], None] | None,
                 after: Callable[[], None]) -> None:
        self.name, self.before, self.after = name, before, after

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name:
            return None
        if self.before is not None:
            self.before()
        sys.meta_path.remove(self)  # the finders after it are asked, and only once
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = self._calling_back(spec.loader.exec_module)
        return spec

    def _calling_back(self, exec_module: Callable) -> Callable:

        def exec_and_call_back(module) -> None:
            exec_module(module)
            self.after()

        return exec_and_call_back


def when_imported(name: str, after: Callable[[], None],
                  before: Callable[[], None] | None = None) -> None:
    """Call a function as soon as a module has been imported: at once if it has been already.

    Args:
        name (str): Full name of the module.
        after (callable): Called once the module is there.
        before (callable, optional): Called before the module is looked for; what it raises
            ends the import.
    """
    if name in sys.modules:
        if before is not None:
            before()
        after()
    else:
        sys.meta_path.insert(0, _Finder(name, before, after))
