"""What the page says of runs: the matrix of what is missing, data, pictures, commands."""

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path

from ..collect.formats import Table
from ..collect.rows import natural
from ..collect.runs import Run, Settings
from ..collect.selection import Column
from ..spec import RunSpec, is_soup
from .page import Html, csv_text, details, download, escape, join, picture, table, tag

SIGNS = {"done": "●", "running": "◐", "failed": "✕", "waiting": "○"}
PICTURES = (".png", ".jpg", ".jpeg", ".svg", ".webp", ".gif")
MOST_BYTES, LARGEST = 2_500_000, 400_000


def matrix(found: Table) -> Html:
    """A line per method and trial, a sign per column; several draws are counted."""
    cells: dict[tuple[str, int], dict[Column, list[Run]]] = {}
    first = {row.runs[0].settings: row for row in reversed(found.rows) if row.runs}  # rows share their runs
    for row in reversed(first.values()):
        for run in row.runs:
            where = cells.setdefault((row.label, run.spec.trial_seed), {})
            where.setdefault((run.spec.source_envs, run.spec.test_envs), []).append(run)
    lines = [
        [f"{label}, trial {trial}", *(_sign(where.get(key, [])) for key in found.keys)]
        for (label, trial), where in cells.items()
    ]
    runs = list({run.name: run for row in found.rows for run in row.runs}.values())
    listed = table(["Run", *found.columns], lines, f"{found.heading}: runs by state", narrow=True)
    states = Counter(run.state for run in runs)
    if set(states) == {"done"}:
        return details(f"All {len(runs)} runs are done", listed)
    told = ", ".join(f"{SIGNS[state]} {states[state]} {state}" for state in SIGNS if states[state])
    reasons = Counter(run.reason for run in runs if run.reason)
    why = tag("ul", join([tag("li", f"{count} x {reason}") for reason, count in reasons.most_common(20)]))
    return join([tag("p", told), listed, why])


def _sign(runs: Sequence[Run]) -> tuple[Html, object]:
    if not runs:
        return escape("-"), -1
    states = Counter(run.state for run in runs)
    done = states["done"] / len(runs)
    if len(runs) == 1:
        state = runs[0].state
        return tag(
            "span", SIGNS[state], class_=state, title=runs[0].reason or state, role="img", aria_label=state
        ), done
    worst = next(state for state in ("failed", "running", "waiting", "done") if states[state])
    told = ", ".join(f"{count} {state}" for state, count in states.items())
    return tag("span", f"{states['done']}/{len(runs)}", class_=worst, title=told), done


def data(runs: Iterable[Run]) -> Html:
    """Images per domain and the hash of their content, as the records say."""
    rows: dict[tuple[str, str, str], None] = {}
    for run in runs:
        for domain, contents in run.fingerprints.items():
            for content in contents:
                rows[run.spec.dataset, domain, content] = None
    if not rows:
        return tag("p", "The records do not say which data they were made from.")
    lines = []
    for dataset, domain, content in sorted(rows, key=lambda row: (row[0].lower(), natural(row[1]), row[2])):
        told = json.loads(content)
        told = told if isinstance(told, dict) else {"hash": told}
        images = told.get("images")
        lines.append(
            [dataset, domain, (images if images is not None else "-", images), str(told.get("hash", ""))[:12]]
        )
    return table(["Data set", "Domain", "Images", "Content"], lines, "Data of the runs")


def pictures(folder: Path, runs: Iterable[Run]) -> Html:
    """Image files of the sweep's folder and of its runs: samples, galleries, embeddings."""
    places = [folder, *(Path(run.folder) for run in runs if run.folder)]
    files = [
        path for place in places if place.is_dir() for path in sorted(place.iterdir()) if _is_picture(path)
    ]
    shown, left_out, total = [], [], 0
    for path in dict.fromkeys(files):
        size = path.stat().st_size
        if size > LARGEST or total + size > MOST_BYTES:
            left_out.append(path)
            continue
        total += size
        caption = path.name if path.parent == folder else f"{path.parent.name}: {path.name}"
        shown.append(picture(path, caption))
    parts = [tag("div", join(shown), class_="figures pictures")] if shown else []
    if left_out:
        names = ", ".join(f"{path.parent.name}/{path.name}" for path in left_out)
        parts.append(tag("p", f"Too large for this page: {names}", class_="words"))
    return join(parts)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES and not path.name.startswith(".")


def commands(folder: Path, tables: Sequence[Table], runs: Iterable[Run]) -> Html:
    """How to print the tables again, and how each method's runs were started.

    runs: the sweep's; a table's are of one direction each where the task is retrieval.
    """
    trained = {run.name: run for run in runs}
    lines = [f"python -m dgbench.collect_results --input_dir {shlex.quote(str(folder))}"]
    parts = [tag("pre", "\n".join(lines))]
    for found in tables:
        done: dict[Settings, tuple[str, Sequence[Run]]] = {}
        for row in found.rows:
            if row.runs:
                own = {run.name: trained[run.name] for run in row.runs}
                done.setdefault(row.runs[0].settings, (row.label, list(own.values())))
        lines = [command(runs[0].spec) for _, runs in done.values()]
        words = "One run of each method; the others differ in --test_envs, --trial_seed and --hparams_seed."
        told = join([tag("p", words, class_="words"), tag("pre", "\n\n".join(lines)), _all(done.values())])
        parts.append(
            details(f"{found.dataset}{', ' + found.variant if found.variant else ''}: commands", told)
        )
    return join(parts)


def command(spec: RunSpec) -> str:
    """The line that makes this run again; a label split is known by its content: its file is left open."""
    if is_soup(spec.averaging):
        flags = [f"--{told.replace('=', ' ')}" for told in spec.averaging[0].partition(":")[2].split(",")]
        return f"python -m dgbench.soup --input_dir SWEEP --output_dir SOUPS {' '.join(flags)}"
    words, switches = ["python -m dgbench.train"], {f.name for f in fields(spec) if f.type is bool}
    for name, value in spec.chosen().items():
        if name in switches:
            words.append(f"--{name}")
        elif isinstance(value, tuple):
            words.append(f"--{name} {' '.join(map(shlex.quote, value))}")
        elif name == "label_split":
            words.append(f"--{name} FILE")
        else:
            text = json.dumps(dict(value)) if name == "hparams" else str(value)
            words.append(f"--{name} {shlex.quote(text)}")
    return " \\\n  ".join(words)


def _all(methods: Iterable[tuple[str, Sequence[Run]]]) -> Html:
    rows = [
        {
            "method": label,
            "run": run.name,
            "state": run.state,
            "command": command(run.spec).replace("\\\n  ", ""),
        }
        for label, runs in methods
        for run in runs
    ]
    return download("commands.csv", csv_text(rows), "Every run with its command as CSV")
