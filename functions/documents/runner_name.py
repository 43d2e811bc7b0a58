"""The names of our runners: they say which pool and which job a runner was made for, so nobody has to look it up.

GitHub takes 64 characters; names are also those of containers.
"""

from dataclasses import dataclass

_PREFIX = "ry"


@dataclass(frozen=True)
class RunnerName:
    """What a name says."""

    pool: str
    job_id: int
    """0: made for no job in particular"""


def make_runner_name(pool: str, job_id: int, unique: str) -> str:
    """`ry-default-7000000002-3f9a2c`; `unique` differs for every attempt."""
    return f"{_PREFIX}-{pool}-{job_id}-{unique}"


def read_runner_name(name: str) -> RunnerName | None:
    """What the name of a runner of ours says; None for anybody else's."""
    prefix, _, rest = name.partition("-")
    words = rest.rsplit("-", 2)
    if prefix != _PREFIX or len(words) != 3 or not words[0] or not (words[1].isascii() and words[1].isdigit()):
        return None
    return RunnerName(words[0], int(words[1]))
