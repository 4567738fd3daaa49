"""Pieces of HTML. Every text is escaped here and nowhere else; ``Html`` marks what already is."""

import base64
import csv
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .figures import OWN, Figure

_HERE = Path(__file__).parent


class Html(str):
    """Text that is HTML."""


def escape(value: object) -> Html:
    """Any text as HTML; ``Html`` as it is. "+/-" becomes its sign."""
    if isinstance(value, Html):
        return value
    return Html(html.escape(str(value)).replace("+/-", "±"))


def join(parts: Iterable[str], between: str = "\n") -> Html:
    """Several pieces after one another."""
    return Html(between.join(escape(part) for part in parts))


def tag(name: str, content: object = "", **attributes: object) -> Html:
    """``<name attributes>content</name>``; ``class_`` is class, ``data_x`` is data-x, None is left out."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{told}>{escape(content)}</{name}>")


def section(title: str, content: object, anchor: str, level: int = 2) -> Html:
    """A part of the page with its heading."""
    return tag("section", join([tag(f"h{level}", title), escape(content)]), id=anchor)


def details(summary: object, content: object, open_: bool = False) -> Html:
    """A part that opens on a click."""
    return Html(f"<details{' open' if open_ else ''}>{tag('summary', summary)}{escape(content)}</details>")


def table(
    header: Sequence[object], rows: Iterable[Sequence[object]], caption: str, narrow: bool = False
) -> Html:
    """A table in a frame that scrolls by itself. A cell (shown, number) is sorted by its number."""
    body = list(rows)
    words = [i for i in range(len(header)) if body and not isinstance(body[0][i], tuple)]
    heads = [
        tag(
            "th",
            tag("button", name, type="button"),
            scope="col",
            class_="text" if i in words else None,
        )
        for i, name in enumerate(header)
    ]
    lines = [tag("tr", join([_cell(value, i == 0) for i, value in enumerate(row)], "")) for row in body]
    content = join(
        [
            tag("caption", caption, class_="hidden"),
            tag("thead", tag("tr", join(heads, ""))),
            tag("tbody", join(lines)),
        ]
    )
    inner = tag("table", content, class_="sortable")
    kind = "scroll narrow" if narrow else "scroll"
    return tag("div", inner, class_=kind, tabindex="0", role="region", aria_label=caption)


def _cell(value: object, first: bool) -> Html:
    shown, number = value if isinstance(value, tuple) else (value, None)
    if first:
        return tag("th", shown, scope="row")
    return tag("td", shown, data_value=number, class_=None if isinstance(value, tuple) else "text")


def figure(drawing: Figure, name: str) -> Html:
    """A drawing with its caption and its data to download."""
    link = download(f"{name}.csv", csv_text(drawing.data), "data") if drawing.data else Html("")
    words = tag("figcaption", join([tag("b", drawing.title), escape(drawing.caption), link], " "))
    image = Html(
        f'<div class="drawing" tabindex="0" role="img" aria-label="{html.escape(drawing.title)}">'
        f"{drawing.svg}</div>"
    )
    return tag("figure", join([image, words]), class_="wide" if drawing.wide else None)


def download(name: str, text: str, label: str = "CSV") -> Html:
    """A link that saves a text; the text is in the page."""
    data = base64.b64encode(text.encode()).decode()
    return tag(
        "a", label, href=f"data:text/csv;charset=utf-8;base64,{data}", download=name, class_="download"
    )


def picture(path: Path, caption: str) -> Html:
    """An image file as a part of the page."""
    kind = {".jpg": "jpeg", ".svg": "svg+xml"}.get(path.suffix.lower(), path.suffix.lower().lstrip("."))
    return captioned(path.read_bytes(), kind, caption)


def captioned(image: bytes, kind: str, caption: str) -> Html:
    """An image and what stands below it; kind: of the file, such as png."""
    data = base64.b64encode(image).decode()
    shown = Html(f'<img alt="{html.escape(caption)}" src="data:image/{kind};base64,{data}">')
    return tag("figure", join([shown, tag("figcaption", caption)]))


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV."""
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return out.getvalue()


def document(title: str, lead: Html, contents: Sequence[tuple[str, str]], body: Html) -> str:
    """The whole page. contents: (anchor, words)."""
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    links = join([tag("a", words, href=f"#{anchor}") for anchor, words in contents])
    head = join(
        [
            Html('<meta charset="utf-8">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Html('<meta name="color-scheme" content="light dark">'),
            Html('<link rel="icon" href="data:,">'),
            tag("title", title),
            Html(f"<style>{style}</style>"),
        ]
    )
    before, *drawings = body.split("<svg")
    numbered = [part.replace(OWN, f"f{i}-") for i, part in enumerate(drawings)]
    parts = [
        tag("a", "Skip to the tables", href="#main", class_="skip"),
        tag("header", join([tag("h1", title), lead])),
        tag("nav", links, aria_label="Contents"),
        tag("main", Html("<svg".join([before, *numbered])), id="main"),
        Html(f"<script>{script}</script>"),
    ]
    return f'<!doctype html>\n<html lang="en">\n{tag("head", head)}\n{tag("body", join(parts))}\n</html>\n'
