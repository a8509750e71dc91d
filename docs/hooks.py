"""What the site takes from outside docs/: pages of the repository's root, under the site's names.

`make docs` runs this through mkdocs. Links between pages stay those that work in the repository; here they
become links of the site, and links to source files become plain text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
_BADGE = re.compile(r"^\[!\[.*\n", re.MULTILINE)  # pictures of other hosts, and of the repository's host
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|#)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the root's pages."""
    root = Path(config.config_file_path).parent
    for source, name in ROOT_PAGES.items():
        content = (root / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the repository's links into the site's."""
    del config
    source = {name: root for root, name in ROOT_PAGES.items()}.get(
        page.file.src_uri, f"docs/{page.file.src_uri}"
    )
    here = posixpath.dirname(source)

    def site_link(match: re.Match[str]) -> str:
        image, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        path = posixpath.normpath(posixpath.join(here, target))
        name = ROOT_PAGES.get(path, path.removeprefix("docs/") if path.startswith("docs/") else "")
        if not name or files.get_file_from_path(name) is None:
            return text if not image else match[0]  # a file of the repository, not of the site
        relative = posixpath.relpath(name, posixpath.dirname(page.file.src_uri) or ".")
        return f"{image}[{text}]({relative}{anchor})"

    return _LINK.sub(site_link, _BADGE.sub("", markdown))
