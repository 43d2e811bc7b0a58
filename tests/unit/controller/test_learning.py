"""From what jobs used to a list that allows it."""

import pytest
import yaml

from controller.cli.learning import Learned, RunOfJobs, learn, parse_job, to_policy
from functions.documents.workflow_job import EgressSummary, TargetSummary, WorkflowJob
from functions.routing.policy import EgressMode, parse_policy
from tests.fakes.examples import job, policy_document

GITHUB = ("github.com", "*.actions.test")


def ran(number: int, *targets: TargetSummary, to_others: int = 0) -> WorkflowJob:
    return job(number, egress=EgressSummary(targets=targets, connections_to_others=to_others))


def target(name: str, connections: int = 1, refused: int = 0) -> TargetSummary:
    return TargetSummary(target=name, connections=connections, refused=refused)


def test_what_several_jobs_reached_is_one_list_without_githubs_own_hosts() -> None:
    learned = learn(
        [
            ran(
                1,
                target("packages.example.com:443"),
                target("github.com:443"),
                target("x.actions.test:443"),
                target("github.com:22"),
            ),
            ran(2, target("files.example.com:443"), target("packages.example.com:443"), target("[2001:db8::1]:443")),
        ],
        GITHUB,
    )
    assert learned.allow == ("[2001:db8::1]:443", "files.example.com:443", "github.com:22", "packages.example.com:443")
    assert learned.jobs == ("acme_1_1", "acme_1_2")


def test_what_was_only_ever_refused_is_not_allowed_afterwards() -> None:
    learned = learn([ran(1, target("169.254.169.254:80", 3, 3), target("sometimes.test:80", 3, 2))], GITHUB)
    assert learned.allow == ("sometimes.test:80",)


def test_what_the_list_cannot_know_is_told() -> None:
    learned = learn([ran(1, to_others=3), ran(2, to_others=4), job(3)], GITHUB)
    assert (learned.left_out, learned.without_summary) == (7, ("acme_1_3",))


def test_the_list_can_be_pasted_into_a_profile() -> None:
    text = to_policy(Learned(("[2001:db8::1]:443", "*.pypi.org:443"), ("acme_1_1",)))
    document = policy_document()
    document["profiles"]["small"] |= yaml.safe_load(text)
    egress = parse_policy(document).profiles["small"].egress
    assert (egress.mode, egress.allow) == (EgressMode.ENFORCE, ("[2001:db8::1]:443", "*.pypi.org:443"))


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("acme_7000000001_7000000005", "acme_7000000001_7000000005"),
        ("ACME_1_2", "acme_1_2"),
        ("https://github.com/Acme/app/actions/runs/12/job/34", "acme_12_34"),
        ("https://github.com/Acme/app/actions/runs/12/job/34?pr=5", "acme_12_34"),
        ("https://ghes.corp.example/acme/app/actions/runs/12/attempts/2", RunOfJobs("acme", 12)),
        ("https://github.com/Acme/app/actions/runs/12", RunOfJobs("acme", 12)),
    ],
)
def test_a_job_is_named_by_its_id_or_its_address(text: str, meaning: object) -> None:
    assert parse_job(text) == meaning


@pytest.mark.parametrize("text", ["", "build", "12", "acme_12", "acme/x_1_2", "https://github.com/acme/app/pull/3"])
def test_anything_else_is_told_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match="write ORG_RUN_JOB, or the address"):
        parse_job(text)
