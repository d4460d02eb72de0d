"""What is measured of ourselves leaves no trace in the application."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import pytest

from autoprof import calibration, costs, guard, session
from autoprof.primitives import get_ident
from autoprof.sampler import recorder
from tests import mechanisms


@pytest.mark.parametrize("mechanism", ["spliced_at_import", "decorated_at_import"])
def test_it_leaves_nothing_to_the_garbage_collector(mechanism: str, tmp_path: Path, no_flushes: None) -> None:
    """Tornado's own tests, and debuggers of leaks, collect with DEBUG_SAVEALL and look at what was found."""
    name = "subject_calibration"
    make: Any = mechanisms.MECHANISMS[mechanism]
    loaded = mechanisms.Loaded(
        make("def f(x): return x\n", name, mechanisms.policy(name, str(tmp_path / "out")))
    )
    try:
        loaded.f(1)
        assert session.current is not None
        costs.prices.forget()  # other tests of this process have had their rounds
        recorder.tick()  # as when a measured call has come
        calibration.calibrate(session.current.installer)  # imports, once
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        rounds = costs.prices.rounds
        calibration.calibrate(session.current.installer)
        assert costs.prices.rounds == rounds + 1
        gc.collect()
        assert [each for each in gc.garbage if type(each).__module__.startswith("autoprof")] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        guard.suppressed.discard(get_ident())  # here it is not a thread of ours that calibrates
        session.stop()
        costs.prices.forget()
        sys.modules.pop(name, None)
