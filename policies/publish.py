"""Checks a routing policy and writes it to Firestore: `python policies/publish.py FILE --org ORG --project PROJECT`.

A policy with problems is not written; the exit code is 1 then, and every problem is told with its place.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml
from google.cloud import firestore

from functions.documents.installation import COLLECTION, installation_id
from functions.routing.policy import PolicyError, parse_policy


def load(path: Path) -> Any:
    """The policy in a YAML file, checked.

    Raises:
        PolicyError: with every problem.
        OSError, yaml.YAMLError: the file cannot be read.
    """
    document = yaml.safe_load(path.read_text())
    parse_policy(document)
    return document


def publish(client: firestore.Client, org: str, policy: Any) -> int:
    """Writes a checked policy and returns its revision; what the functions noted about the old one goes."""
    reference = client.collection(COLLECTION).document(installation_id(org))
    found = reference.get().to_dict() or {}
    revision = int(found.get("revision", 0)) + 1
    fields = {"policy": policy, "revision": revision, "lastError": firestore.DELETE_FIELD}
    # Whole fields are replaced: merging would keep profiles and routes that are no longer in the policy.
    reference.set(fields, merge=list(fields))  # type: ignore[arg-type]
    return revision


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Check a routing policy and publish it to Firestore.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--org", required=True, help="GitHub login of the organization or user")
    parser.add_argument("--project", required=True, help="Google Cloud project")
    parser.add_argument("--database", default="(default)")
    parser.add_argument("--check", action="store_true", help="only check, write nothing")
    arguments = parser.parse_args()
    try:
        policy = load(arguments.file)
    except PolicyError as error:
        print(*(f"{arguments.file}: {problem}" for problem in error.problems), sep="\n", file=sys.stderr)
        return 1
    except (OSError, yaml.YAMLError) as error:
        print(f"{arguments.file}: {error}", file=sys.stderr)
        return 1
    if not arguments.check:
        client = firestore.Client(project=arguments.project, database=arguments.database)
        revision = publish(client, arguments.org, policy)
        print(f"{arguments.org}: policy revision {revision} is in force from the next webhook on")
    return 0


if __name__ == "__main__":
    sys.exit(main())
