"""Control groups from made-up trees: version 1, version 2, both; nested, incomplete, and full of rubbish."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoprof.cgroups import Cgroups, text_of

MB = 1 << 20


class Tree:
    """A machine in a folder: /proc/self and mounted groups."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.proc = root / "proc" / "self"
        self.proc.mkdir(parents=True)
        self._mounts: list[str] = []

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def mount(self, where: str, kind: str, options: str = "rw", root: str = "/") -> None:
        (self.root / where).mkdir(parents=True, exist_ok=True)
        point = str(self.root / where).replace(" ", "\\040")
        self._mounts.append(f"31 23 0:28 {root} {point} rw,relatime shared:9 - {kind} {kind} {options}")
        text = "\n".join(["23 1 0:20 / /proc rw - proc proc rw", *self._mounts]) + "\n"
        (self.proc / "mountinfo").write_text(text)

    def groups(self, cgroup: str) -> Cgroups:
        (self.proc / "cgroup").write_text(cgroup)
        return Cgroups(str(self.proc))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "a machine")


def v2(tree: Tree, **roots: str) -> None:
    tree.mount("cg", "cgroup2", **roots)


def memory_v2(current: int, inactive: int, **limits: str) -> dict[str, str]:
    files = {f"memory.{name}": value for name, value in limits.items()}
    return {"memory.current": f"{current}\n", "memory.stat": f"anon 1\ninactive_file {inactive}\n", **files}


def put(tree: Tree, folder: str, files: dict[str, str]) -> None:
    tree.write({f"{folder}/{name}": text for name, text in files.items()})


def test_a_container_of_version_2(tree: Tree) -> None:
    v2(tree)
    stat = "usage_usec 7000\nnr_periods 10\nnr_throttled 4\n"
    put(tree, "cg", {"cpu.max": "150000 100000\n", "cpu.stat": stat, "cpu.pressure": "some total=1\n"})
    put(tree, "cg", memory_v2(700 * MB, 100 * MB, max=f"{1024 * MB}\n", high="max\n"))
    groups = tree.groups("0::/\n")
    (cpu,) = groups.cpu_levels()
    assert (cpu.cores, cpu.usage_ns(), cpu.throttling()) == (1.5, 7_000_000, (10, 4))
    (memory,) = groups.memory_levels()
    assert (memory.limit_bytes, memory.used_bytes()) == (1024 * MB, 600 * MB)
    assert groups.cpu_pressure_file() is None  # the root's is the machine's


def test_every_ancestor_of_version_2_counts(tree: Tree) -> None:
    v2(tree)
    put(tree, "cg/pods", {"cpu.max": "400000 100000\n", "cpu.stat": "usage_usec 3\n"})
    put(
        tree,
        "cg/pods/one",
        {"cpu.max": "max 100000\n", "cpu.stat": "usage_usec 2\n", "cpu.pressure": "some total=1\n"},
    )
    put(tree, "cg/pods/one/app", {"cpu.max": "50000 100000\n", "cpu.stat": "usage_usec 1\n"})
    put(tree, "cg/pods", memory_v2(9 * MB, 0, max=f"{10 * MB}", high="max"))
    put(tree, "cg/pods/one", memory_v2(5 * MB, 2 * MB, max="max", high=f"{20 * MB}"))
    put(tree, "cg/pods/one/app", memory_v2(MB, 0, max="max", high="max"))
    groups = tree.groups("0::/pods/one/app\n")
    assert [(each.cores, each.usage_ns()) for each in groups.cpu_levels()] == [(0.5, 1000), (4.0, 3000)]
    levels = [(each.limit_bytes, each.used_bytes()) for each in groups.memory_levels()]
    assert levels == [(20 * MB, 3 * MB), (10 * MB, 9 * MB)]
    assert groups.cpu_pressure_file() is None
    assert tree.groups("0::/pods/one\n").cpu_pressure_file() == str(tree.root / "cg/pods/one/cpu.pressure")


def test_memory_high_comes_before_memory_max(tree: Tree) -> None:
    v2(tree)
    put(tree, "cg", memory_v2(5, 0, max="100", high="50"))
    assert [each.limit_bytes for each in tree.groups("0::/\n").memory_levels()] == [50]


def v1(tree: Tree, cpu: str = "cpu,cpuacct") -> None:
    tree.mount("cg/cpu", "cgroup", f"rw,{cpu}")
    if "cpuacct" not in cpu:
        tree.mount("cg/cpuacct", "cgroup", "rw,cpuacct")
    tree.mount("cg/memory", "cgroup", "rw,memory")


@pytest.mark.parametrize("together", [True, False])
def test_version_1(tree: Tree, together: bool) -> None:
    v1(tree, "cpu,cpuacct" if together else "cpu")
    usage = "cg/cpu" if together else "cg/cpuacct"
    quota = {"cpu.cfs_period_us": "100000\n", "cpu.stat": "nr_periods 5\nnr_throttled 2\n"}
    put(tree, "cg/cpu/docker/x", {**quota, "cpu.cfs_quota_us": "250000\n"})
    put(tree, "cg/cpu/docker", {**quota, "cpu.cfs_quota_us": "-1\n"})
    put(tree, "cg/cpu", {"cpu.stat": ""})
    put(tree, f"{usage}/docker/x", {"cpuacct.usage": "99\n"})
    put(tree, "cg/memory/docker/x", {
        "memory.limit_in_bytes": "9223372036854771712\n", "memory.usage_in_bytes": f"{50 * MB}\n",
        "memory.stat": f"inactive_file 1\ntotal_inactive_file {20 * MB}\nhierarchical_memory_limit {64 * MB}\n",
    })  # fmt: skip
    groups = tree.groups("3:memory:/docker/x\n2:cpuacct:/docker/x\n1:cpu,cpuacct:/docker/x\n0::/\n")
    (cpu,) = groups.cpu_levels()
    assert (cpu.cores, cpu.usage_ns(), cpu.throttling()) == (2.5, 99, (5, 2))
    (memory,) = groups.memory_levels()
    assert (memory.limit_bytes, memory.used_bytes()) == (64 * MB, 30 * MB)


def test_each_controller_of_a_hybrid_machine_by_itself(tree: Tree) -> None:
    tree.mount("cg/memory", "cgroup", "rw,memory")
    tree.mount("cg/unified", "cgroup2")
    put(tree, "cg/unified/app", {"cpu.max": "10000 100000", "cpu.stat": "usage_usec 6\n"})
    put(tree, "cg/memory/app", {
        "memory.limit_in_bytes": f"{8 * MB}", "memory.usage_in_bytes": f"{MB}", "memory.stat": "",
    })  # fmt: skip
    groups = tree.groups("4:memory:/app\n0::/app\n")
    assert [(each.cores, each.usage_ns()) for each in groups.cpu_levels()] == [(0.1, 6000)]
    assert [(each.limit_bytes, each.used_bytes()) for each in groups.memory_levels()] == [(8 * MB, MB)]


def test_the_use_of_a_version_1_quota_may_be_told_by_version_2(tree: Tree) -> None:
    tree.mount("cg/cpu", "cgroup", "rw,cpu")
    tree.mount("cg/unified", "cgroup2")
    put(tree, "cg/cpu/app", {"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000"})
    put(tree, "cg/unified/app", {"cpu.stat": "usage_usec 5\n"})
    assert [each.usage_ns() for each in tree.groups("1:cpu:/app\n0::/app\n").cpu_levels()] == [5000]


@pytest.mark.parametrize(
    "root, path",
    [
        ("/docker/x", "/docker/x"),
        ("/", "/docker/gone"),
        ("/other", "/docker/x"),
        ("/", "/../sibling"),
        ("/", "/"),
    ],
)
def test_inside_a_container_the_mount_point_is_the_own_group(tree: Tree, root: str, path: str) -> None:
    v2(tree, root=root)
    put(tree, "cg", {"cpu.max": "20000 100000", "cpu.stat": "usage_usec 5\n"})
    assert [each.cores for each in tree.groups(f"0::{path}\n").cpu_levels()] == [0.2]


def test_a_group_below_what_is_mounted(tree: Tree) -> None:
    v2(tree, root="/docker/x")
    put(tree, "cg/inner", {"cpu.max": "20000 100000", "cpu.stat": "usage_usec 5\n"})
    assert [each.cores for each in tree.groups("0::/docker/x/inner\n").cpu_levels()] == [0.2]


RUBBISH = [
    "",
    "\n",
    "max",
    "max max",
    "0 100000",
    "-1",
    "5 0",
    "\0",
    "1e9 1e9",
    "٣ ٤",
    "9" * 5000,
    "a b c",
    "50000 -100000",
]


@pytest.mark.parametrize("text", RUBBISH)
def test_rubbish_is_no_limit(tree: Tree, text: str) -> None:
    v2(tree)
    put(
        tree, "cg", {"cpu.max": text, "cpu.stat": "usage_usec 5\n", "memory.max": text, "memory.current": "5"}
    )
    groups = tree.groups("0::/\n")
    assert [each.cores for each in groups.cpu_levels()] == []
    assert [each.limit_bytes for each in groups.memory_levels()] == []


def test_a_limit_without_its_use_is_none(tree: Tree) -> None:
    v2(tree)
    put(tree, "cg", {"cpu.max": "20000 100000", "memory.max": "5000"})
    groups = tree.groups("0::/\n")
    assert (groups.cpu_levels(), groups.memory_levels()) == ([], [])


def test_without_anything(tmp_path: Path) -> None:
    groups = Cgroups(str(tmp_path / "nowhere"))
    assert (groups.cpu_levels(), groups.memory_levels(), groups.cpu_pressure_file()) == ([], [], None)
    assert text_of(str(tmp_path)) is None and text_of("\0") is None


def test_a_group_that_goes_away(tree: Tree) -> None:
    v2(tree)
    put(tree, "cg", {"cpu.max": "20000 100000", "cpu.stat": "usage_usec 5\n", **memory_v2(5, 0, max="10")})
    groups = tree.groups("0::/\n")
    (cpu,), (memory,) = groups.cpu_levels(), groups.memory_levels()
    for name in ("cpu.stat", "memory.current"):
        (tree.root / "cg" / name).unlink()
    assert (cpu.usage_ns(), cpu.throttling(), memory.used_bytes()) == (None, (0, 0), None)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cgroup=st.binary(max_size=200), mountinfo=st.binary(max_size=400), file=st.binary(max_size=80))
def test_nothing_in_these_files_raises(tmp_path: Path, cgroup: bytes, mountinfo: bytes, file: bytes) -> None:
    proc, mount = tmp_path / "proc", tmp_path / "cg"
    proc.mkdir(exist_ok=True)
    mount.mkdir(exist_ok=True)
    (proc / "cgroup").write_bytes(b"0::/\n1:cpu,cpuacct:/\n" + cgroup)
    line = (
        f"31 23 0:28 / {mount} rw - cgroup2 none rw\n32 23 0:28 / {mount} rw - cgroup none rw,cpu,cpuacct\n"
    )
    (proc / "mountinfo").write_bytes(line.encode() + mountinfo)
    for name in (
        "cpu.max",
        "cpu.stat",
        "cpu.cfs_quota_us",
        "cpu.cfs_period_us",
        "memory.max",
        "memory.current",
        "memory.stat",
    ):
        (mount / name).write_bytes(file)
    groups = Cgroups(str(proc))
    for cpu in groups.cpu_levels():
        assert cpu.cores > 0
        cpu.throttling()
    for memory in groups.memory_levels():
        assert memory.limit_bytes > 0 and (memory.used_bytes() or 0) >= 0


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(quotas=st.lists(st.one_of(st.none(), st.integers(1, 10**7)), min_size=1, max_size=6))
def test_the_least_of_all_ancestors_is_found(tmp_path: Path, quotas: list[int | None]) -> None:
    made = Tree(tmp_path / f"t{abs(hash(tuple(quotas)))}-{len(list(tmp_path.iterdir()))}")
    v2(made)
    folder, path = "cg", ""
    for index, quota in enumerate(quotas):
        put(made, folder, {"cpu.max": f"{quota or 'max'} 100000\n", "cpu.stat": "usage_usec 1\n"})
        if index < len(quotas) - 1:
            folder, path = f"{folder}/g{index}", f"{path}/g{index}"
    found = [each.cores for each in made.groups(f"0::{path or '/'}\n").cpu_levels()]
    assert found == [quota / 100000 for quota in reversed(quotas) if quota]
