"""Who is behind a connection."""

import pytest

from controller.attribution import Attribution, AttributionTable


def entry(slot: int, runner_name: str) -> Attribution:
    return Attribution(
        gateway=f"10.213.{slot}.1",
        address=f"10.213.{slot}.2",
        runner_name=runner_name,
        profile="small",
        job_name="build",
        job_key=f"acme_1_{slot}",
    )


TABLE = AttributionTable([entry(0, "ry-0"), entry(1, "ry-1")])


@pytest.mark.parametrize(("slot", "runner_name"), [(0, "ry-0"), (1, "ry-1")])
def test_a_runner_is_known_by_the_addresses_of_both_ends(slot: int, runner_name: str) -> None:
    found = TABLE.find(f"10.213.{slot}.1", f"10.213.{slot}.2")
    assert found is not None
    assert found.runner_name == runner_name


@pytest.mark.parametrize(
    ("local_address", "peer_address"),
    [
        pytest.param("10.213.0.1", "10.213.0.3", id="another address on the runner's own bridge"),
        pytest.param("10.213.0.1", "10.213.1.2", id="a neighbour's address on the runner's own bridge"),
        pytest.param("10.213.1.1", "10.213.0.2", id="the gateway of a neighbour"),
        pytest.param("192.168.1.7", "10.213.0.2", id="another of the host's addresses"),
        pytest.param("10.213.2.1", "10.213.2.2", id="a bridge without a runner"),
        pytest.param("127.0.0.1", "127.0.0.1", id="the host itself"),
        pytest.param("10.213.0.2", "10.213.0.1", id="both ends swapped"),
        pytest.param("10.213.0.1", "10.213.0.1", id="the gateway itself"),
        pytest.param("", "", id="no addresses"),
    ],
)
def test_whoever_does_not_fit_at_both_ends_is_nobody(local_address: str, peer_address: str) -> None:
    assert TABLE.find(local_address, peer_address) is None


def test_an_empty_table_knows_nobody() -> None:
    assert AttributionTable().find("10.213.0.1", "10.213.0.2") is None
    assert len(AttributionTable()) == 0


def test_a_table_survives_being_written_down() -> None:
    written = [known.model_dump_json() for known in TABLE.entries()]
    assert [Attribution.model_validate_json(text) for text in written] == TABLE.entries()
    assert len(TABLE) == 2
