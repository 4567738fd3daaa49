"""The folder is the registry: ``algorithms/pcl.py`` holds the class ``PCL``, and that is all it takes.

Names are compared without case. A file whose name begins with ``_`` is no entry.
"""

import ast
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

from .errors import UsageError, unknown

PACKAGE = Path(__file__).parent
_plugins: dict[str, dict[str, type]] = {}  # folder -> {lower-case name: class}
_loaded: dict[Path, ModuleType] = {}  # plugin files
_sources: dict[str, Path] = {}  # lower-case name of a plugin's method -> its file


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


def docstring(path: Path) -> str:
    """What a file says of itself; nothing is imported."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


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
    """Import a user's file and register the methods that it defines; ``FILE.py:Class`` takes that one alone.

    A method is a subclass of ``Algorithm``, or a class written for DomainBed (see ``domainbed.py``).
    """
    from . import domainbed
    from .algorithm import Algorithm

    text, _, wanted = str(path).partition(".py:")
    file = Path(f"{text}.py" if wanted else path).resolve()
    module = _module(file)

    def is_method(value: object) -> bool:
        return (isinstance(value, type) and issubclass(value, Algorithm)) or domainbed.is_method(value)

    found = {name: value for name, value in vars(module).items() if is_method(value)}
    if wanted:
        if wanted not in found:
            raise unknown(f"class of the plugin {text}.py:", wanted, found)
        found = {wanted: found[wanted]}
    else:
        found = {name: cls for name, cls in found.items() if cls.__module__ == module.__name__}
    if not found:
        raise UsageError(
            f"the plugin {str(path)!r} defines no subclass of dgbench.algorithm.Algorithm "
            "or dgbench.domainbed.Algorithm that takes (input_shape, num_classes, num_domains, hparams)"
        )
    classes = [cls if issubclass(cls, Algorithm) else domainbed.adapt(cls) for cls in found.values()]
    for cls in classes:
        if cls.__name__.lower() in _files("algorithms"):
            raise UsageError(
                f"the plugin {str(path)!r} redefines the algorithm {cls.__name__}; rename its class"
                + ("" if wanted else ", or name the one to take: FILE.py:Class")
            )
        if (other := _sources.setdefault(cls.__name__.lower(), file)) != file:
            raise UsageError(f"the plugins {other} and {file} both define {cls.__name__}; rename one of them")
        _plugins.setdefault("algorithms", {})[cls.__name__.lower()] = cls
    return classes


def plugin_version(name: str) -> str:
    """File and content of the plugin that defines a method; empty for a method of the package."""
    path = _sources.get(name.lower())
    return "" if path is None else f"{path.name}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"


def _module(path: Path) -> ModuleType:
    """The module of a user's file, executed once."""
    if path not in _loaded:
        if not path.is_file() or path.suffix != ".py":
            raise UsageError(f"no plugin file {str(path)!r}; give the path of a Python file")
        _loaded[path] = run_file(path, f"dgbench_plugin_{path.stem}_{len(_loaded)}")
    return _loaded[path]


def run_file(path: Path, name: str) -> ModuleType:
    """A user's file as the module ``name``; a ``UsageError`` names the line that failed."""
    path = path.absolute()  # as a traceback writes it
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module  # where inspect looks for a class's file
    try:
        module_spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, UsageError) or not isinstance(error, Exception):
            raise
        raise UsageError(f"cannot run {_place_and_words(error, str(path))}") from error
    return module


def _place_and_words(error: Exception, path: str) -> str:
    """The last line of the file on the way to an error, and what the error says."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    text = str(error)
    if isinstance(error, SyntaxError) and error.filename == path:
        lines, text = [error.lineno], error.msg
    where = f"{path}:{lines[-1]}" if lines and lines[-1] else path
    return f"{where}: {type(error).__name__}: {text}"
