"""`hosts/{hostId}`: a Docker host, as its controller describes it with every heartbeat."""

from datetime import datetime, timedelta

from ..routing.capacity import Size
from .model import Document

COLLECTION = "hosts"
LEASE = timedelta(seconds=30)
"""A host that has not renewed its lease for so long counts as gone. Heartbeats are a third of it apart."""


class Host(Document):
    """What a host offers, and whether it is alive."""

    host_id: str
    pool: str = "default"
    cpu_millis: int
    """what it gives to runners, in all"""
    memory_bytes: int
    free_cpu_millis: int
    free_memory_bytes: int
    runners: int = 0
    public_key: bytes
    """JIT configs are sealed to it"""
    is_draining: bool = False
    """an operator's word: the controller does not write it"""
    trouble: str = ""
    """why it takes little or nothing new, in words"""
    version: str = ""
    docker_version: str = ""
    heartbeat_at: datetime
    lease_until: datetime

    @property
    def size(self) -> Size:
        return Size(self.cpu_millis, self.memory_bytes)

    def is_available(self, now: datetime) -> bool:
        """Alive, and not told to take nothing new."""
        return self.lease_until > now and not self.is_draining
