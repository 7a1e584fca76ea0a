"""Parts of a page: sections, tables, figures in large type, and one style sheet, which needs nothing from elsewhere.

Everything is inside the class ``tw``, so that a notebook that shows a page keeps its own looks.
"""

import re
from collections.abc import Iterable, Sequence
from html import escape

_CODE, _AS_CODE = re.compile("`([^`]+)`"), r"<code>\1</code>"
_LIGHT = "--paper:#fff;--soft:#f5f6f7;--rule:#e2e5e9;--ink:#1a1f26;--grey:#5f6975;--accent:#0d6e65;--alarm:#b3262a;"
_LIGHT += "--read:#9aa5b1;--model:#0d6e65;--assemble:#cfd6dd;--encode:#67b3a9;--put:#5d6975;color-scheme:light"
_DARK = "--paper:#14181d;--soft:#1c2127;--rule:#2e353d;--ink:#e9ecef;--grey:#9aa5b1;--accent:#4fb8aa;--alarm:#ff7b7b;"
_DARK += "--read:#7a8591;--model:#4fb8aa;--assemble:#465059;--encode:#2b766d;--put:#c3cbd3;color-scheme:dark"
STYLE = (
    f".tw{{{_LIGHT}}}@media(prefers-color-scheme:dark){{.tw{{{_DARK}}}}}"
    f'[data-jp-theme-light="true"] .tw,.vscode-light .tw{{{_LIGHT}}}'
    f'[data-jp-theme-light="false"] .tw,.vscode-dark .tw{{{_DARK}}}'
    """
.tw{font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif;color:var(--ink);
background:var(--paper);box-sizing:border-box;max-width:1080px;margin:0 auto;padding:56px 48px 80px}
.tw *{box-sizing:border-box}
.tw .brand{font-size:13px;color:var(--grey);margin:0 0 20px;letter-spacing:.02em}
.tw .brand b{color:var(--accent)}
.tw h1{font-size:34px;line-height:1.2;font-weight:650;letter-spacing:-.015em;margin:0 0 12px;max-width:26em}
.tw h2{font-size:20px;line-height:1.3;font-weight:650;margin:64px 0 4px}
.tw p{margin:0 0 12px;max-width:46em}
.tw .lead{color:var(--grey)}
.tw .lead,.tw .next{overflow-wrap:anywhere}
.tw .next{border-left:3px solid var(--accent);background:var(--soft);padding:14px 20px;margin:24px 0 0;max-width:none}
.tw .next.alarm{border-color:var(--alarm)}
.tw .next p:last-child{margin:0}
.tw .figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:28px 24px;margin:40px 0 0}
.tw .figures div{border-top:1px solid var(--rule);padding-top:10px}
.tw .figures b{display:block;font-size:20px;line-height:1.3;font-weight:650}
.tw .figures span{font-size:13px;color:var(--grey);display:block}
.tw table{border-collapse:collapse;width:100%;font-size:15px;margin:16px 0 0;background:none}
.tw th,.tw td{text-align:right;padding:8px 0 8px 20px;border-bottom:1px solid var(--rule);vertical-align:top;
font-variant-numeric:tabular-nums;background:none}
.tw th{font-size:13px;font-weight:400;color:var(--grey)}
.tw th:first-child,.tw td:first-child{text-align:left;padding-left:0;width:34%}
.tw table.words td,.tw table.words th{text-align:left;overflow-wrap:anywhere}
.tw .two{display:grid;grid-template-columns:repeat(auto-fit,minmax(400px,1fr));gap:32px 48px;margin-top:20px}
.tw .panels{display:grid;grid-template-columns:repeat(var(--n),1fr);gap:20px 24px;margin-top:20px;align-items:start}
.tw figure{margin:0;min-width:0}
.tw h3{font-size:15px;font-weight:650;margin:24px 0 -8px}
.tw figcaption,.tw .key,.tw .note{font-size:13px;color:var(--grey);margin-top:6px;max-width:46em}
.tw .key{margin-top:10px;max-width:none}
.tw img{display:block;width:100%;height:auto}
.tw code{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:nowrap;color:inherit;
background:none;padding:0}
.tw img.cells{image-rendering:pixelated}
.tw img{background:repeating-linear-gradient(135deg,var(--soft) 0 4px,
var(--rule) 4px 5px);outline:1px solid var(--rule)}
.tw .key span{margin-right:22px;white-space:nowrap}
.tw .key i{display:inline-block;width:12px;height:12px;margin-right:7px;vertical-align:-1px;border-radius:2px}
.tw .key i.missing{background:repeating-linear-gradient(135deg,var(--soft) 0 3px,var(--grey) 3px 4px)}
.tw .bars{margin-top:20px;display:grid;grid-template-columns:minmax(90px,max-content) 1fr max-content;gap:8px 16px;
align-items:center;font-size:13px}
.tw .bar{display:flex;height:18px;border-radius:2px;overflow:hidden}
.tw .bars span:nth-child(3n){font-variant-numeric:tabular-nums;color:var(--grey);text-align:right}
.tw svg{display:block;width:100%;height:auto;overflow:visible}
.tw svg text{font-size:13px;fill:var(--grey)}
.tw svg .grid{stroke:var(--rule);stroke-width:1}
.tw svg .fill{fill:var(--accent)}
.tw svg .pale{fill:var(--accent);opacity:.14}
.tw svg .line{stroke:var(--accent);stroke-width:2;fill:none;stroke-linejoin:round}
.tw svg .limit{stroke:var(--grey);stroke-width:1;stroke-dasharray:4 4}
.tw pre{font:13px/1.6 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;background:var(--soft);color:var(--ink);
padding:16px 20px;margin:16px 0 0;overflow:auto;max-height:420px}
.tw summary{cursor:pointer;color:var(--grey);font-size:13px;margin-top:12px}
@media(max-width:640px){.tw{padding:32px 20px}.tw .two{grid-template-columns:1fr}
.tw .panels{grid-template-columns:1fr 1fr}}
"""
)


def page(title: str, body: str) -> str:
    """Return a whole HTML file."""
    both = "html{background:#fff}@media(prefers-color-scheme:dark){html{background:#14181d}}body{margin:0}"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{both}{STYLE}</style></head>\n"
        f'<body><main class="tw">{body}</main></body></html>\n'
    )


def fragment(body: str) -> str:
    """Return HTML for a notebook."""
    return f'<style>{STYLE}</style><div class="tw" style="padding:24px;margin:0">{body}</div>'


def section(title: str, explanation: str, *parts: str) -> str:
    """Return a section, with a line in words of what it shows; the parts are HTML. Nothing where there are none."""
    shown = "".join(parts)
    return f'<section><h2>{escape(title)}</h2><p class="lead">{escape(explanation)}</p>{shown}</section>' * bool(shown)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, is_words: bool = False) -> str:
    """Return a table of texts; words stand at the left, numbers at the right."""
    titles = "".join(f"<th>{escape(name)}</th>" for name in head)
    cells = ("".join(f"<td>{escape(text)}</td>" for text in row) for row in rows)
    shown = "".join(f"<tr>{row}</tr>" for row in cells)
    return f"<table{' class=words' * is_words}><thead><tr>{titles}</tr></thead><tbody>{shown}</tbody></table>"


def figures(values: Iterable[tuple[str, str]]) -> str:
    """Return figures in large type, each with what it is below it."""
    shown = "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for value, name in values)
    return f'<div class="figures">{shown}</div>'


def key(entries: Iterable[tuple[str, str]]) -> str:
    """Return what colours mean; a colour of CSS, or an empty text for what is missing."""
    shown = "".join(
        f"<span><i {f'style=background:{colour}' if colour else 'class=missing'}></i>{escape(name)}</span>"
        for colour, name in entries
    )
    return f'<p class="key">{shown}</p>'


def panels(columns: int, parts: Iterable[str]) -> str:
    """Return pictures side by side, in so many columns."""
    return f'<div class="panels" style="--n:{columns}">{"".join(parts)}</div>'


def image(url: str, name: str, height: float, width: float, looks: str = "cells") -> str:
    """Return a picture with its name below it, in the proportions of what it shows, if these are not extreme."""
    ratio = min(max(width / height, 0.5), 20.0)
    return (
        f'<figure><img class="{looks}" alt="{escape(name)}" src="{url}" style="aspect-ratio:{ratio:.3f}">'
        f"<figcaption>{escape(name)}</figcaption></figure>"
    )


def paragraphs(texts: Iterable[str]) -> str:
    """Return paragraphs; what stands between backticks is code."""
    return "".join(f"<p>{_CODE.sub(_AS_CODE, escape(text))}</p>" for text in texts)


def note(text: str) -> str:
    """Return a small remark; nothing where it is empty."""
    return f'<p class="note">{escape(text)}</p>' * bool(text)
