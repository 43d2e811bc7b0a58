"""Keeps the egress rules of running runners in step with the policy: an edit reaches them without a restart."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from typing import Protocol

from functions.documents.errors import StoreRefused, StoreUnavailable
from functions.documents.in_force import PolicyInForce
from functions.documents.installation import Installation
from functions.documents.workflow_job import RunnerEgress
from functions.routing.policy import Policy

from .proxy_client import ProxyUnavailable
from .runners import LocalRunner, Runners

_log = logging.getLogger("runyard.controller")
_LOOK_EVERY_S = 15.0


class PolicyStore(Protocol):
    """What is wanted of the store."""

    async def read_installation(self, org: str) -> Installation | None: ...


class EgressWatch:
    """Looks at the policies of the organizations that have runners here."""

    def __init__(
        self,
        store: PolicyStore,
        runners: Runners,
        publish: Callable[[], Awaitable[None]],
        now: Callable[[], datetime],
    ):
        self._store = store
        self._runners = runners
        self._publish = publish
        self._now = now
        self._in_force = PolicyInForce()

    async def watch(self) -> None:
        """Looks again and again."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                if await self.refresh():
                    await self._publish()
            except (StoreUnavailable, StoreRefused, ProxyUnavailable) as error:
                _log.warning("the egress rules stay as they are: %s", error)

    async def refresh(self) -> bool:
        """Gives runners the rules that the policy has for them now; whether any have changed.

        Raises:
            StoreUnavailable, StoreRefused: the policies cannot be read.
        """
        policies: dict[str, Policy] = {}
        for org in {runner.org for runner in self._runners}:
            installation = await self._store.read_installation(org)
            if installation is None:
                continue
            in_force = self._in_force.resolve(org, installation, self._now()).policy
            if in_force is not None:
                policies[org] = in_force.policy
        changes = find_changes(self._runners, policies)
        for name, egress in changes.items():
            _log.info("runner %s gets the egress rules of the policy as it is now", name)
            self._runners.change(name, egress=egress)
        return bool(changes)


def find_changes(runners: Iterable[LocalRunner], policies: Mapping[str, Policy]) -> dict[str, RunnerEgress]:
    """The runners whose profile has other rules now. A profile that is gone changes nothing: its jobs run on."""
    changes = {}
    for runner in runners:
        policy = policies.get(runner.org)
        profile = policy.profiles.get(runner.profile) if policy is not None else None
        if profile is not None and (egress := RunnerEgress.of_policy(profile.egress)) != runner.egress:
            changes[runner.name] = egress
    return changes
