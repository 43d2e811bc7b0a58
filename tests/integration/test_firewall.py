"""The firewall's rules, in a network namespace of the test's own."""

import os
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controller.firewall import Firewall, FirewallError

PREFIX = "rytest"
TOP = f"-A INPUT -i {PREFIX}+ -j {PREFIX.upper()}"


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def namespace(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """As long as the test runs, iptables works on this namespace, and never on the machine's own."""
    name = f"rytest-{uuid.uuid4().hex[:8]}"
    run("ip", "netns", "add", name)
    original = subprocess.run

    def inside(command: list[str], **options: object) -> "subprocess.CompletedProcess[str]":
        if "tables" in command[0]:
            command = ["ip", "netns", "exec", name, *command]
        return original(command, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(subprocess, "run", inside)
    yield name
    monkeypatch.undo()
    run("ip", "netns", "delete", name)


@pytest.fixture
def firewall(namespace: str) -> Firewall:
    return Firewall(PREFIX, (3128, 3129))


def rules(chain: str = "") -> list[str]:
    listed = run("iptables", "-S").splitlines()
    return [rule for rule in listed if rule.startswith(f"-A {chain}")]


def test_the_rules_are_put_in_place_and_found_there(firewall: Firewall) -> None:
    assert firewall.find_gaps()
    firewall.ensure()
    assert firewall.find_gaps() == []
    assert rules("INPUT") == [TOP]
    assert rules(PREFIX.upper()) == [
        f"-A {PREFIX.upper()} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        f"-A {PREFIX.upper()} -p tcp -m tcp --dport 3128 -j ACCEPT",
        f"-A {PREFIX.upper()} -p tcp -m tcp --dport 3129 -j ACCEPT",
        f"-A {PREFIX.upper()} -p tcp -j REJECT --reject-with tcp-reset",
        f"-A {PREFIX.upper()} -j REJECT --reject-with icmp-port-unreachable",
    ]
    assert rules("FORWARD") == [f"-A FORWARD -i {PREFIX}+ -j DROP", f"-A FORWARD -o {PREFIX}+ -j DROP"]


DAMAGE: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "a rule above ours": lambda: run("iptables", "-I", "INPUT", "1", "-p", "tcp", "-j", "ACCEPT"),
    "a forward above ours": lambda: run("iptables", "-I", "FORWARD", "1", "-j", "ACCEPT"),
    "everything is flushed": lambda: run("iptables", "-F"),
    "our chain is gone": lambda: [run("iptables", "-F"), run("iptables", "-X", PREFIX.upper())],
    "another port is open": lambda: run(
        "iptables", "-I", PREFIX.upper(), "1", "-p", "tcp", "--dport", "22", "-j", "ACCEPT"
    ),
    "a rule of ours is gone": lambda: run("iptables", "-D", "FORWARD", "-o", f"{PREFIX}+", "-j", "DROP"),
    "a rule of ours is there twice": lambda: run("iptables", "-A", "INPUT", "-i", f"{PREFIX}+", "-j", PREFIX.upper()),
    "the IPv6 rules are gone": lambda: run("ip6tables", "-F"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_whatever_somebody_else_does_to_the_rules_is_mended_and_what_is_theirs_stays(
    firewall: Firewall, damage: str
) -> None:
    run("iptables", "-A", "INPUT", "-p", "udp", "--dport", "53", "-j", "ACCEPT")
    firewall.ensure()
    before = rules()
    DAMAGE[damage]()
    assert bool(firewall.find_gaps()) == (damage != "nothing")
    firewall.ensure()
    assert firewall.find_gaps() == []
    added = {"-A INPUT -p tcp -j ACCEPT", "-A FORWARD -j ACCEPT"}
    lost = {"-A INPUT -p udp -m udp --dport 53 -j ACCEPT"} if "flushed" in damage or "chain" in damage else set()
    assert set(rules()) - added == set(before) - lost
    assert rules("INPUT")[0] == TOP


def test_several_runyards_and_the_engine_do_not_fight_for_the_first_place(firewall: Firewall) -> None:
    other = Firewall("ryother", (4128,))
    firewall.ensure()
    other.ensure()
    run("iptables", "-I", "FORWARD", "1", "-i", "rytest7", "-o", "rytest7", "-j", "ACCEPT")
    before = rules()
    for one in (firewall, other, firewall):
        assert one.find_gaps() == []
        one.ensure()
    assert rules() == before


def test_while_the_rules_are_mended_none_of_them_is_missing_for_a_moment(firewall: Firewall) -> None:
    """Runners are running then, and the host's ports are only closed by these rules."""
    firewall.ensure()
    is_over = threading.Event()
    missing: list[list[str]] = []

    def look() -> None:
        while not is_over.is_set():
            seen = rules()
            if TOP not in seen or not any(rule.endswith("tcp-reset") for rule in seen):
                missing.append(seen)

    looking = threading.Thread(target=look)
    looking.start()
    for _ in range(30):
        run("iptables", "-I", "INPUT", "1", "-p", "icmp", "-j", "ACCEPT")
        firewall.ensure()
        run("iptables", "-D", "INPUT", "-p", "icmp", "-j", "ACCEPT")
    is_over.set()
    looking.join()
    assert missing == []


def test_what_was_put_in_place_can_be_taken_away_again(firewall: Firewall) -> None:
    before = run("iptables", "-S"), run("ip6tables", "-S")
    firewall.ensure()
    firewall.remove()
    firewall.remove()
    assert (run("iptables", "-S"), run("ip6tables", "-S")) == before


def test_a_machine_without_iptables_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "PATH", str(tmp_path))
    with pytest.raises(FirewallError, match="iptables is missing: apt-get install iptables"):
        Firewall(PREFIX, (1,)).ensure()
