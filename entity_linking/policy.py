"""Which aliases are too common to be names, and which spellings of the text may stand for an alias.

A graph like WordNet calls half of all English words by name, "a", "in", "it" and "who" among them; linking those would
be garbage. Everything decided here is counted by reason in the stage's manifest.
"""

from __future__ import annotations

_WORDS = """
hundred thousand million billion trillion dozen
a about above across after again against ago ah all almost along already also although always am amid among an and
another any anybody anyone anything are aren't around as at away back be became because become becomes been before
began behind being below beneath beside besides best better between beyond both but by came can can't cannot come
comes could couldn't did didn't do does doesn't doing don't done down due during each eight eighth either else en
enough et etc even ever every everyone everything except far few fewer fifth first five for former found four
fourth from further gave get gets getting give given gives go goes going gone got had hadn't has hasn't have having
he held hence her here hers herself him himself his how however i i'd i'll i'm i've if in inside instead into is
isn't it its itself just keep kept knew know known knows la last late latter least left less let like likely long
low made make makes making many may me might mine more moreover most much must my myself near nearly need neither
never nevertheless new next nine ninth no nobody none nor not nothing now nowhere of off often oh ok old on once
one ones only onto or other others otherwise ought our ours ourselves out over own per perhaps put quite rather
re round said same saw say saying says second see seem seen seven seventh several shall she should since six sixth
so some somebody somehow someone something sometimes soon still such take taken takes taking tell ten tenth than
that the thee their theirs them themselves then there thereby therefore these they third this those thou though
three through throughout thus till to together told too took toward towards twice two under unless unlike until up
upon us use used using very via vs was wasn't we well went were weren't what whatever when whenever where
whereas wherever whether which while who whoever whole whom whose why will with within without won't would wouldn't
yes yet you your yours yourself ye de di du der den des el le les von van und il al
"""
_ADJECTIVES = """
academic active average basic big blind bold brief bright broad central chief clear close cold commercial common
complex constant contemporary current daily dark deep direct dominant double dry early empty equal essential extreme
fair fast favorite final fine firm flat free fresh full general global good grand great hard heavy high holy hot ideal
imperial initial intermediate internal large little local lower main major maximum mean medium mild minimum minor
mobile modern multiple narrow natural neutral normal official open original particular perfect periodic permanent
plain polar poor popular positive possible potential practical present primary principal prime private pure quick
quiet rapid rare raw ready real regular related rich right rough sacred scientific secret separate severe sharp short
significant simple single slow small smart smooth social soft solid special specific spiritual static steady straight
strange strong subsequent sweet tall thick thin tight total tough traditional true upper various vast vital warm weak
wet white wide wild wise wrong young
"""
FUNCTION_WORDS = frozenset(_WORDS.split())
"""Words of English grammar, and particles of foreign names: no names unless capitals say so."""
ADJECTIVES = frozenset(_ADJECTIVES.split())
"""Common adjectives that dictionaries list as nouns too ("major", an officer): no names unless capitals say so."""

ACRONYM_LENGTH = 4
"""Up to this length an alias in capitals ("US", "WHO") asks for capitals throughout."""

NOT_MEN = ("caiman", "German", "human", "Norman", "Ottoman", "Roman", "shaman", "talisman")
"""End in -man and add an s."""

PLURAL_OF = {
    "axis": "axes",
    "child": "children",
    "foot": "feet",
    "goose": "geese",
    "half": "halves",
    "knife": "knives",
    "leaf": "leaves",
    "life": "lives",
    "loaf": "loaves",
    "mouse": "mice",
    "ox": "oxen",
    "shelf": "shelves",
    "thief": "thieves",
    "tooth": "teeth",
    "wife": "wives",
    "wolf": "wolves",
}


def plural(alias: str) -> str | None:
    """The English plural of an alias's last word, None where adding one would make nonsense.

    >>> [plural(word) for word in ("city", "church", "policeman", "atomic bomb", "French", "US", "X-1")]
    ['cities', 'churches', 'policemen', 'atomic bombs', None, None, None]
    """
    start = max(alias.rfind(" "), alias.rfind("-"), alias.rfind("_")) + 1
    word = alias[start:]
    if len(word) < 3 or not word.isalpha() or not word[1:].islower() or (start and word[0].isupper()):
        return None
    return alias[:start] + _plural_word(word) if _has_plural(word) else None


def numerals() -> list[str]:
    """Spellings of numbers that digits alone do not show: Roman 2 to 39, ordinals and decades.

    >>> {"xiv", "21st", "1990s"} <= set(numerals())
    True
    """
    units = ["", "i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix"]
    roman = [tens + unit for tens in ("", "x", "xx", "xxx") for unit in units]
    ordinals = [f"{number}{suffix}" for number in range(400) for suffix in ("st", "nd", "rd", "th")]
    decades = [f"{number}s" for number in (*range(10, 100), *range(1000, 2100, 10))]
    return [spelling for spelling in roman if len(spelling) > 1] + ordinals + decades


def _has_plural(word: str) -> bool:
    return not word.endswith(("ese", "ness", "ism", "ics", "ss's")) and not (
        word[0].isupper() and word.endswith(("sh", "ch", "s"))
    )


def _plural_word(word: str) -> str:
    if word in PLURAL_OF:
        return PLURAL_OF[word]
    if word.endswith("man") and word not in (NOT_MEN):
        return word[:-2] + "en"
    if word.endswith("sis"):
        return word[:-2] + "es"
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"
