"""What mkdocs does beside laying out ``docs/``: the README is the first page, and a folder of pages has a list of them.

On the site a link that leaves ``docs/`` (to an example, say) has nothing to lead to, so its path stands in its place.
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the generated pages."""
    pages = {"index.md": _rewritten((ROOT / "README.md").read_text("utf-8"), ROOT)}
    for folder in sorted({path.parent for path in DOCS.rglob("*.md")} - {DOCS}):
        lines = [f"- [{_title(path)}]({path.name})" for path in sorted(folder.glob("*.md"))]
        name = folder.relative_to(DOCS).as_posix()
        pages[f"{name}/index.md"] = "\n".join([f"# {name.capitalize()}", "", *lines, ""])
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Returns the page's text with its links as the site has them."""
    if page.file.generated_by:
        return markdown
    return _rewritten(markdown, (DOCS / page.file.src_uri).parent, str(Path(page.file.src_uri).parent))


def _title(path: Path) -> str:
    return path.read_text("utf-8").splitlines()[0].lstrip("# ")


def _rewritten(markdown: str, folder: Path, within: str = ".") -> str:
    def link(found: re.Match[str]) -> str:
        image, text, target, heading = found.groups()
        if not target or "://" in target or target.startswith("mailto:"):
            return found[0]
        place = Path(os.path.normpath(folder / target))
        if place == ROOT / "README.md":
            place = DOCS / "index.md"
        elif place.is_dir() and place.is_relative_to(DOCS):
            place = place / "index.md"
        if not place.is_relative_to(DOCS):
            path = place.relative_to(ROOT).as_posix()
            return text if path == text else f"{text} (`{path}`)"
        return f"{image}[{text}]({os.path.relpath(place, DOCS / within)}{heading or ''})"

    return LINK.sub(link, markdown)
