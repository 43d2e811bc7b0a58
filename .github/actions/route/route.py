"""Asks Runyard which labels to use, and writes the answer to the step's outputs. Standard library only."""

import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

TRIES = 3
TIMEOUT_S = 12


class Unanswered(Exception):
    """There is no answer; the message says why, without the token."""


def fetch(url: str, token: str, body: "dict[str, object] | None" = None) -> "dict[str, object]":
    """The JSON of an answer; tries again where that makes sense."""
    payload = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json", "Content-Type": "application/json"}
    problem = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(2 * attempt)
        try:
            request = urllib.request.Request(url, payload, headers)
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                answer = json.load(response)
            if isinstance(answer, dict):
                return answer
            problem = "the answer is no JSON object"
        except urllib.error.HTTPError as error:
            with error:
                problem = f"{error.code} {error.read(500).decode(errors='replace')}"
            if error.code < 500:
                break
        except (OSError, ValueError) as error:
            problem = str(error)
    raise Unanswered(f"{urllib.parse.urlsplit(url).netloc}: {problem}")


def ask() -> "dict[str, object]":
    """Runyard's answer."""
    request_url, request_token = (os.environ.get(f"ACTIONS_ID_TOKEN_REQUEST_{name}") for name in ("URL", "TOKEN"))
    if not request_url or not request_token:
        raise Unanswered("no OIDC token: give the job the permission id-token: write")
    audience = urllib.parse.urlencode({"audience": os.environ["INPUT_AUDIENCE"]})
    separator = "&" if "?" in request_url else "?"
    token = str(fetch(f"{request_url}{separator}{audience}", request_token).get("value", ""))
    question = {"labels": json.loads(os.environ["INPUT_LABELS"]), "jobs": json.loads(os.environ["INPUT_JOBS"])}
    return fetch(os.environ["INPUT_URL"], token, question)


def is_list(text: str) -> bool:
    try:
        return isinstance(json.loads(text), list)
    except ValueError:
        return False


def main() -> int:
    """Writes the outputs; exit code 1 only when the inputs are no JSON."""
    if not all(is_list(os.environ[f"INPUT_{name}"]) for name in ("LABELS", "JOBS", "HOSTED_LABELS")):
        print('::error::labels, jobs and hosted-labels are JSON lists, such as \'["self-hosted", "ci"]\'')
        return 1
    try:
        answer = ask()
        runs_on, outcome, reason = answer["runs_on"], str(answer["outcome"]), str(answer["reason"])
    except (Unanswered, KeyError) as error:
        runs_on, outcome, reason = json.loads(os.environ["INPUT_HOSTED_LABELS"]), "unanswered", str(error)
        print(f"::warning::Runyard did not answer, using {json.dumps(runs_on)}: {' '.join(reason.split())}")
    with open(os.environ["GITHUB_OUTPUT"], "a", encoding="utf-8") as outputs:
        outputs.writelines(
            f"{name}={' '.join(value.split())}\n"
            for name, value in (("runs-on", json.dumps(runs_on)), ("outcome", outcome), ("reason", reason))
        )
    print(f"{outcome}: {json.dumps(runs_on)} ({reason})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
