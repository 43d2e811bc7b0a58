"""What GitHub may answer instead of what was asked for, by what to do about it."""

from datetime import datetime


class GitHubError(Exception):
    """GitHub did not do what was asked; the message is fit for an operator."""

    retry_at: datetime | None = None
    """when to try again; None when trying again does not help"""


class TryLater(GitHubError):
    """A rate limit, a server error, or no answer: the same call may succeed later."""

    def __init__(self, message: str, retry_at: datetime):
        super().__init__(message)
        self.retry_at = retry_at


class NoAnswer(TryLater):
    """Nothing came back in time: GitHub may have done it all the same."""


class NameTaken(GitHubError):
    """A runner of this name exists (409), perhaps from a call whose answer was lost."""


class RunnerBusy(GitHubError):
    """A runner has a job (422), so it cannot be removed: perhaps for some minutes after its machine has vanished."""


class Refused(GitHubError):
    """Credentials, permissions or the request itself are wrong: somebody has to mend something."""
