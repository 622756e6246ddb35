"""A page as a tree of elements, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "link", "input", "hr"}


@dataclass
class Element:
    """A node of a parsed page."""

    tag: str
    attributes: dict[str, str | None]
    parent: Element | None = None
    children: list[Element | str] = field(default_factory=list)

    def all(self, tag: str | None = None, **attributes: str) -> Iterator[Element]:
        """The descendants of this tag and with these attributes (`class_` among classes)."""
        wanted = {key.rstrip("_"): value for key, value in attributes.items()}
        for child in self.children:
            if isinstance(child, Element):
                held = {**child.attributes, "class": (child.attributes.get("class") or "").split()}
                fits = all(value in (held.get(key) or ()) for key, value in wanted.items())
                if tag in (None, child.tag) and fits:
                    yield child
                yield from child.all(tag, **attributes)

    @property
    def text(self) -> str:
        """What a reader sees; scripts and styles are not seen."""
        if self.tag in ("script", "style"):
            return ""
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class Page(HTMLParser):
    """Parses, and refuses tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = self.here = Element("", {})
        self.comments: list[str] = []
        self.feed(text)
        self.close()
        assert self.here is self.root, f"<{self.here.tag}> was never closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs), self.here)
        self.here.children.append(element)
        if tag not in VOID:
            self.here = element

    def handle_endtag(self, tag: str) -> None:
        assert self.here.tag == tag and self.here.parent is not None, f"</{tag}> closes <{self.here.tag}>"
        self.here = self.here.parent

    def handle_data(self, data: str) -> None:
        self.here.children.append(data)

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)


def section(page: Element, name: str) -> Element:
    """The part of the page about a target, or the model, or the run."""
    return next(each for each in page.all("section") if name == next(each.all("h2")).text.strip())


def rows(table: Element) -> dict[str, list[Element]]:
    """Row heading -> its cells."""
    return {next(row.all("th")).text.strip(): list(row.all("td")) for row in table.all("tr")}


def figures(part: Element) -> list[str]:
    """The data of the figures, as they stand in the page."""
    return [str(each.children[0]) for each in part.all("script", type="application/json")]
