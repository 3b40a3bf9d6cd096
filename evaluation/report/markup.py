"""HTML and SVG as values: whatever is not markup already is escaped, so that no name from a log can become an element."""

import re
from html import escape

CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")  # no HTML may hold them


class Markup(str):
    """Text that is HTML or SVG already."""

    __slots__ = ()


def escaped(text: object) -> Markup:
    """Any text but markup, safe between tags and in attributes."""
    return text if isinstance(text, Markup) else Markup(escape(CONTROLS.sub("\ufffd", str(text))))


def element(name: str, *children: object, **attributes: object) -> Markup:
    """One element. `class_` is class, and `_` within an attribute's name is `-`; an attribute that is None is left out."""
    told = "".join(f' {_attribute(key)}="{escaped(value)}"' for key, value in attributes.items() if value is not None)
    return Markup(f"<{name}{told}>{joined(children)}</{name}>")


def joined(children: object) -> Markup:
    """Children of any nesting of lists and tuples."""
    if isinstance(children, (list, tuple)):
        return Markup("".join(joined(child) for child in children))
    return escaped(children)


def _attribute(key: str) -> str:
    return {"viewBox": key}.get(key, key.rstrip("_").replace("_", "-"))
