"""Who is behind a connection. Each runner has a bridge of its own, so the addresses of both ends name it. Pure."""

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from functions.documents.workflow_job import RunnerEgress


class Attribution(BaseModel):
    """A runner's addresses, and what connections from there are to be called."""

    model_config = ConfigDict(frozen=True)

    gateway: str
    """the host's address on the runner's bridge"""
    address: str
    """the container's address there"""
    runner_name: str
    org: str = ""
    profile: str
    """that the container has now"""
    job_name: str
    job_key: str
    egress: RunnerEgress = RunnerEgress()
    has_job: bool = False
    """False: no job has started, and the job named is the one that the runner was made for"""


class AttributionTable:
    """The runners that may connect. Whoever is not in it is refused."""

    def __init__(self, entries: Iterable[Attribution] = ()):
        self._by_gateway = {entry.gateway: entry for entry in entries}

    def __len__(self) -> int:
        return len(self._by_gateway)

    def find(self, local_address: str, peer_address: str) -> Attribution | None:
        """The runner that connected from `peer_address` to `local_address`.

        Both must fit: a container that reaches one of the host's other addresses, or that has given itself another
        address, is nobody.
        """
        entry = self._by_gateway.get(local_address)
        return entry if entry is not None and entry.address == peer_address else None

    def entries(self) -> list[Attribution]:
        return list(self._by_gateway.values())
