"""Wikitext to plain text, with its hyperlinks at exact offsets.

While the markup is taken away the text moves, so a link is carried along inside it: `OPEN number STOP anchor CLOSE`,
control characters that XML cannot hold. The last step takes the marks out and notes where they stood; nothing after
it touches the text, so that `text[start:end]` is the anchor.

Left out: templates (but those of `SHOWN_ARGUMENT`, of which one argument is shown), tables, references, formulas,
galleries, files and images with their captions, categories, links to other languages, comments. Kept as plain text:
headings, list items, captions of external links, links to other namespaces and wikis, what stands in <nowiki>.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from entity_linking.records import Link

OPEN, STOP, CLOSE, KEPT, END = "\x01", "\x03", "\x02", "\x04", "\x05"
CONTROL = dict.fromkeys((*range(9), *range(11, 32)))

SHOWN_ARGUMENT: Mapping[str, int] = {
    "abbr": 0,
    "big": 0,
    "em": 0,
    "lang": 1,
    "nobr": 0,
    "nobreak": 0,
    "nowrap": 0,
    "small": 0,
    "smaller": 0,
    "strong": 0,
    "transl": -1,
    "transliteration": -1,
}
"""Templates that stand in running text, and which of their unnamed arguments a reader sees."""
LONGEST_SHOWN = 500
LONGEST_ANCHOR = 2000
DEEPEST_LINK = 8

_REMOVED = """
ref references math chem ce gallery timeline syntaxhighlight source score imagemap hiero graph templatedata
templatestyles mapframe maplink indicator includeonly section inputbox categorytree script style table
"""
REMOVED_TAGS = frozenset(_REMOVED.split())
"""Tags that go with what they hold."""
LITERAL_TAGS = frozenset(("nowiki", "pre"))
"""Tags whose content is text as it stands, brackets and all."""
_BREAKING = "br p div li ul ol dl dt dd blockquote center hr h1 h2 h3 h4 h5 h6 poem"
BREAKING_TAGS = frozenset(_BREAKING.split())
_BARE = """
abbr b bdi bdo big cite code data del dfn em font i ins kbd mark noinclude onlyinclude q rb rp rt rtc ruby s samp small
span strike strong sub sup time tt u var wbr
"""
BARE_TAGS = BREAKING_TAGS | frozenset(_BARE.split())
"""Tags that go and leave what they hold."""

FILES = frozenset(("file", "image", "media"))
CATEGORIES = frozenset(("category",))
_NAMESPACES = "talk user wikipedia project mediawiki template help portal draft module special timedtext topic wp"
NAMESPACES = frozenset(_NAMESPACES.split())
_OTHERS = """
wikt wiktionary s wikisource commons c q wikiquote b wikibooks n wikinews v wikiversity species voy wikivoyage d
wikidata m meta mw w wikipedia
"""
OTHER_WIKIS = frozenset(_OTHERS.split())
LANGUAGE = re.compile(r"(?:[a-z]{2,3}|simple)(?:-[a-z]+)*")

_COMMENT_OR_TAG = re.compile(r"<!--|<(/?)([A-Za-z][A-Za-z0-9]*)\b([^<>]*)>")
_PARAMETER = re.compile(r"\{\{\{[^{}\n]{0,500}\}\}\}")
_QUOTES = re.compile(r"'{2,}")
_BRACKETS = re.compile(r"\{\{|\}\}|\[\[|\]\]")
_EXTERNAL = re.compile(r"\[(?:https?:|ftps?:|mailto:|news:|irc:)?//[^\s\[\]<>]*+[ \t]*+([^\[\]\n]*+)\]")
_HEADING = re.compile(r"^(={1,6})(.*)=[ \t]*$", re.MULTILINE)
_LINE_START = re.compile(r"^(?:-{4,}|[*#:;]+[ \t]*)", re.MULTILINE)
_MAGIC_WORD = re.compile(r"__[A-Z]{3,}__")
_SPACES = re.compile(r"[ \t\xa0]+")
_EMPTY_BRACKETS = re.compile(r"\([ ,;]*\)")
_HOLE_IN_BRACKETS = re.compile(r"\([ ]?[,;][ ,;]*")
_SPACE_BEFORE_STOP = re.compile(r" +(?=[,.;)](?:\s|$))")
_SPACES_AT_LINE_END = re.compile(r" *\n *")
_BLANK_LINES = re.compile(r"\n{3,}")
_MARK = re.compile(f"{OPEN}([0-9]+){STOP}|{CLOSE}|{KEPT}([0-9]+){END}")


@dataclass(frozen=True, slots=True)
class Site:
    """What a dump says of its wiki: names of namespaces in its language, lower case; whether titles begin upper."""

    files: frozenset[str] = FILES
    categories: frozenset[str] = CATEGORIES
    others: frozenset[str] = NAMESPACES
    first_letter: bool = True


ENGLISH = Site()


def plain_text(wikitext: str, site: Site = ENGLISH) -> tuple[str, tuple[Link, ...]]:
    """Text and its links to pages of the wiki's main namespace, in order of their start, none overlapping.

    A link's `entity` is the title it names (underscores as blanks, without `#section`, the first letter upper where
    the site says so), not resolved through redirects; its span has no white space at its ends and is never empty.
    Markup that is not closed loses its brackets and keeps its text. Time is linear in the text.
    """
    page = _Page(site)
    text = wikitext.translate(CONTROL).replace("&nbsp;", " ").replace("&#160;", " ")
    text = page.without_tags(text)
    text = _PARAMETER.sub("", text)
    text = _QUOTES.sub(_apostrophes, text)
    text = page.without_brackets(text)
    text = _without_tables(text)
    text = _EXTERNAL.sub(r"\1", text)
    text = _HEADING.sub(_heading, text)
    text = _MAGIC_WORD.sub("", _LINE_START.sub("", text))
    text = html.unescape(text)
    text = _tidied(text)
    return page.placed(text)


@dataclass(slots=True)
class _Frame:
    """An open bracket and the pieces behind it."""

    opening: str
    pieces: list[str] = field(default_factory=list)
    size: int = 0

    def add(self, piece: str) -> None:
        self.pieces.append(piece)
        self.size += len(piece)


class _Page:
    """One page on its way to plain text: what its marks stand for."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.targets: list[str] = []
        self.literals: list[str] = []

    def without_tags(self, text: str) -> str:
        """Comments and tags away; what is literal is put aside."""
        out: list[str] = []
        unclosed: set[str] = set()
        position = 0
        while found := _COMMENT_OR_TAG.search(text, position):
            out.append(text[position : found.start()])
            position = found.end()
            if found[0] == "<!--":
                end = text.find("-->", position)
                position = len(text) if end < 0 else end + 3
                continue
            name, closing = found[2].lower(), bool(found[1])
            has_content = not closing and not found[3].rstrip().endswith("/")
            if name in REMOVED_TAGS or name in LITERAL_TAGS:
                end = self._closing(text, name, position) if has_content and name not in unclosed else None
                if end is not None:
                    if name in LITERAL_TAGS:
                        out.append(self._literal(text[position : end.start()]))
                    position = end.end()
                elif has_content:
                    unclosed.add(name)
            elif name in BREAKING_TAGS:
                out.append("\n")
            elif name not in BARE_TAGS:
                out.append(found[0])
        out.append(text[position:])
        return "".join(out)

    @staticmethod
    def _closing(text: str, name: str, position: int) -> re.Match[str] | None:
        return re.compile(rf"</{name}\s*>", re.IGNORECASE).search(text, position)

    def _literal(self, content: str) -> str:
        if not content.strip():
            return content
        self.literals.append(html.unescape(content))
        return f"{KEPT}{len(self.literals) - 1}{END}"

    def without_brackets(self, text: str) -> str:
        """Templates away, links as marks round their anchors, from the inside out."""
        frames = [_Frame("")]
        links_open = 0
        position = 0
        for found in _BRACKETS.finditer(text):
            if found.start() < position:
                continue
            frames[-1].add(text[position : found.start()])
            position, token = found.end(), found[0]
            if token == "{{":
                frames.append(_Frame(token))
            elif token == "[[":
                if links_open < DEEPEST_LINK:
                    frames.append(_Frame(token))
                    links_open += 1
            elif token == "}}":
                if any(frame.opening == "{{" for frame in frames[-1 : -links_open - 2 : -1]):
                    while frames[-1].opening == "[[":
                        links_open -= 1
                        _spill(frames)
                    frame = frames.pop()
                    frames[-1].add(_shown(frame))
            elif frames[-1].opening == "[[":
                links_open -= 1
                frame = frames.pop()
                tail = position
                while tail < len(text) and text[tail].islower():
                    tail += 1
                for piece in self._link(frame, text[position:tail]):
                    frames[-1].add(piece)
                position = tail
        frames[-1].add(text[position:])
        return "".join(piece for frame in frames for piece in frame.pieces)

    def _link(self, frame: _Frame, tail: str) -> list[str]:
        """What a `[[…]]` and the letters right behind it leave in the text."""
        head = "".join(frame.pieces[:1])
        target, bar, first = head.partition("|")
        target = " ".join(target.replace("_", " ").split())
        shown = target.removeprefix(":").lstrip()
        prefix = shown.partition(":")[0].rstrip() if ":" in shown else ""
        hidden = prefix.casefold() in self.site.files | self.site.categories or _is_language(prefix, shown)
        if hidden and shown == target:
            return [tail]
        pieces = [first if bar else shown, *frame.pieces[1:]]
        if frame.size > LONGEST_ANCHOR or any(OPEN in piece for piece in frame.pieces):
            return [*pieces, tail]
        anchor = " ".join("".join(pieces).split()) or (_piped(shown) if bar else "")
        title = self._title(shown)
        elsewhere = hidden or prefix.casefold() in self.site.others or prefix in OTHER_WIKIS
        if not anchor or not title or elsewhere:
            return [anchor, tail]
        self.targets.append(title)
        return [f"{OPEN}{len(self.targets) - 1}{STOP}{anchor}{tail}{CLOSE}"]

    def _title(self, target: str) -> str:
        title = html.unescape(target).partition("#")[0].strip()
        if "%" in title:
            title = unquote(title)
        title = " ".join(title.split())
        return title[:1].upper() + title[1:] if self.site.first_letter else title

    def placed(self, text: str) -> tuple[str, tuple[Link, ...]]:
        """The text without marks, and where they stood."""
        pieces: list[str] = []
        links: list[Link] = []
        length = position = start = 0
        target = ""
        for found in _MARK.finditer(text):
            pieces.append(text[position : found.start()])
            length += found.start() - position
            position = found.end()
            if found[1]:
                start, target = length, self.targets[int(found[1])]
            elif found[2]:
                pieces.append(self.literals[int(found[2])])
                length += len(pieces[-1])
            else:
                links.append(Link(start, length, target, 1.0))
        pieces.append(text[position:])
        plain = "".join(pieces)
        return plain, tuple(trimmed for link in links if (trimmed := _trimmed(plain, link)) is not None)


def _spill(frames: list[_Frame]) -> None:
    """A bracket that was never closed: its content belongs to the one around it."""
    frame = frames.pop()
    frames[-1].pieces += frame.pieces
    frames[-1].size += frame.size


def _shown(template: _Frame) -> str:
    if template.size > LONGEST_SHOWN:
        return ""
    name, *arguments = "".join(template.pieces).split("|")
    place = SHOWN_ARGUMENT.get(" ".join(name.replace("_", " ").lower().split()))
    if place is None:
        return ""
    unnamed = [argument for argument in arguments if "=" not in argument]
    return unnamed[place] if -len(unnamed) <= place < len(unnamed) else ""


def _is_language(prefix: str, target: str) -> bool:
    """`de:Oslo` leads to another wiki; `CSI: Miami` is a title."""
    follows = target[len(prefix) + 1 : len(prefix) + 2]
    return bool(LANGUAGE.fullmatch(prefix)) and prefix not in OTHER_WIKIS and not follows.isspace()


def _piped(target: str) -> str:
    """The pipe trick: `[[Mercury (planet)|]]` shows `Mercury`."""
    return re.sub(r"\s*\([^()]*\)$|,.*$", "", target.rpartition(":")[2]).strip()


def _apostrophes(run: re.Match[str]) -> str:
    """Two mark italic, three bold, five both; of four one is an apostrophe, and so is each beyond five."""
    length = len(run[0])
    return "'" * (length - 5 if length > 5 else length == 4)


def _heading(line: re.Match[str]) -> str:
    """The words between as many `=` as stand at both ends."""
    return f"\n{line[2].rstrip('=').strip()}\n" if line[2].strip("= \t") else line[0]


def _without_tables(text: str) -> str:
    """Lines of tables away; of a table that never ends, those that begin as a row or a cell."""
    if "{|" not in text:
        return text
    lines = text.split("\n")
    open_at: list[int] = []
    inside: list[tuple[int, int]] = []
    for number, line in enumerate(lines):
        start = line.lstrip(" \t:")
        if start.startswith("{|"):
            open_at.append(number)
        elif start.startswith("|}") and open_at:
            inside.append((open_at.pop(), number))
            lines[number] = start[2:]
    outermost = len(lines)
    for low, high in reversed(inside):
        if low < outermost:  # the later of two that nest is the outer one
            lines[low:high] = [""] * (high - low)
            outermost = low
    for number in open_at:
        lines[number] = ""
    if open_at:
        low = open_at[0]
        lines[low:] = ["" if line.lstrip().startswith(("|", "!")) else line for line in lines[low:]]
    return "\n".join(lines)


def _tidied(text: str) -> str:
    """Single blanks, none at the ends of lines, at most one empty line; no empty brackets where a template stood."""
    text = _SPACES.sub(" ", text)
    text = _EMPTY_BRACKETS.sub("", text)
    text = _HOLE_IN_BRACKETS.sub("(", text)
    text = _SPACE_BEFORE_STOP.sub("", _SPACES.sub(" ", text))
    return _BLANK_LINES.sub("\n\n", _SPACES_AT_LINE_END.sub("\n", text)).strip()


def _trimmed(text: str, link: Link) -> Link | None:
    surface = text[link.start : link.end]
    start = link.start + len(surface) - len(surface.lstrip())
    end = start + len(surface.strip())
    return Link(start, end, link.entity, link.score) if start < end else None
