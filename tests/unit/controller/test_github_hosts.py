"""GitHub's own hosts."""

import datetime
from typing import Any

import pytest

from controller.proxy.github_hosts import BUILT_IN, GithubHosts, NotMeta, hosts_of_meta

TODAY = datetime.date(2026, 11, 24)
META: dict[str, Any] = {
    "verifiable_password_authentication": False,
    "actions": ["192.0.2.0/24"],
    "domains": {
        "website": ["*.github.com", "*.github.dev"],
        "packages": ["mavenregistryv2prod.blob.core.windows.net", "ghcr.io"],
        "actions": ["*.actions.githubusercontent.com"],
        "actions_inbound": {
            "full_domains": ["github.com", "API.github.com", "https://codeload.github.com/x"],
            "wildcard_domains": ["*.actions.githubusercontent.com", "ghcr.io"],
        },
    },
}


def test_the_answer_names_what_runners_call_and_githubs_packages_each_once() -> None:
    assert hosts_of_meta(META, TODAY) == GithubHosts(
        as_of=TODAY,
        hosts=(
            "github.com",
            "api.github.com",
            "codeload.github.com",
            "*.actions.githubusercontent.com",
            "ghcr.io",
            "mavenregistryv2prod.blob.core.windows.net",
        ),
    )


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        pytest.param(None, "no domains", id="null"),
        pytest.param([], "no domains", id="a list"),
        pytest.param({"message": "Not Found"}, "no domains", id="an error"),
        pytest.param({"verifiable_password_authentication": True}, "no domains", id="GitHub Enterprise Server"),
        pytest.param({"domains": []}, "no domains", id="another shape"),
        pytest.param(
            {"domains": {"website": ["github.com"]}}, "does not name github.com", id="without what runners call"
        ),
        pytest.param(
            {"domains": {"actions_inbound": {"full_domains": ["*", "evil", "10.0.0.1/8", 5, None]}}},
            "does not name github.com",
            id="names that are none",
        ),
    ],
)
def test_what_is_no_such_answer_changes_nothing(meta: object, reason: str) -> None:
    with pytest.raises(NotMeta, match=reason):
        hosts_of_meta(meta, TODAY)


def test_no_name_lets_everything_in() -> None:
    meta = {"domains": {"actions_inbound": ["github.com", "*", "*.", "*.com*", "**.github.com", "[a-z].com"]}}
    assert hosts_of_meta(meta, TODAY).hosts == ("github.com",)


def test_the_built_in_list_is_dated_and_written_as_the_file_is() -> None:
    assert GithubHosts.model_validate_json(BUILT_IN.model_dump_json()) == BUILT_IN
