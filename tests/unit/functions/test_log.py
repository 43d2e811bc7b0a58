"""The lines that Cloud Logging reads."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from functions.log import JsonFormatter, canonical, configure_logging

LOGGER = logging.getLogger("runyard")


def written(**record: Any) -> str:
    return JsonFormatter().format(logging.makeLogRecord({"name": "runyard.webhook", "msg": "webhook"} | record))


def line(**record: Any) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(written(**record))
    return fields


@pytest.fixture
def unconfigured() -> Iterator[None]:
    """Our logger without handlers, and afterwards as it was."""
    before = LOGGER.handlers[:], LOGGER.level, LOGGER.propagate
    LOGGER.handlers.clear()
    yield
    LOGGER.handlers[:], LOGGER.level, LOGGER.propagate = before


def test_a_line_has_the_fields_that_cloud_logging_knows() -> None:
    assert line(levelname="WARNING", created=1_800_000_000.5, msg="%s refused", args=("one",)) == {
        "severity": "WARNING",
        "time": "2027-01-15T08:00:00.500000+00:00",
        "logger": "runyard.webhook",
        "message": "one refused",
    }


def test_fields_stand_beside_the_message() -> None:
    assert line(fields={"status": 200, "warnings": ["a"]}).items() >= {"status": 200, "warnings": ["a"]}.items()


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "a\u2028b", "größe ✓", "\ud800", '"}{', "\x1b[31m"], ids=ascii)
def test_one_record_is_one_line_of_ascii_whatever_its_text(text: str) -> None:
    assert written(msg=text, fields={"name": text}).isascii()
    assert len(written(msg=text, fields={"name": text}).splitlines()) == 1
    assert (line(msg=text)["message"], line(fields={"name": text})["name"]) == (text, text)


def test_an_exception_stands_in_the_same_line() -> None:
    try:
        raise ValueError("broken")
    except ValueError as error:
        record = {"exc_info": (type(error), error, error.__traceback__)}
    assert line(**record)["exception"].endswith("ValueError: broken")
    assert len(written(**record).splitlines()) == 1


def test_a_secret_is_not_written() -> None:
    assert line(fields={"token": SecretStr("ghs_secret")})["token"] == "**********"


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(st.characters()), st.binary() | st.text(st.characters()) | st.datetimes() | st.none()))
def test_no_field_keeps_a_line_from_being_written(fields: dict[str, object]) -> None:
    assert len(written(fields=fields).splitlines()) == 1


@pytest.mark.usefixtures("unconfigured")
def test_a_canonical_line_leaves_out_what_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    canonical(logging.getLogger("runyard.webhook"), logging.ERROR, "webhook", status=503, job=None, rule="", took_ms=0)
    fields = json.loads(capsys.readouterr().err)
    del fields["time"]
    assert fields == {
        "severity": "ERROR",
        "logger": "runyard.webhook",
        "message": "webhook",
        "status": 503,
        "rule": "",
        "took_ms": 0,
    }


@pytest.mark.usefixtures("unconfigured")
def test_configuring_twice_writes_each_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    configure_logging()
    logging.getLogger("runyard.webhook").info("one")
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.usefixtures("unconfigured")
def test_only_our_own_lines_from_info_up_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    logging.getLogger("runyard.webhook").debug("detail")
    logging.getLogger("elsewhere").info("not ours")
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("unconfigured")
def test_our_lines_do_not_reach_the_root_logger(caplog: pytest.LogCaptureFixture) -> None:
    configure_logging()
    logging.getLogger("runyard.webhook").error("once is enough")
    assert caplog.records == []
