"""What GitHub's own Linux runners cost. Pure; dated, because prices change.

Source: GitHub docs, "Actions runner pricing", in force since 2026-01-01. USD a minute, x64; every job is rounded up to
whole minutes. Standard runners are free for public repositories.
"""

import math

AS_OF = "2026-01-01"
_USD_A_MINUTE = {1: 0.002, 2: 0.006, 4: 0.012, 8: 0.022, 16: 0.042, 32: 0.082, 64: 0.162, 96: 0.252}
"""by vCPUs"""


def hosted_cost_usd(cpu_millis: int, seconds: float) -> float:
    """What a job would cost on the smallest of GitHub's runners that has its CPUs."""
    vcpus = next((size for size in _USD_A_MINUTE if size * 1000 >= cpu_millis), max(_USD_A_MINUTE))
    return _USD_A_MINUTE[vcpus] * max(1, math.ceil(seconds / 60))
