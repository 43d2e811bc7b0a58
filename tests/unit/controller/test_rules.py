"""Which targets a runner may reach."""

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.proxy.rules import EgressRules, Ruling, judge, refuse_address
from functions.documents.workflow_job import RunnerEgress, RunnerEgressRule
from functions.routing.policy import EgressMode

LOOPBACK = "a loopback address"
LINK_LOCAL = "a link-local address, where clouds keep their metadata"
MULTICAST = "a multicast address"
PRIVATE = "a private address"


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        pytest.param("127.0.0.1", LOOPBACK, id="loopback"),
        pytest.param("127.255.255.254", LOOPBACK, id="the far end of loopback"),
        pytest.param("::1", LOOPBACK, id="IPv6 loopback"),
        pytest.param("0.0.0.0", LOOPBACK, id="this host"),  # noqa: S104 - an address to refuse
        pytest.param("::", LOOPBACK, id="IPv6 this host"),
        pytest.param("0.1.2.3", PRIVATE, id="this network"),
        pytest.param("10.0.0.1", PRIVATE, id="RFC 1918: 10/8"),
        pytest.param("172.16.0.1", PRIVATE, id="RFC 1918: 172.16/12, first"),
        pytest.param("172.31.255.254", PRIVATE, id="RFC 1918: 172.16/12, last"),
        pytest.param("192.168.1.1", PRIVATE, id="RFC 1918: 192.168/16"),
        pytest.param("10.213.0.1", PRIVATE, id="the gateway of another runner's bridge"),
        pytest.param("172.17.0.1", PRIVATE, id="Docker's own bridge"),
        pytest.param("169.254.169.254", LINK_LOCAL, id="metadata of AWS, Google and Azure"),
        pytest.param("169.254.170.2", LINK_LOCAL, id="credentials of AWS tasks"),
        pytest.param("fd00:ec2::254", PRIVATE, id="metadata of AWS over IPv6"),
        pytest.param("fd20:ce::254", PRIVATE, id="metadata of Google over IPv6"),
        pytest.param("100.100.100.200", PRIVATE, id="metadata of Alibaba"),
        pytest.param("192.0.0.192", PRIVATE, id="metadata of Oracle's older cloud"),
        pytest.param("168.63.129.16", PRIVATE, id="the agent service of Azure's machines"),
        pytest.param("fe80::1", LINK_LOCAL, id="IPv6 link-local"),
        pytest.param("fe80::1%eth0", LINK_LOCAL, id="IPv6 link-local with its interface"),
        pytest.param("100.64.0.1", PRIVATE, id="carrier-grade NAT, first"),
        pytest.param("100.127.255.254", PRIVATE, id="carrier-grade NAT, last"),
        pytest.param("224.0.0.251", MULTICAST, id="multicast"),
        pytest.param("239.255.255.250", MULTICAST, id="the far end of multicast"),
        pytest.param("ff02::fb", MULTICAST, id="IPv6 multicast"),
        pytest.param("255.255.255.255", PRIVATE, id="broadcast"),
        pytest.param("240.0.0.1", PRIVATE, id="reserved"),
        pytest.param("198.18.0.1", PRIVATE, id="benchmarks"),
        pytest.param("192.0.0.8", PRIVATE, id="protocol assignments"),
        pytest.param("192.0.2.1", PRIVATE, id="documentation 1"),
        pytest.param("198.51.100.1", PRIVATE, id="documentation 2"),
        pytest.param("203.0.113.1", PRIVATE, id="documentation 3"),
        pytest.param("2001:db8::1", PRIVATE, id="IPv6 documentation"),
        pytest.param("3fff::1", PRIVATE, id="IPv6 documentation, RFC 9637"),
        pytest.param("fc00::1", PRIVATE, id="unique local, first half"),
        pytest.param("fd12:3456::1", PRIVATE, id="unique local, second half"),
        pytest.param("fec0::1", PRIVATE, id="site-local"),
        pytest.param("100::1", PRIVATE, id="discard only"),
        pytest.param("::ffff:127.0.0.1", LOOPBACK, id="loopback mapped into IPv6"),
        pytest.param("::ffff:10.0.0.1", PRIVATE, id="RFC 1918 mapped into IPv6"),
        pytest.param("::ffff:169.254.169.254", LINK_LOCAL, id="metadata mapped into IPv6"),
        pytest.param("::ffff:224.0.0.1", MULTICAST, id="multicast mapped into IPv6"),
        pytest.param("::127.0.0.1", PRIVATE, id="loopback in a compatible address"),
        pytest.param("::ffff:0:127.0.0.1", PRIVATE, id="loopback in a translated address"),
        pytest.param("2002:7f00:1::", LOOPBACK, id="loopback by 6to4"),
        pytest.param("2002:a9fe:a9fe::1", LINK_LOCAL, id="metadata by 6to4"),
        pytest.param("2002:c0a8:101::1", PRIVATE, id="RFC 1918 by 6to4"),
        pytest.param("2001:0:4136:e378:8000:63bf:80ff:fffe", LOOPBACK, id="loopback by Teredo"),
        pytest.param("2001:0:4136:e378:8000:63bf:5601:5601", LINK_LOCAL, id="metadata by Teredo"),
        pytest.param("64:ff9b::7f00:1", LOOPBACK, id="loopback by NAT64"),
        pytest.param("64:ff9b::a9fe:a9fe", LINK_LOCAL, id="metadata by NAT64"),
        pytest.param("64:ff9b::a00:1", PRIVATE, id="RFC 1918 by NAT64"),
        pytest.param("64:ff9b:1::8.8.8.8", PRIVATE, id="NAT64 of a network's own"),
        pytest.param("5f00::1", PRIVATE, id="segment routing"),
        pytest.param("4000::1", PRIVATE, id="IPv6 that nobody has been given"),
    ],
)
def test_what_is_not_of_the_public_internet_is_refused_with_a_reason(address: str, reason: str) -> None:
    assert refuse_address(ipaddress.ip_address(address)) == reason


@pytest.mark.parametrize(
    "address",
    [
        pytest.param("140.82.121.4", id="GitHub"),
        pytest.param("8.8.8.8", id="a name server"),
        pytest.param("172.15.255.255", id="just before 172.16/12"),
        pytest.param("172.32.0.0", id="just after 172.16/12"),
        pytest.param("100.63.255.255", id="just before carrier-grade NAT"),
        pytest.param("100.128.0.0", id="just after carrier-grade NAT"),
        pytest.param("169.253.255.255", id="just before link-local"),
        pytest.param("192.0.1.1", id="just after protocol assignments"),
        pytest.param("168.63.129.17", id="the neighbour of Azure's agent service"),
        pytest.param("223.255.255.255", id="just before multicast"),
        pytest.param("2606:50c0:8000::153", id="GitHub over IPv6"),
        pytest.param("2a00:1450:4001::200e", id="Google over IPv6"),
        pytest.param("::ffff:8.8.8.8", id="a public address mapped into IPv6"),
        pytest.param("64:ff9b::8c52:7904", id="GitHub by NAT64"),
        pytest.param("2002:808:808::1", id="a public address by 6to4"),
    ],
)
def test_the_public_internet_is_open(address: str) -> None:
    assert refuse_address(ipaddress.ip_address(address)) is None


@settings(deadline=None)
@given(st.ip_addresses(v=4), st.sampled_from(["::ffff:0:0", "64:ff9b::"]))
def test_an_ipv4_address_is_judged_alike_however_it_is_written(address: ipaddress.IPv4Address, prefix: str) -> None:
    written = ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) | int(address))
    assert refuse_address(written) == refuse_address(address)


@settings(deadline=None)
@given(st.ip_addresses())
def test_every_address_is_open_or_refused_with_a_reason(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    assert refuse_address(address) in {None, LOOPBACK, LINK_LOCAL, MULTICAST, PRIVATE}


def test_only_the_addresses_that_were_judged_may_be_connected_to() -> None:
    verdict = judge("example.com:443", ["8.8.8.8", "2606:50c0::1"], frozenset())
    assert verdict.is_allowed
    assert verdict.addresses == ("8.8.8.8", "2606:50c0::1")


@pytest.mark.parametrize(
    ("addresses", "left"),
    [
        pytest.param(["127.0.0.1", "8.8.8.8"], ("8.8.8.8",), id="a private one first"),
        pytest.param(["8.8.8.8", "169.254.169.254"], ("8.8.8.8",), id="a private one last"),
        pytest.param(["::ffff:10.0.0.1", "8.8.8.8", "10.0.0.1", "1.1.1.1"], ("8.8.8.8", "1.1.1.1"), id="several"),
    ],
)
def test_of_a_name_with_public_and_private_addresses_only_the_public_ones_are_left(
    addresses: list[str], left: tuple[str, ...]
) -> None:
    verdict = judge("rebinding.example.com:443", addresses, frozenset())
    assert verdict.is_allowed
    assert verdict.addresses == left


def test_a_name_with_private_addresses_alone_is_refused_in_words() -> None:
    verdict = judge("metadata.google.internal:80", ["169.254.169.254", "10.0.0.1"], frozenset())
    assert not verdict.is_allowed
    assert verdict.addresses == ()
    assert verdict.reason == f"metadata.google.internal:80 is {LINK_LOCAL}"


def test_a_name_without_addresses_is_refused() -> None:
    assert not judge("nowhere.example.com:443", [], frozenset()).is_allowed


@pytest.mark.parametrize(
    ("target", "is_allowed"),
    [
        pytest.param("ghes.example.com:443", True, id="the target itself"),
        pytest.param("ghes.example.com:22", False, id="another port of it"),
        pytest.param("other.example.com:443", False, id="another name for the same address"),
        pytest.param("ghes.example.com.:443", False, id="the name with its final dot"),
        pytest.param("10.1.2.3:443", False, id="its address"),
    ],
)
def test_a_private_target_is_open_only_by_the_name_and_the_port_that_were_set(target: str, is_allowed: bool) -> None:
    verdict = judge(target, ["10.1.2.3"], frozenset({"ghes.example.com:443"}))
    assert verdict.is_allowed is is_allowed
    assert verdict.addresses == (("10.1.2.3",) if is_allowed else ())


def rule(name: str, *targets: str, is_allowed: bool = True) -> RunnerEgressRule:
    return RunnerEgressRule(name=name, is_allowed=is_allowed, targets=targets)


def rules(*written: RunnerEgressRule, mode: EgressMode = EgressMode.ENFORCE) -> EgressRules:
    return EgressRules(
        RunnerEgress(mode=mode, rules=written), "small", ("github.com", "*.actions.test"), {"ghes.corp.test:8443"}
    )


ORDERED = rules(
    rule("no-raw", "raw.example.com", is_allowed=False),
    rule("mirror", "*.example.com:443", "mirror.test"),
    rule("no-tests", "*.test:80", is_allowed=False),
    rule("any-test", "*.test:*"),
    rule("address", "192.0.2.*:443", "[2001:DB8::1]:443", "[2001:db8::2]"),
)


@pytest.mark.parametrize(
    ("host", "port", "is_allowed", "name"),
    [
        pytest.param("github.com", 443, True, "github", id="GitHub"),
        pytest.param("results.actions.test", 443, True, "github", id="GitHub by a glob, before a rule that also fits"),
        pytest.param("github.com", 22, False, "none", id="GitHub on another port"),
        pytest.param("ghes.corp.test", 8443, True, "private_targets", id="a private target"),
        pytest.param("raw.example.com", 443, False, "no-raw", id="denied before it is allowed"),
        pytest.param("raw.example.com", 8080, False, "no-raw", id="a rule without a port is for every port"),
        pytest.param("RAW.example.com".lower(), 443, False, "no-raw", id="capitals"),
        pytest.param("raw.example.com.", 443, False, "no-raw", id="a final dot"),
        pytest.param("www.example.com", 443, True, "mirror", id="a glob"),
        pytest.param("a.b.example.com", 443, True, "mirror", id="a glob over several labels"),
        pytest.param("example.com", 443, False, "none", id="not what only begins like it"),
        pytest.param("www.example.com", 80, False, "none", id="another port"),
        pytest.param("www.example.com.evil.org", 443, False, "none", id="a name with more behind it"),
        pytest.param("mirror.test", 80, True, "mirror", id="allowed before it is denied"),
        pytest.param("other.test", 80, False, "no-tests", id="denied by port"),
        pytest.param("other.test", 81, True, "any-test", id="any port"),
        pytest.param("192.0.2.7", 443, True, "address", id="addresses by a glob"),
        pytest.param("2001:db8::1", 443, True, "address", id="IPv6, however it is written"),
        pytest.param("2001:db8::2", 22, True, "address", id="IPv6 on any port"),
        pytest.param("2001:db8::3", 443, False, "none", id="another IPv6 address"),
        pytest.param("2", 443, False, "none", id="IPv6 in a rule is no class of characters"),
    ],
)
def test_the_first_rule_that_fits_decides(host: str, port: int, *, is_allowed: bool, name: str) -> None:
    ruling = ORDERED.judge(host, port)
    assert (ruling.is_allowed, ruling.rule) == (is_allowed, name)
    assert bool(ruling.refusal) is not is_allowed


def test_a_refusal_names_the_rule_and_the_profile() -> None:
    assert (
        ORDERED.judge("raw.example.com", 443).refusal == "raw.example.com:443 is denied by rule no-raw of profile small"
    )
    assert (
        ORDERED.judge("evil.org", 443).refusal
        == "evil.org:443 is not allowed by profile small: no rule of its egress lists it"
    )


@pytest.mark.parametrize("mode", [EgressMode.AUDIT, EgressMode.LEARN])
def test_what_is_not_enforced_is_said_and_not_refused(mode: EgressMode) -> None:
    asked = rules(rule("no-raw", "raw.example.com", is_allowed=False), mode=mode)
    assert asked.judge("raw.example.com", 443) == Ruling(False, "no-raw")
    assert asked.judge("evil.org", 443) == Ruling(False, "none")


def test_github_cannot_be_denied_or_no_job_would_start() -> None:
    assert rules(rule("nothing", "*", is_allowed=False)).judge("github.com", 443).is_allowed
