"""A pool's ledger that groups of requests are applied to, one after the other; nothing is stored."""

from functions.admission.plan import make_plan
from functions.admission.requests import Decided, Plan, Request, Result
from functions.documents.ledger import Ledger
from functions.documents.workflow_job import WorkflowJob
from functions.routing.capacity import NOTHING, Size
from functions.routing.policy import Policy
from tests.fakes.examples import GIB, NOW, policy, policy_document

HOSTS = (Size(8000, 32 * GIB),)


class Pool:
    """A ledger that groups are applied to, one after the other."""

    def __init__(self, hosts: tuple[Size, ...] = HOSTS):
        self.ledger = Ledger()
        self.hosts = hosts
        self.known: dict[str, WorkflowJob] = {}
        self.now = NOW
        self._commits = 0

    def settle(self, *requests: Request) -> Plan:
        self._commits += 1
        hosts = {f"host-{number}": size for number, size in enumerate(self.hosts, start=1)}
        plan = make_plan(self.ledger, requests, self.known, hosts, "default", f"t{self._commits:05}", self.now)
        self.ledger = plan.ledger
        self.known |= {created.key: created for created in plan.creates}
        return plan

    def outcomes(self, *requests: Request) -> list[str]:
        return [outcome(result) for result in self.settle(*requests).results]

    @property
    def reserved(self) -> Size:
        return sum((lease.size for lease in self.ledger.leases.values()), NOTHING)


def outcome(result: Result) -> str:
    assert isinstance(result, Decided)
    assert result.job.decision is not None
    return result.job.decision.outcome


def reason(result: Result) -> str:
    assert isinstance(result, Decided)
    assert result.job.decision is not None
    return result.job.decision.reason


def runner_of(result: Result) -> str:
    assert isinstance(result, Decided)
    assert result.job.reservation is not None
    return result.job.reservation.runner_name


def limited(**scale_set: object) -> Policy:
    document = policy_document()
    document["scale_sets"]["ci"] |= scale_set
    return policy(**document)


def routed(**route: object) -> Policy:
    return policy(routes=[{"label_match": "ci"} | route])
