"""A policy in force that has met nothing it names: of all that profiling needs, only the import hook is loaded.

Most processes that inherit AUTOPROF_CONFIG are no part of the service: pip, a migration, a line in a shell.
"""

from __future__ import annotations

import sys

from autoprof.primitives import get_ident
from autoprof.run import run_and_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, ModuleType
    from typing import Literal

    from autoprof.importhook import Handle
    from autoprof.policy import Policy


def has_met(policy: Policy) -> bool:
    """Tell whether a rule may name a function of what is imported already, `__main__` included."""
    return bool(policy.active_rules) and any(policy.covers(name) for name in list(sys.modules))


class Latent:
    """Stands in as the import hook's rewriter; the first module that a rule names has the session made.

    Attributes:
        handle: of the hook; None where no rule can ever match.
        run, start_folder: what the session is to have, whenever it is made.
    """

    backend: Literal["splice", "decorate"] = "splice"
    """Whoever asks before the session is made has no module that a rule names."""

    handle: Handle | None

    def __init__(self, policy: Policy, wake: Callable[[Latent], None]) -> None:
        self.policy = policy
        self.run, self.start_folder = run_and_folder()
        self.handle = None
        self._wake = wake
        self._waking: set[int] = set()

    def install(self) -> None:
        """Hook imports, if there is a rule."""
        if self.policy.active_rules:
            from autoprof import importhook

            self.handle = importhook.install(self)

    def uninstall(self) -> None:
        """Take the hook out again."""
        handle, self.handle = self.handle, None
        if handle is not None:
            handle.uninstall()

    def covers(self, module: str) -> bool:
        """Tell whether a rule may name a function of this module; if so, a session has the hook afterwards."""
        if not self.policy.covers(module):
            return False
        ident = get_ident()
        if ident in self._waking:
            return False  # an import of ours; the session finds the module when it begins
        self._waking.add(ident)
        try:
            self._wake(self)
        finally:
            self._waking.discard(ident)
        return True

    def rewrite_code(self, code: CodeType, module: str, aliases: tuple[str, ...] = ()) -> CodeType:
        """Leave the code as it is: no session could be made."""
        return code

    def rewrite_source(
        self, source: bytes | str, path: str, module: str, aliases: tuple[str, ...] = ()
    ) -> CodeType | None:
        """Leave the source as it is."""
        return None

    def module_executed(self, module: ModuleType) -> None:
        """Leave the module as it is."""
