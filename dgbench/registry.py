"""The folder is the registry: ``algorithms/pcl.py`` holds the class ``PCL``, and that is all it takes.

Names are compared without case. A file whose name begins with ``_`` is no entry.
"""

import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from .errors import UsageError, unknown

PACKAGE = Path(__file__).parent
_plugins: dict[str, dict[str, type]] = {}  # folder -> {lower-case name: class}
_loaded: dict[Path, list[type]] = {}  # plugin file -> its classes


@cache
def _files(folder: str) -> dict[str, tuple[str, str]]:
    """{lower-case name: (class name, module)} of a folder, read from the text: nothing is imported."""
    found = {}
    for path in sorted((PACKAGE / folder).glob("[!_]*.py")):
        classes = re.findall(r"^class (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        match = [name for name in classes if name.lower() == path.stem]
        if len(match) != 1:
            raise ImportError(f"{path} must define one class named like the file, found {classes}")
        found[path.stem] = (match[0], f"{__package__}.{folder}.{path.stem}")
    return found


def names(folder: str) -> list[str]:
    """The entries of ``dgbench/<folder>/`` and of loaded plugins, as users write them."""
    plugged = [cls.__name__ for cls in _plugins.get(folder, {}).values()]
    return sorted({name for name, _ in _files(folder).values()} | set(plugged), key=str.lower)


def canonical(folder: str, name: str) -> str:
    """``name`` in the spelling of its class; ``UsageError`` with the valid choices otherwise."""
    by_lower = {known.lower(): known for known in names(folder)}
    if name.lower() not in by_lower:
        raise unknown(folder.removesuffix("s"), name, by_lower.values())
    return by_lower[name.lower()]


def find(folder: str, name: str) -> type:
    """The class called ``name`` in ``dgbench/<folder>/``; only its own file is imported."""
    key = canonical(folder, name).lower()
    if key in _plugins.get(folder, {}):
        return _plugins[folder][key]
    class_name, module = _files(folder)[key]
    return getattr(importlib.import_module(module), class_name)


def source(folder: str, name: str) -> Path:
    """The file of an entry."""
    key = canonical(folder, name).lower()
    if key in _plugins.get(folder, {}):
        return Path(inspect.getfile(_plugins[folder][key]))
    return PACKAGE / folder / f"{key}.py"


@contextmanager
def registered(method: type) -> Iterator[None]:
    """Have ``find`` know a class for a while, whatever file it is in."""
    added = method.__name__.lower() not in {name.lower() for name in names("algorithms")}
    if added:
        _plugins.setdefault("algorithms", {})[method.__name__.lower()] = method
    try:
        yield
    finally:
        if added:
            del _plugins["algorithms"][method.__name__.lower()]


def load_plugin(path: str | Path) -> list[type]:
    """Import a user's file and register the ``Algorithm`` subclasses that it defines."""
    from .algorithm import Algorithm

    path = Path(path).resolve()
    if path in _loaded:
        return _loaded[path]
    if not path.is_file():
        raise UsageError(f"no plugin file {str(path)!r}; give the path of a Python file")
    module_spec = importlib.util.spec_from_file_location(f"dgbench_plugin_{path.stem}", path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Algorithm) and value.__module__ == module.__name__
    ]
    if not found:
        raise UsageError(f"the plugin {str(path)!r} defines no subclass of dgbench.algorithm.Algorithm")
    for cls in found:
        if cls.__name__.lower() in _files("algorithms"):
            raise UsageError(
                f"the plugin {str(path)!r} redefines the algorithm {cls.__name__}; rename its class"
            )
        _plugins.setdefault("algorithms", {})[cls.__name__.lower()] = cls
    return found
