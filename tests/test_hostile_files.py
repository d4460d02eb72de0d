"""Hostile files: fuzzed policies, a policy that others can write, planted symbolic links."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoprof import artefacts, config, store_file
from autoprof.errors import PolicyErrors

ROOT = Path(__file__).resolve().parents[1]
POLICY = 'version: 1\nrules:\n  - {match: "a:*", policy: profile}\n'
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="the refusal is root's only")


def test_fuzzed_policies_end_in_a_policy_or_placed_errors() -> None:
    import autoprof

    package = str(Path(autoprof.__file__).parents[1])
    ended = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "2000", "7"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": package}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr


def written(folder: Path, mode: int, folder_mode: int = 0o755, gid: int = 0) -> str:
    folder /= "policies"
    folder.mkdir()
    path = folder / "p.yaml"
    path.write_text(POLICY)
    os.chown(path, -1, gid)
    path.chmod(mode)
    folder.chmod(folder_mode)
    return str(path)


@as_root
@pytest.mark.parametrize(
    ("mode", "folder_mode", "gid", "said"),
    [
        (0o646, 0o755, 0, "everybody can write the file"),
        (0o664, 0o755, 1000, "group 1000 can write the file"),
        (0o644, 0o777, 0, "everybody can write the folder"),
    ],
)
def test_root_refuses_a_policy_that_others_can_write(
    tmp_path: Path, mode: int, folder_mode: int, gid: int, said: str
) -> None:
    path = written(tmp_path, mode, folder_mode, gid)
    with pytest.raises(PolicyErrors, match=said):
        config.load(path, env={})


@as_root
@pytest.mark.parametrize(
    ("mode", "folder_mode", "gid"), [(0o644, 0o755, 0), (0o664, 0o775, 0), (0o644, 0o1777, 0)]
)
def test_root_obeys_a_policy_that_only_root_can_write(
    tmp_path: Path, mode: int, folder_mode: int, gid: int
) -> None:
    assert config.load(written(tmp_path, mode, folder_mode, gid), env={}).rules


def test_a_link_planted_at_an_artefact_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "output"
    folder.mkdir()
    artefact = folder / "a.svg"
    artefact.symlink_to(victim)
    from _thread import get_ident

    (folder / f"a.svg.{os.getpid()}-{get_ident()}.part").symlink_to(victim)
    artefacts.write_atomically(str(artefact), "flames")
    assert victim.read_text() == "precious"
    assert artefact.read_text() == "flames"
    assert not artefact.is_symlink()
    assert artefact.stat().st_mode & 0o777 == 0o600


def test_a_link_planted_at_the_store_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    store = tmp_path / "autoprof-1.db"
    store.symlink_to(victim)
    with pytest.raises(store_file.DamagedStoreError, match="symbolic link"):
        store_file.open_for_writing(str(store), shared=True, mode=0o600, max_size_bytes=10**8)
    assert victim.read_bytes() == b""
