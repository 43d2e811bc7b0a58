"""The limits of a container as the kernel has them: Docker's inspect only repeats what was asked for.

Control groups version 1 and 2. Sources: kernel documentation, admin-guide/cgroup-v1 and admin-guide/cgroup-v2.
"""

from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_V1_UNLIMITED = 1 << 62
"""version 1 shows no limit as the largest number of whole pages"""


@dataclass(frozen=True)
class Limits:
    """None: unlimited, or not known."""

    cpu_millis: int | None
    memory_bytes: int | None
    memory_used_bytes: int | None
    """what cannot be reclaimed: without page cache"""
    pids: int | None = None
    """most processes and threads"""


def read_limits(pid: int, root: Path = _ROOT, proc: Path = Path("/proc")) -> Limits | None:
    """The limits of the control groups that a process is in; None when it is gone."""
    try:
        groups = parse_membership((proc / str(pid) / "cgroup").read_text())
    except OSError:
        return None
    if "" in groups:
        return _read_v2(root / groups[""].lstrip("/"))
    cpu = root / "cpu" / groups.get("cpu", "/").lstrip("/")
    memory = root / "memory" / groups.get("memory", "/").lstrip("/")
    pids = root / "pids" / groups.get("pids", "/").lstrip("/")
    quota, period = _number(cpu / "cpu.cfs_quota_us"), _number(cpu / "cpu.cfs_period_us")
    limit = _number(memory / "memory.limit_in_bytes")
    return Limits(
        cpu_millis=quota * 1000 // period if quota is not None and period and quota > 0 else None,
        memory_bytes=limit if limit is not None and limit < _V1_UNLIMITED else None,
        memory_used_bytes=_statistic(memory / "memory.stat", "total_rss"),
        pids=_number(pids / "pids.max"),
    )


def parse_membership(text: str) -> dict[str, str]:
    """`/proc/PID/cgroup` as controller → path; version 2 has one line, for the controller named ''."""
    groups: dict[str, str] = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        groups |= dict.fromkeys(controllers.split(","), path)
    # A version 1 machine also has the empty controller, for its unused version 2 tree.
    return {"": groups[""]} if set(groups) == {""} else {k: v for k, v in groups.items() if k}


def _read_v2(group: Path) -> Limits:
    quota, _, period = _text(group / "cpu.max").partition(" ")
    return Limits(
        cpu_millis=int(quota) * 1000 // int(period) if quota.isdigit() and period.isdigit() else None,
        memory_bytes=_number(group / "memory.max"),
        memory_used_bytes=_statistic(group / "memory.stat", "anon"),
        pids=_number(group / "pids.max"),
    )


def _statistic(path: Path, name: str) -> int | None:
    for line in _text(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return None


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
