"""Where a link of a chapter or a document leads on the site: to a page, to a picture, or nowhere, and then its text remains."""

import posixpath
import re


PAGES = {
    "README.md": "index.md",
    "DIFFERENCES.md": "differences.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
"""The documents of the repository and the pages that they become."""

_CODE = re.compile(r"(?ms)^[ \t]*(`{3,}|~{3,}).*?^[ \t]*\1[ \t]*$|(`+)(?!`).+?(?<!`)\2(?!`)")
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_ELSEWHERE = re.compile(r"^(?:[a-z]+:|#|//)")


def outside_code(text, change):
    """A Markdown text with `change` applied to all of it but fenced and inline code."""
    parts, end = [], 0
    for code in _CODE.finditer(text):
        parts += [change(text[end : code.start()]), code.group()]
        end = code.end()
    return "".join([*parts, change(text[end:])])


def relink(text, origin, page, api):
    """The Markdown `text` of the repository's file `origin`, with the links that it needs as the site's source file `page`.

    `api` holds the names of the modules that have a page. A link to a file that the site does not show becomes its text.
    """

    def replaced(match):
        picture, label, target = match.groups()
        if _ELSEWHERE.match(target):
            return match.group()
        path, _, anchor = target.partition("#")
        goal = goes_to(posixpath.normpath(posixpath.join(posixpath.dirname(origin), path)), api)
        if goal is None:
            return label
        away = posixpath.relpath(goal, posixpath.dirname(page) or ".")
        return f"{picture}[{label}]({away}{'#' + anchor if anchor else ''})"

    # a label may hold code, so the text is not cut there: only links that stand inside code are left as they are
    spans = [code.span() for code in _CODE.finditer(text)]
    return _LINK.sub(
        lambda m: m.group() if any(a <= m.start() and m.end() <= b for a, b in spans) else replaced(m), text
    )


def goes_to(path, api):
    """The source file of the page that shows a file of the repository, or None."""
    if path in PAGES:
        return PAGES[path]
    if re.fullmatch(r"notebooks/[\w.]+\.ipynb", path):
        return "chapters/" + posixpath.basename(path)
    if re.fullmatch(r"notebooks/animations/[\w-]+\.gif", path):
        return "chapters/animations/" + posixpath.basename(path)
    if re.fullmatch(r"figures/[\w-]+\.png", path):
        return path
    if path.startswith("fdbook"):
        module = path.removesuffix("/").removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        if module in api:
            return f"api/{module}.md"
    return None
