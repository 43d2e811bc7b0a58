"""One canonical line for each connection that a runner makes."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.attribution import Attribution
from controller.proxy.access_log import Event, JsonLines, Logfmt, LogFormat, format_time
from controller.proxy.rules import Ruling

WHO = Attribution(
    gateway="10.213.0.1",
    address="10.213.0.2",
    runner_name="ry-1",
    org="acme",
    profile="small",
    job_name="build",
    job_key="acme_1_2",
    has_job=True,
)
GITHUB = Ruling(True, "github")
NOON = format_time(1_795_003_200.5)
_PAIR = re.compile(r'(?P<key>[a-z_]+)=(?P<value>"(?:[^"\\]|\\.)*"|[^\s"=\\]+)(?: |$)')


def parse(line: str) -> dict[str, str]:
    """The fields of a line, as any reader of logfmt has them; nothing may be left over."""
    _, _, _, rest = line.split(" ", 3)
    fields: dict[str, str] = {}
    while rest:
        pair = _PAIR.match(rest)
        assert pair is not None, rest
        value = pair["value"]
        assert pair["key"] not in fields
        fields[pair["key"]] = json.loads(value) if value.startswith('"') else value
        rest = rest[pair.end() :]
    return fields


def event_of(
    form: LogFormat,
    who: Attribution | None = WHO,
    *,
    job_name: str = "build",
    decision: str = "tunnel",
    target: str = "api.github.com:443",
    ruling: Ruling | None = GITHUB,
    reason: str = "",
    sni: str = "",
) -> Event:
    subject = form.describe(who and who.model_copy(update={"job_name": job_name}), "10.213.0.2")
    return Event(NOON, "CONNECT", decision, subject, target, reason, ruling, sni, 100, 2000, 31)


def line_of(who: Attribution | None = WHO, **fields: Any) -> str:
    form = Logfmt("host-1")
    return form.line(event_of(form, who, **fields))


def json_of(who: Attribution | None = WHO, **fields: Any) -> str:
    form = JsonLines("host-1")
    return form.line(event_of(form, who, **fields))


def test_the_line_has_fixed_keys_in_a_fixed_order() -> None:
    assert line_of() == (
        "2026-11-18T12:00:00.500000Z CONNECT tunnel runner_name=ry-1 profile=small job_name=build "
        "target=api.github.com:443 source_ip=10.213.0.2 job_id=acme_1_2 has_job=yes host=host-1 decision=tunnel "
        'reason="" rule=github policy=allowed sni="" bytes_up=100 bytes_down=2000 duration_ms=31'
    )


def test_whoever_is_nobody_has_a_line_with_the_same_fields() -> None:
    fields = parse(line_of(None, decision="refused", target="", reason="not a runner"))
    assert list(fields) == list(parse(line_of()))
    assert (fields["runner_name"], fields["job_id"], fields["has_job"]) == ("", "", "no")
    assert (fields["target"], fields["reason"]) == ("", "not a runner")


def test_the_rule_that_decided_and_what_enforcing_would_do_are_in_the_line() -> None:
    fields = parse(line_of(ruling=Ruling(False, "no-gists")))
    assert (fields["decision"], fields["rule"], fields["policy"]) == ("tunnel", "no-gists", "refused")
    fields = parse(line_of(ruling=None, target=""))
    assert (fields["rule"], fields["policy"]) == ("", "")


def test_a_job_that_has_not_started_is_told_from_one_that_has() -> None:
    assert parse(line_of(WHO.model_copy(update={"has_job": False})))["has_job"] == "no"


HOSTILE = [
    pytest.param("build\n2026-11-18T12:00:00Z CONNECT tunnel runner_name=ry-9", id="a second line"),
    pytest.param("a\rb\r\nc\x0bd\x0ce\x1cf\x85g\u2028h\u2029i", id="every end of line that Unicode knows"),
    pytest.param('build" decision=tunnel job_id="acme_9_9', id="quotes that end the value"),
    pytest.param('build\\" decision=tunnel \\', id="backslashes"),
    pytest.param("build job_id=acme_9_9", id="a pair inside"),
    pytest.param("a=b", id="an equals sign"),
    pytest.param("\x1b[2J\x1b]0;title\x07", id="escape sequences of a terminal"),
    pytest.param("\x9b2J\x9d0;title\x9c\x80\x9f", id="the same with C1 controls"),
    pytest.param("\x00\x01\x7f\x08", id="other controls"),
    pytest.param("\u202egnp.exe\u2066\u200b\ufeff", id="marks that turn the direction or do not show"),
    pytest.param("ünï 🚀 部署", id="any script"),
    pytest.param("\ud800", id="half a surrogate pair"),
    pytest.param("", id="nothing"),
    pytest.param(" ", id="a space"),
    pytest.param("\u00a0\u3000", id="spaces of Unicode"),
    pytest.param('ü\n"' * 33_000, id="100 kB"),
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("field", ["job_name", "reason", "sni"])
def test_the_line_stays_one_line_and_says_what_it_was_given(field: str, text: str) -> None:
    line = line_of(WHO, **{field: text})
    assert line.isprintable()
    assert parse(line) == parse(line_of()) | {field: text}
    assert line.encode()


@settings(deadline=None)
@given(st.text(st.characters()))
def test_any_text_at_all_comes_back_from_the_line(text: str) -> None:
    line = line_of(job_name=text)
    assert line.isprintable()
    assert parse(line) == parse(line_of()) | {"job_name": text}


def test_names_are_left_readable_in_any_script() -> None:
    assert 'job_name="déploiement 部署"' in line_of(job_name="déploiement 部署")


# As JSON


def test_a_json_line_has_the_same_fields_in_the_same_order_and_numbers_are_numbers() -> None:
    fields = json.loads(json_of())
    in_logfmt = parse(line_of())
    assert list(fields) == ["time", "kind", *in_logfmt]
    assert (fields.pop("time"), fields.pop("kind")) == (NOON, "CONNECT")
    assert {key: str(value) for key, value in fields.items()} == in_logfmt
    assert (fields["bytes_up"], fields["bytes_down"], fields["duration_ms"]) == (100, 2000, 31)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("field", ["job_name", "reason", "sni"])
def test_a_json_line_stays_one_line_and_says_what_it_was_given(field: str, text: str) -> None:
    line = json_of(WHO, **{field: text})
    assert line.isprintable()
    assert json.loads(line) == json.loads(json_of()) | {field: text}


def test_a_stranger_has_a_json_line_with_the_same_fields() -> None:
    fields = json.loads(json_of(None, decision="refused", target="", ruling=None, reason="not a runner"))
    assert list(fields) == list(json.loads(json_of()))
    assert (fields["runner_name"], fields["rule"], fields["has_job"]) == ("", "", "no")
