"""The hosts that GitHub's runner needs itself: always reachable, whatever a profile allows. Pure.

The list below is of the day that it names; `runyard egress hosts --refresh` writes a newer one from GitHub's
`GET /meta`, which needs no credentials, and the setting `proxy.github_hosts_file` names it.
"""

import datetime
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Host = Annotated[str, StringConstraints(pattern=r"^(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)+$")]
_SECTIONS = ("actions_inbound", "packages", "storage")
"""of the answer's `domains`: what runners call, GitHub's package registries, and where it keeps what these hand out"""


class GithubHosts(BaseModel):
    """Names, or globs for names, all on port 443."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    as_of: datetime.date
    hosts: tuple[Host, ...] = Field(min_length=1)


class NotMeta(Exception):
    """What came is no answer to `GET /meta` with the hosts that runners need."""


# Source: GitHub docs, "Communicating with self-hosted runners", and actions/runner docs/checks/actions.md.
BUILT_IN = GithubHosts(
    as_of=datetime.date(2026, 11, 22),
    hosts=(
        "github.com",
        "api.github.com",
        "*.actions.githubusercontent.com",
        "codeload.github.com",
        "pkg.actions.githubusercontent.com",
        "ghcr.io",
        "*.blob.core.windows.net",
        "objects.githubusercontent.com",
        "objects-origin.githubusercontent.com",
        "github-releases.githubusercontent.com",
        "release-assets.githubusercontent.com",
        "github-registry-files.githubusercontent.com",
        "*.pkg.github.com",
        "pkg-containers.githubusercontent.com",
        "github-cloud.githubusercontent.com",
        "github-cloud.s3.amazonaws.com",
        "dependabot-actions.githubapp.com",
    ),
)


def hosts_of_meta(meta: object, as_of: datetime.date) -> GithubHosts:
    """The hosts that an answer to `GET /meta` names.

    Source: GitHub's OpenAPI description, `api-overview`: `domains` maps services to lists of domains; that of
    `actions_inbound` is a map of lists, `full_domains` and `wildcard_domains`.

    Raises:
        NotMeta: it is something else, or GitHub's own name is not in it.
    """
    domains = meta.get("domains") if isinstance(meta, Mapping) else None
    if not isinstance(domains, Mapping):
        raise NotMeta("the answer has no domains: is this the address of GitHub's API?")
    found: dict[str, None] = {}
    for section in _SECTIONS:
        found |= dict.fromkeys(_names_in(domains.get(section)))
    if "github.com" not in found and "*.github.com" not in found:
        raise NotMeta("the answer does not name github.com among the hosts that runners need")
    return GithubHosts(as_of=as_of, hosts=tuple(found))


def _names_in(section: Any) -> list[str]:
    """Domain names, however deep; GitHub also lists some URLs."""
    if isinstance(section, Mapping):
        return [name for value in section.values() for name in _names_in(value)]
    if isinstance(section, list):
        return [name for value in section for name in _names_in(value)]
    name = re.sub(r"^https://|[/:].*$", "", str(section).lower())
    return [name] if re.fullmatch(r"(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)+", name) else []
