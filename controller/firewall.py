"""The one door to the host's network rules: from a runner's bridge only the proxy and the gate can be reached.

Rules go by interface name, so they hold for bridges that are made later. `internal` networks alone do not protect the
host itself; see docs/decisions/0002-one-bridge-per-runner.md.
"""

import re
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_IPV6 = Path("/proc/sys/net/ipv6/conf")
# What may stand above our rules: those of another Runyard on this machine, which need not fight for the first place,
# and what the engine puts there for each bridge, which leads nowhere else.
_HARMLESS = re.compile(
    r"-A INPUT -i [a-z]{2,10}\+ -j [A-Z]{2,10}"
    r"|-A FORWARD -[io] [a-z]{2,10}\+ -j DROP"
    r"|-A FORWARD -i (?P<bridge>\S+) -o (?P=bridge) -j ACCEPT"
)


class FirewallError(Exception):
    """The rules cannot be set; nothing may be started then."""


class Firewall:
    """The rules for all bridges with one name prefix."""

    def __init__(self, interface_prefix: str, ports: tuple[int, ...]):
        interfaces = f"{interface_prefix}+"
        self._chain = interface_prefix.upper()
        ports_in_rules = [f"-A {self._chain} -p tcp -m tcp --dport {port} -j ACCEPT" for port in ports]
        self._own_rules = [
            f"-A {self._chain} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            *ports_in_rules,
            f"-A {self._chain} -p tcp -j REJECT --reject-with tcp-reset",
            f"-A {self._chain} -j REJECT --reject-with icmp-port-unreachable",
        ]
        self._ipv4 = [
            f"-A INPUT -i {interfaces} -j {self._chain}",
            f"-A FORWARD -i {interfaces} -j DROP",
            f"-A FORWARD -o {interfaces} -j DROP",
        ]
        self._ipv6 = [f"-A INPUT -i {interfaces} -j DROP", f"-A FORWARD -i {interfaces} -j DROP"]

    def ensure(self) -> None:
        """Puts every rule in its place, at the top, whatever was there before; at no moment is one of them missing.

        Raises:
            FirewallError: iptables is missing or refuses.
        """
        self._ensure("iptables", self._ipv4, self._own_rules)
        if self._has_ipv6:
            self._ensure("ip6tables", self._ipv6, ())

    def find_gaps(self) -> list[str]:
        """The rules that are not there, or not at the top.

        Raises:
            FirewallError: iptables is missing or refuses.
        """
        gaps = self._gaps(self._list("iptables"), self._ipv4, self._own_rules)
        return gaps + (self._gaps(self._list("ip6tables"), self._ipv6, ()) if self._has_ipv6 else [])

    def remove(self) -> None:
        """Takes the rules away; only right when no bridge is left."""
        for program, rules in (("iptables", self._ipv4), ("ip6tables", self._ipv6)):
            if shutil.which(program):
                for rule in rules:
                    self._run(program, "-w", *_as_delete(rule).split(), may_fail=True)
        self._run("iptables", "-w", "-F", self._chain, may_fail=True)
        self._run("iptables", "-w", "-X", self._chain, may_fail=True)

    def switch_off_ipv6(self, interface: str) -> None:
        """A job with enough rights could otherwise reach the host over the bridge's link-local address."""
        with suppress(FileNotFoundError):
            (_IPV6 / interface / "disable_ipv6").write_text("1")

    @property
    def _has_ipv6(self) -> bool:
        return _IPV6.exists() and shutil.which("ip6tables") is not None

    def _ensure(self, program: str, top_rules: Sequence[str], own_rules: Sequence[str]) -> None:
        there = self._list(program)
        if not self._gaps(there, top_rules, own_rules):
            return
        lines = ["*filter"]
        if own_rules:
            # Naming a chain also empties it; all is done in one transaction.
            lines += [f":{self._chain} - [0:0]", *own_rules]
        for rule in reversed(top_rules):
            lines += [_as_delete(rule)] * there.count(rule) + [_as_insert(rule)]
        self._run(f"{program}-restore", "-w", "--noflush", script="\n".join([*lines, "COMMIT", ""]))

    def _gaps(self, there: Sequence[str], top_rules: Sequence[str], own_rules: Sequence[str]) -> list[str]:
        gaps = (
            list(own_rules)
            if [rule for rule in there if rule.startswith(f"-A {self._chain} ")] != list(own_rules)
            else []
        )
        for chain in ("INPUT", "FORWARD"):
            wanted = [rule for rule in top_rules if rule.startswith(f"-A {chain} ")]
            found = [
                rule
                for rule in there
                if rule.startswith(f"-A {chain} ") and (rule in wanted or not _HARMLESS.fullmatch(rule))
            ]
            if found[: len(wanted)] != wanted or any(found.count(rule) > 1 for rule in wanted):
                gaps += wanted
        return gaps

    def _list(self, program: str) -> list[str]:
        return self._run(program, "-w", "-S").splitlines()

    def _run(self, program: str, *arguments: str, script: str | None = None, may_fail: bool = False) -> str:
        command = [program, *arguments]
        try:
            return subprocess.run(command, input=script, capture_output=True, text=True, check=not may_fail).stdout
        except FileNotFoundError:
            raise FirewallError(f"{program} is missing: apt-get install iptables") from None
        except subprocess.CalledProcessError as error:
            raise FirewallError(
                f"'{' '.join(command)}' failed: {error.stderr.strip()} (the controller must run as root)"
            ) from None


def _as_delete(rule: str) -> str:
    return rule.replace("-A ", "-D ", 1)


def _as_insert(rule: str) -> str:
    _, chain, rest = rule.split(" ", 2)
    return f"-I {chain} 1 {rest}"
