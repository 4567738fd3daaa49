"""What there is: ``python -m dgbench.list [algorithms|datasets|tasks|sweeps] [NAME]``."""

import inspect
import re
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from . import flags, hparams, registry, sweep, tasks
from .errors import exit_on_usage_error, unknown
from .registry import docstring

SHORT = {
    "domain_generalization": "DG",
    "single_source": "single",
    "semi_supervised": "semi",
    "domain_adaptation": "DA",
    "retrieval": "retrieval",
}
KINDS = ("algorithms", "datasets", "tasks", "sweeps")


def rows(kind: str) -> list[tuple[str, str]]:
    """(name, first line of its description) of every entry; nothing heavy is imported."""
    if kind == "tasks":
        return [(name, _first_line(inspect.getdoc(task))) for name, task in tasks.TASKS.items()]
    if kind == "sweeps":
        return [(name, _first_line(docstring(sweep.file_of(name)))) for name in sweep.names()]
    return [(name, _first_line(docstring(registry.source(kind, name)))) for name in registry.names(kind)]


def method_table() -> str:
    """All methods as a markdown table: name, title, paper, arXiv id, tasks; the README holds it."""
    table = []
    for name in registry.names("algorithms"):
        text = docstring(registry.source("algorithms", name))
        title = re.fullmatch(r"\w+: (?P<title>.+) \((?P<paper>.+)\)\.", text.split("\n")[0])
        assert title is not None, (
            f"the first line of {name}'s docstring is not 'Name: Title (Authors, VENUE YEAR).'"
        )
        arxiv = re.search(r"^arXiv (\d{4}\.\d{4,5})", text, re.MULTILINE)  # its own: a line begins with it
        link = f"[{arxiv[1]}](https://arxiv.org/abs/{arxiv[1]})" if arxiv else ""
        cls: Any = registry.find("algorithms", name)
        able = ", ".join(short for task, short in SHORT.items() if task in cls.tasks)
        table.append((f"`{name}`", title["title"], title["paper"], link, able))
    return tabulate(table, headers=("method", "title", "paper", "arXiv", "tasks"), tablefmt="github")


def describe(kind: str, name: str) -> str:
    """The whole description of an entry, with a method's hyper-parameters and their ranges."""
    known = {entry.lower(): entry for entry, _ in rows(kind)}
    if name.lower() not in known:
        raise unknown(kind.removesuffix("s"), name, known.values())
    name = known[name.lower()]
    if kind == "tasks":
        return inspect.getdoc(tasks.TASKS[name]) or ""
    if kind == "sweeps":
        return docstring(sweep.file_of(name))
    text = docstring(registry.source(kind, name))
    cls: Any = registry.find(kind, name)
    if kind == "datasets":
        facts = {"domains": ", ".join(cls.domains), "classes": cls.num_classes, "steps": cls.steps}
        told = "\n".join(f"{name}: {value or 'those of the folder'}" for name, value in facts.items())
        return f"{text}\n\n{told}"
    lines = [f"  {key} = {default!r}    {range_ or ''}" for key, (default, range_) in cls.hparams.items()]
    for dataset, values in cls.hparams_on.items():
        lines += [f"  {key} = {default!r}    on {dataset}" for key, (default, _) in values.items()]
    lines += [
        f"  {key} = {default!r}    {range_ or ''}  (shared)"
        for key, (default, range_) in hparams.SHARED.items()
    ]
    return f"{text}\n\ntasks: {', '.join(cls.tasks)}\nhyper-parameters:\n" + "\n".join(lines)


def _first_line(text: str | None) -> str:
    return (text or "").split("\n")[0].rstrip(".")


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = flags.Parser(prog="python -m dgbench.list", description=__doc__)
    parser.add_argument("kind", nargs="?", help=f"one of: {', '.join(KINDS)}")
    parser.add_argument("name", nargs="?", help="describe this entry")
    parser.add_argument("--markdown", action="store_true", help="the README's table of methods")
    args = parser.parse_args(argv)
    if args.markdown:
        print(method_table())
        return 0
    if args.kind is not None and args.kind not in KINDS:
        raise unknown("kind", args.kind, KINDS)
    if args.name:
        print(describe(args.kind, args.name))
        return 0
    for kind in [args.kind] if args.kind else KINDS:
        print(f"{kind}:")
        width = max((len(name) for name, _ in rows(kind)), default=0)
        for name, line in rows(kind):
            print(f"  {name:{width}}  {line.removeprefix(f'{name}: ')}")
    return 0


if __name__ == "__main__":
    exit_on_usage_error(main)
