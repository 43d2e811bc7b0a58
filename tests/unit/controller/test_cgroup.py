"""The limits of a container as the kernel has them."""

from pathlib import Path

import pytest

from controller.cgroup import Limits, parse_membership, read_limits

V1_DOCKER = """\
12:pids:/docker/8f0e
11:memory:/docker/8f0e
7:cpu,cpuacct:/docker/8f0e
1:name=systemd:/docker/8f0e
0::/system.slice/containerd.service
"""
V2_DOCKER = "0::/system.slice/docker-8f0e.scope\n"


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        pytest.param(V2_DOCKER, {"": "/system.slice/docker-8f0e.scope"}, id="version 2 under systemd"),
        pytest.param("0::/docker/8f0e\n", {"": "/docker/8f0e"}, id="version 2 under cgroupfs"),
        pytest.param("0::/\n", {"": "/"}, id="version 2 inside a namespace of its own"),
        pytest.param("0::/a:b/c\n", {"": "/a:b/c"}, id="a path with a colon"),
        pytest.param(
            V1_DOCKER,
            {
                "pids": "/docker/8f0e",
                "memory": "/docker/8f0e",
                "cpu": "/docker/8f0e",
                "cpuacct": "/docker/8f0e",
                "name=systemd": "/docker/8f0e",
            },
            id="version 1 beside an unused version 2 tree",
        ),
        pytest.param(
            "9:name=systemd:/\n4:memory:/process_api/5b\n2:cpuacct:/\n1:cpu:/\n0::/\n",
            {"name=systemd": "/", "memory": "/process_api/5b", "cpuacct": "/", "cpu": "/"},
            id="version 1 with different groups for CPU and memory",
        ),
    ],
)
def test_the_groups_of_a_process_are_read(text: str, groups: dict[str, str]) -> None:
    assert parse_membership(text) == groups


def limits_of(
    folder: Path, membership: str, files: dict[str, str], links: tuple[tuple[str, str], ...] = ()
) -> Limits | None:
    """What is read of process 42 on a machine with these control group files."""
    for name, text in {"proc/42/cgroup": membership, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for link, target in links:
        (folder / link).symlink_to(target)
    return read_limits(42, root=folder / "cgroup", proc=folder / "proc")


def v1_files(quota: str, memory: str, pids: str = "128") -> dict[str, str]:
    return {
        "cgroup/cpu,cpuacct/docker/8f0e/cpu.cfs_quota_us": f"{quota}\n",
        "cgroup/cpu,cpuacct/docker/8f0e/cpu.cfs_period_us": "100000\n",
        "cgroup/memory/docker/8f0e/memory.limit_in_bytes": f"{memory}\n",
        "cgroup/pids/docker/8f0e/pids.max": f"{pids}\n",
        "cgroup/memory/docker/8f0e/memory.stat": "cache 900\nrss 5\ntotal_cache 900\ntotal_rss 4096\n",
        # The root's limits are nobody's.
        "cgroup/cpu,cpuacct/cpu.cfs_quota_us": "777\n",
        "cgroup/memory/memory.limit_in_bytes": "777\n",
    }


def v2_files(cpu: str, memory: str, pids: str = "128") -> dict[str, str]:
    group = "cgroup/system.slice/docker-8f0e.scope"
    return {
        f"{group}/cpu.max": f"{cpu}\n",
        f"{group}/memory.max": f"{memory}\n",
        f"{group}/pids.max": f"{pids}\n",
        f"{group}/memory.stat": "anon 4096\nfile 900\nanon_thp 0\n",
        "cgroup/cpu.max": "777 777\n",
    }


@pytest.mark.parametrize(
    ("quota", "memory", "limits"),
    [
        pytest.param("150000", "2147483648", Limits(1500, 2 << 30, 4096, 128), id="limits"),
        pytest.param("1000", "6291456", Limits(10, 6 << 20, 4096, 128), id="the smallest that the engine takes"),
        pytest.param("-1", "9223372036854771712", Limits(None, None, 4096, 128), id="no limits"),
        pytest.param("", "", Limits(None, None, 4096, 128), id="empty files"),
    ],
)
def test_version_1_is_read_at_the_groups_of_the_process(
    tmp_path: Path, quota: str, memory: str, limits: Limits
) -> None:
    links = (("cgroup/cpu", "cpu,cpuacct"),)
    assert limits_of(tmp_path, V1_DOCKER, v1_files(quota, memory), links) == limits


@pytest.mark.parametrize(
    ("cpu", "memory", "limits"),
    [
        pytest.param("150000 100000", "2147483648", Limits(1500, 2 << 30, 4096, 128), id="limits"),
        pytest.param("25000 50000", "65536", Limits(500, 65536, 4096, 128), id="another period"),
        pytest.param("max 100000", "max", Limits(None, None, 4096, 128), id="no limits"),
        pytest.param("", "", Limits(None, None, 4096, 128), id="empty files"),
    ],
)
def test_version_2_is_read_at_the_group_of_the_process(tmp_path: Path, cpu: str, memory: str, limits: Limits) -> None:
    assert limits_of(tmp_path, V2_DOCKER, v2_files(cpu, memory)) == limits


def test_a_group_may_have_as_many_processes_as_it_likes(tmp_path: Path) -> None:
    assert limits_of(tmp_path, V2_DOCKER, v2_files("150000 100000", "65536", "max")) == Limits(1500, 65536, 4096, None)


@pytest.mark.parametrize("membership", [V1_DOCKER, V2_DOCKER], ids=["version 1", "version 2"])
def test_groups_that_are_gone_have_no_known_limits(tmp_path: Path, membership: str) -> None:
    assert limits_of(tmp_path, membership, {}) == Limits(None, None, None)


def test_a_process_that_is_gone_has_no_limits_at_all(tmp_path: Path) -> None:
    assert read_limits(42, root=tmp_path, proc=tmp_path) is None
