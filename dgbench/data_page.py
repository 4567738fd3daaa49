"""One static page with the pictures of a data report's pairs."""

import base64
import html
import io

from PIL import Image

from .data_report import KINDS, Report, ordered, text
from .decode import rgb
from .duplicates import Pair

SIDE = 128  # pixels of a picture
MOST = 300  # pairs of a kind, so that a browser can show the page

_HEADINGS = {"files": "The same file", "pixels": "The same pixels", "near": "Nearly the same"}
_STYLE = """
body { font: 14px system-ui, sans-serif; margin: 2em; color-scheme: light dark; }
pre { overflow-x: auto; }
.pairs { display: flex; flex-wrap: wrap; gap: 1em; }
figure { margin: 0; width: 270px; overflow-wrap: anywhere; font-size: 12px; }
.labels figcaption { color: #c00; }
"""


def page(report: Report) -> str:
    """HTML that needs no other file."""
    title = html.escape(f"{report.name}: data report")
    parts = [
        f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>"
    ]
    parts.append(f"<pre>{html.escape(text(report))}</pre>")
    for kind in KINDS:
        pairs = [pair for pair in ordered(report) if pair.kind == kind]
        parts.append(f"<h2>{_HEADINGS[kind]}: {len(pairs)} pairs</h2>")
        if len(pairs) > MOST:
            parts.append(f"<p>The first {MOST} of them.</p>")
        parts += ["<div class=pairs>", *(_figure(report, pair) for pair in pairs[:MOST]), "</div>"]
    return "\n".join(parts)


def _figure(report: Report, pair: Pair) -> str:
    caption = "<br>".join(html.escape(report.title(i)) for i in (pair.i, pair.j))
    style = " class=labels" if report.two_labels(pair) else ""
    pictures = " ".join(_picture(report, i) for i in (pair.i, pair.j))
    place = report.place(pair) + (", two labels" if style else "")
    return f"<div{style}><figure>{pictures}<figcaption>{caption}<br>{place}</figcaption></figure></div>"


def _picture(report: Report, i: int) -> str:
    with Image.open(report.paths[i]) as image:
        small = rgb(image)
    small.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img width={small.width} height={small.height} alt="" src="data:image/jpeg;base64,{data}">'
