"""The hosts that GitHub's runner needs itself: always reachable, whatever a profile allows.

Source: GitHub docs, "Communicating with self-hosted runners", and actions/runner docs/checks/actions.md; as of 2026-11.
All on port 443.
"""

RUNNER_HOSTS = (
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
)
