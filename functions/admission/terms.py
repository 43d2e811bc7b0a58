"""What a policy means for one job's runner and for a scale set, as documents and ledgers keep it. Pure.

Resolved when a job is decided about: a later edit of the policy changes nothing for it.
"""

from dataclasses import dataclass

from ..documents.ledger import Switch, WarmSupply
from ..documents.workflow_job import RunnerEgress, RunnerPlan, RunnerProfile, SizingRules
from ..github.protocol import Scope
from ..routing.capacity import Limits
from ..routing.classify import Match
from ..routing.job import JobFacts
from ..routing.policy import Mechanism, Overflow, Policy, Profile, RunnerLevel, ScaleSet
from .requests import Terms


@dataclass(frozen=True)
class Account:
    """Whose runners they are."""

    login: str
    is_organization: bool
    """users have no organization-level runners"""
    installation_id: int | None = None
    """of the GitHub App"""


def scale_set_key(org: str, name: str) -> str:
    """What a scale set is called in a ledger that may serve several organizations."""
    return f"{org.lower()}/{name}"


def limits_of(scale_set: ScaleSet) -> Limits:
    return Limits(scale_set.max_runners, scale_set.per_repository)


def plan_runner(account: Account, job: JobFacts, rules: Match) -> RunnerPlan:
    """The runner that these rules give a job."""
    return _plan(
        rules.scale_set_name,
        rules.scale_set,
        rules.profile_name,
        rules.profile,
        labels=job.labels,
        scope=_scope(account, job.repository, rules.scale_set),
        account=account,
    )


def plan_switch(policy: Policy, rules: Match, account: Account, repository: str) -> Switch | None:
    """The variable that goes with a route's scale set; None for all others."""
    overflow = policy.overflow
    if overflow is None or overflow.mechanism is not Mechanism.VARIABLE or overflow.variable is None:
        return None
    if rules.route.overflow is not Overflow.GITHUB_HOSTED:
        return None
    return Switch(
        scope=_scope(account, repository, rules.scale_set),
        name=overflow.variable,
        labels=overflow.variable_labels,
        hosted_labels=overflow.hosted_labels,
        low=overflow.low,
        high=overflow.high,
        installation_id=account.installation_id,
    )


def plan_warm_supply(policy: Policy, name: str, account: Account) -> WarmSupply | None:
    """The idle runners that a scale set keeps ready; None for one that keeps none, and for users."""
    scale_set = policy.scale_sets[name]
    if not scale_set.min_runners or not account.is_organization:
        return None
    profile = policy.warm_profile_of(scale_set)
    plan = _plan(
        name,
        scale_set,
        profile,
        policy.profiles[profile],
        labels=scale_set.labels,
        scope=Scope.organization(account.login).path,
        account=account,
    )
    return WarmSupply(
        org=account.login,
        plan=plan,
        keep=scale_set.min_runners,
        refill_below=scale_set.refill_below,
        retire_above=scale_set.retire_above,
    )


def terms_by_pool(policy: Policy, account: Account) -> dict[str, tuple[Terms, ...]]:
    """What the ledgers of the pools should know of a policy whose jobs have not come yet."""
    terms: dict[str, tuple[Terms, ...]] = {}
    for name, scale_set in policy.scale_sets.items():
        known = Terms(
            scale_set_key(account.login, name), limits_of(scale_set), warm=plan_warm_supply(policy, name, account)
        )
        terms[scale_set.pool] = (*terms.get(scale_set.pool, ()), known)
    return terms


def _scope(account: Account, repository: str, scale_set: ScaleSet) -> str:
    at_organization = scale_set.level is RunnerLevel.ORGANIZATION and account.is_organization
    return (Scope.organization(account.login) if at_organization else Scope.repository(repository)).path


def _plan(
    name: str,
    scale_set: ScaleSet,
    profile_name: str,
    profile: Profile,
    *,
    labels: tuple[str, ...],
    scope: str,
    account: Account,
) -> RunnerPlan:
    sizing = scale_set.sizing
    return RunnerPlan(
        profile=RunnerProfile(
            name=profile_name,
            cpu_millis=profile.cpu_millis,
            memory_bytes=profile.memory_bytes,
            pids=profile.pids,
            privileges=profile.privileges,
            env=profile.env,
            timeout_s=profile.timeout,
            egress=RunnerEgress.of_policy(profile.egress),
        ),
        image=profile.image or scale_set.image,
        labels=scale_set.labels or labels,
        scale_set=name,
        priority=scale_set.priority,
        runner_group=scale_set.runner_group,
        scope=scope,
        work_folder=scale_set.work_folder,
        installation_id=account.installation_id,
        sizing=SizingRules(mode=sizing.mode, no_room=sizing.no_room, wait_s=sizing.wait, on_error=sizing.on_error),
        idle_timeout_s=scale_set.idle_timeout,
    )
