"""A runner's name says which pool and which job it was made for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.documents.runner_name import RunnerName, make_runner_name, read_runner_name


@given(
    st.from_regex(r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?", fullmatch=True),
    st.integers(0, (1 << 63) - 1),
    st.from_regex(r"[0-9a-f]{6}", fullmatch=True),
)
def test_what_goes_in_comes_out_and_github_takes_it(pool: str, job_id: int, unique: str) -> None:
    name = make_runner_name(pool, job_id, unique)
    assert read_runner_name(name) == RunnerName(pool, job_id)
    assert len(name) <= 64


@pytest.mark.parametrize(
    "name", ["", "ry", "ry-", "GitHub Actions 12", "my-runner", "ry-default-x-abc", "ry--5-abc", "ry-default-²-abc"]
)
def test_other_peoples_runners_are_not_ours(name: str) -> None:
    assert read_runner_name(name) is None
