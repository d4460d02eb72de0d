"""YAML text as events, by PyYAML: for a policy of usual size, by the four of its modules that this takes. The only
place that loads yaml, and through `importing`: an edit may be read, and its errors told, while the application forks.

`import yaml` is most of a start-up: it loads the emitter, the constructors and `re`, and compiles a dozen patterns.
The scanner and the parser need none of that, only a reader; ours is below. They are loaded under a name of our own, so
`yaml` is not in `sys.modules` until the application imports it.
"""

from __future__ import annotations

import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import PathFinder

from autoprof import importing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SHORT = 8192
"""Characters that the modules read in Python sooner than `import yaml` is done."""

PARTS = "autoprof._yaml"
_BREAKS = "\n\x85\u2028\u2029"


class Yaml:
    """One way to parse.

    Attributes:
        loader: text → parser with `check_event`, `get_event`, `dispose`.
        events: the module that has the classes of the events.
        error: what the parser raises; it has `problem` and `problem_mark`.
    """

    def __init__(self, loader: Callable[[str], Any], events: Any, error: type[Exception]) -> None:
        self.loader = loader
        self.events = events
        self.error = error


_parts: Yaml | None = None
_broken = False


def parts() -> Yaml | None:
    """Return the parser made of a few modules of PyYAML; None where it can't be made of the PyYAML that is here."""
    global _parts, _broken
    if _parts is None and not _broken:
        try:
            _parts = _load_parts()
        except Exception:
            _broken = True
    return _parts


def suits_parts(text: str) -> bool:
    """Tell whether `parts` reads a text as `whole` does, and sooner: it takes escapes that libyaml refuses."""
    return len(text) <= SHORT and "\\" not in text and "\ufeff" not in text


def whole() -> Yaml:
    """Return PyYAML's own parser: libyaml's, 40 times faster, where it is there. Loads all of yaml."""
    yaml = importing.load("yaml")
    return Yaml(getattr(yaml, "CSafeLoader", yaml.SafeLoader), yaml.events, yaml.MarkedYAMLError)


def is_fast() -> bool:
    """Tell whether `whole` is libyaml's."""
    return hasattr(importing.load("yaml"), "CSafeLoader")


def unprintable(text: str) -> int | None:
    """Return where the first character is that YAML forbids (YAML 1.1, 5.1), None if there is none."""
    odd = [each for each in set(text) if not _printable(each)]
    return min(map(text.index, odd)) if odd else None


def _printable(character: str) -> bool:
    if " " <= character <= "~" or character in "\t\n\r\x85":
        return True
    return character >= "\xa0" and not ("\ud800" <= character <= "\udfff" or character in "\ufffe\uffff")


def _load_parts() -> Yaml:
    found = PathFinder.find_spec("yaml")
    if found is None or not found.submodule_search_locations:
        raise ImportError("yaml is no package")
    spec = ModuleSpec(PARTS, None, is_package=True)
    spec.submodule_search_locations = list(found.submodule_search_locations)
    package = type(sys)(PARTS, "Some modules of PyYAML, without its `__init__`.")
    package.__path__ = spec.submodule_search_locations
    package.__spec__ = spec
    sys.modules[PARTS] = package
    error, events, scanner, parser = (
        importing.load(f"{PARTS}.{name}") for name in ("error", "events", "scanner", "parser")
    )

    class Loader(_Reader, scanner.Scanner, parser.Parser):  # type: ignore[misc, name-defined]
        def __init__(self, text: str) -> None:
            _Reader.__init__(self, text, error.Mark)
            scanner.Scanner.__init__(self)
            parser.Parser.__init__(self)

    return Yaml(Loader, events, error.MarkedYAMLError)


class _Reader:
    """What PyYAML's scanner reads from: a text that is whole and printable, with a NUL at its end."""

    def __init__(self, text: str, mark: Callable[..., Any]) -> None:
        self.encoding = None
        self.index = self.line = self.column = 0
        self._text = text + "\0"
        self._mark = mark

    def peek(self, index: int = 0) -> str:
        """Return the character `index` ahead; NUL behind the end."""
        at = self.index + index
        return self._text[at] if at < len(self._text) else "\0"

    def prefix(self, length: int = 1) -> str:
        """Return the next characters."""
        return self._text[self.index : self.index + length]

    def forward(self, length: int = 1) -> None:
        """Go on, counting lines and columns as YAML does: a byte order mark has no width."""
        text = self._text
        for at in range(self.index, min(self.index + length, len(text))):
            character = text[at]
            if character in _BREAKS or (character == "\r" and text[at + 1] != "\n"):
                self.line += 1
                self.column = 0
            elif character != "\ufeff":
                self.column += 1
        self.index += length

    def get_mark(self) -> Any:
        """Return the place reached."""
        return self._mark("policy", self.index, self.line, self.column, None, None)
