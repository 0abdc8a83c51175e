"""Hooks of the documentation site: pages made from the code, links as they are in the checkout, charts of benchmarks.

The pages under ``docs`` read as well in a checkout as on the site, so their links are those of the checkout; here they
are turned into the site's. What is told of settings, commands and functions comes from the code alone.
"""

from __future__ import annotations

import html
import math
import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
HOME = "index.md"
"""Of the site; a page of its own, which stands where links to README lead."""
MOVED = {
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": HOME,
    "containers/README.md": "containers.md",
}
"""Pages of the checkout that do not lie in ``docs``, and where they are on the site."""

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
_FENCED = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from the code, and those that lie elsewhere in the checkout."""
    made = {
        "reference/python.md": _python(),
        "reference/settings.md": _settings(),
        "reference/commands.md": _commands(),
        **{there: (ROOT / here).read_text() for here, there in MOVED.items() if there != HOME},
    }
    for place, text in made.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links, and draw what was measured."""
    place = page.file.src_uri
    if place.endswith(".ipynb"):
        return markdown
    origin = next((here for here, there in MOVED.items() if there == place != HOME), f"docs/{place}")
    parts = _FENCED.split(markdown)
    parts[::2] = [_LINK.sub(lambda m: _turned(m, origin, place, files), part) for part in parts[::2]]
    text = "".join(parts)
    return "\n".join(_with_charts(text)) if place == "benchmarks.md" else text


def _turned(link: re.Match[str], origin: str, place: str, files: Files) -> str:
    """Link to where a file of the checkout is on the site; what is not on it is named and not linked."""
    mark, text, target, anchor = link[1], link[2], link[3], link[4] or ""
    if not target or "://" in target or target.startswith("mailto:"):
        return link[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
    there = MOVED.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else "")
    if files.get_file_from_path(there) is None:
        return text
    return f"{mark}[{text}]({posixpath.relpath(there, posixpath.dirname(place) or '.')}{anchor})"


# what is made from the code


_MODULES = (
    ("stratacube", "The names to import: open lazily, build, errors."),
    ("cube", "The same openers, pictures, and what they return in its place."),
    ("loaders", "Batches of tiles and cubes; see [streaming](../loaders.md)."),
    ("cube.testing", "Archives to test with; see [testing](../testing.md)."),
)


_PACKAGES = ("stratacube", "catalog", "cube", "loaders", "training")


def _python() -> str:
    lines = ["# Python", "", "Every public function, from its docstring."]
    shown: set[str] = set()
    for name, purpose in _MODULES:
        module = import_module(name)
        homes: Mapping[str, str] = getattr(module, "_HOMES", {})
        lines += ["", f"## {name}", "", purpose, ""]
        for public in sorted(homes):
            home = homes[public]
            home = home if home.partition(".")[0] in _PACKAGES else f"{name}.{home}"
            identifier = f"{home}.{public}"
            if identifier not in shown:
                lines += [f"::: {identifier}", "    options:", "      heading_level: 3", ""]
            shown.add(identifier)
    return "\n".join(lines)


def _settings() -> str:
    from cube.build import commands  # noqa: PLC0415  (mkdocs reads this module before the code is asked for)
    from cube.plug import imported  # noqa: PLC0415
    from stratacube.flags import flag  # noqa: PLC0415

    lines = [
        "# Settings",
        "",
        "Each is a flag of its command, a key of its YAML file and an argument of `stratacube.build`.",
    ]
    for name, command in commands().items():
        model = imported(command.config)
        lines += ["", f"## {name}", "", command.help + "."]
        named = {field for fields in model.GROUPS.values() for field in fields}
        rest = [field for field in model.model_fields if field not in named]
        for title, fields in {**model.GROUPS, "settings": rest}.items():
            if fields:
                lines += ["", f"### {title} {{ #{name}-{title.replace(' ', '-').replace(',', '')} }}", ""]
                lines += ["| setting | flag | what it says | default |", "|---|---|---|---|"]
            for field in fields:
                info = model.model_fields[field]
                default = "required" if info.is_required() else f"`{_plain(info.default)}`"
                told = _cell(info.description or "")
                lines.append(f"| `{field}` | `{flag(field)}` | {told} | {default} |")
    return "\n".join(lines)


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) and value else str(value)


def _cell(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "\\|")


def _commands() -> str:
    from cube.build import LOOKS, _parser, commands  # noqa: PLC0415

    os.environ["COLUMNS"] = "100"
    lines = ["# Commands", "", "What `--help` says of each."]
    for name in ["", *commands(), *LOOKS, "explain", "doctor", "publish", "demo"]:
        parser = _parser([name] if name else [])
        for action in parser._actions if name else ():
            parser = action.choices[name] if isinstance(action.choices, dict) and name in action.choices else parser
        title = f"stratacube {name}".strip()
        text = parser.format_help().replace(parser.prog, title)
        lines += ["", f"## {title}", "", "```text", text.rstrip(), "```"]
    return "\n".join(lines)


# benchmarks


_WIDTH, _BAR, _LEFT = 720, 18, 330


def _with_charts(text: str) -> Iterator[str]:
    """Lines of the page; after each table that compares, how many times better ours is."""
    rows: list[tuple[str, float]] = []
    for line in [*text.split("\n"), ""]:
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if len(cells) > 3 and (found := re.fullmatch(r"([\d.,]+)x", cells[3])):
            rows.append((cells[0], float(found[1].replace(",", ""))))
        elif not cells and rows:
            yield ""
            yield _chart(rows)
            rows = []
        yield line


def _chart(rows: list[tuple[str, float]]) -> str:
    """Bars on a logarithmic axis, in the colours of the theme; right of the line ours is better."""
    most = max(10.0, *(max(better, 1 / better) for _, better in rows if better > 0))
    decades = math.log10(most)
    one, scale = _LEFT + (_WIDTH - _LEFT - 60) * 0.25, (_WIDTH - _LEFT - 60) * 0.75 / decades
    height = _BAR * len(rows) + 24
    parts = [
        f'<svg class="bars" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="Times better than theirs">',
        f'<line x1="{one:.0f}" x2="{one:.0f}" y1="0" y2="{height - 20}" stroke="currentColor"/>',
        f'<text x="{one:.0f}" y="{height - 4}" text-anchor="middle">as fast or large as theirs</text>',
    ]
    for number, (label, better) in enumerate(rows):
        y, end = number * _BAR, max(_LEFT, one + scale * math.log10(better)) if better > 0 else _LEFT
        short = label if len(label) <= 52 else label[:50] + ".."
        parts.append(f"<g><title>{html.escape(label)}</title>")
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 12}" text-anchor="end">{html.escape(short)}</text>')
        left, wide = min(one, end), abs(end - one)
        parts.append(f'<rect x="{left:.1f}" y="{y + 2}" width="{wide:.1f}" height="{_BAR - 6}"/>')
        parts.append(f'<text x="{max(one, end) + 5:.1f}" y="{y + 12}">{better:g}x</text></g>')
    return "".join(parts) + "</svg>"
