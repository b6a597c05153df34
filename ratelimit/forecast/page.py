"""A report as one HTML file: numbers, charts and tables, without a script and without anything from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from .charts import Panel, svg, visible

_CSS = """
:root{color-scheme:light}
body{font:15px/1.5 system-ui,sans-serif;color:#111827;margin:0;background:#f9fafb}
main{max-width:1120px;margin:0 auto;padding:24px}
h1{font-size:22px;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:16px;margin:28px 0 8px}
p.says{color:#4b5563;margin:0 0 8px;font-size:13px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:12px;margin:16px 0}
.card{background:#fff;border:1px solid #e5e7eb;border-radius:8px;padding:12px}
.card b{display:block;font-size:20px;overflow-wrap:anywhere}
.card span{color:#6b7280;font-size:12px;text-transform:uppercase;letter-spacing:.04em}
.card small{color:#4b5563;overflow-wrap:anywhere}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(460px,1fr));gap:12px}
figure{background:#fff;border:1px solid #e5e7eb;border-radius:8px;margin:0;padding:12px;min-width:0}
figcaption{font-weight:600;margin-bottom:2px}
svg{max-width:100%;height:auto;display:block}
.wide{overflow-x:auto;background:#fff;border:1px solid #e5e7eb;border-radius:8px}
table{border-collapse:collapse;width:100%;font-size:13px}
th,td{padding:6px 10px;text-align:left;border-bottom:1px solid #f3f4f6;vertical-align:top}
th{background:#f3f4f6;font-weight:600}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tr.best{background:#ecfdf5}
footer{color:#6b7280;font-size:12px;margin-top:28px}
@media(max-width:520px){.charts{grid-template-columns:1fr}}
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


class Card(NamedTuple):
    """A number that everybody looks for: what it is, the number, and what belongs to it."""

    label: str
    number: str
    more: str = ""


class Grid(NamedTuple):
    """A table: its title, heads, rows, the columns of numbers, and the row that stands out."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int] = frozenset()
    best: int | None = None


def page(
    title: str,
    subtitle: str,
    cards: Sequence[Card],
    panels: Sequence[Panel],
    grids: Sequence[Grid],
    notes: Sequence[str],
) -> str:
    """Write a report. Every text is escaped, and nothing hides: names of files, models and tags come from elsewhere."""
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_CSS}</style></head><body><main>",
        f"<h1>{escape(title)}</h1><p class=says>{escape(subtitle)}</p>",
        '<section class="cards">',
        *(
            f'<div class="card"><span>{escape(one.label)}</span><b>{escape(one.number)}</b>'
            f"<small>{escape(one.more)}</small></div>"
            for one in cards
        ),
        '</section><section class="charts">',
        *(
            f'<figure><figcaption>{escape(one.title)}</figcaption><p class="says">{escape(one.says)}</p>'
            f"{_labelled(svg(one), one.title)}</figure>"
            for one in panels
        ),
        "</section>",
        *map(_table, (one for one in grids if one.rows)),
    ]
    if notes:
        parts += ["<h2>Notes</h2><ul>", *(f"<li>{escape(note)}</li>" for note in notes), "</ul>"]
    parts.append("<footer>Written by ratecard. Forecasts are not promises: they state what they assume.</footer>")
    return visible("\n".join(parts) + "</main></body></html>\n")


def _labelled(drawing: str, title: str) -> str:
    return drawing.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)


def _table(grid: Grid) -> str:
    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if place in grid.numbers else ''}>{escape(text)}</{tag}>"
            for place, text in enumerate(row)
        )

    rows = "\n".join(
        f"<tr{' class=best' if place == grid.best else ''}>{cells(row, 'td')}</tr>"
        for place, row in enumerate(grid.rows)
    )
    head = f"<thead><tr>{cells(grid.heads, 'th')}</tr></thead>"
    return f'<h2>{escape(grid.title)}</h2><div class="wide"><table>{head}<tbody>{rows}</tbody></table></div>'
