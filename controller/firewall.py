"""The one door to the host's network rules: from a runner's bridge only the proxy and the gate can be reached.

Rules go by interface name, so they hold for bridges that are made later. `internal` networks alone do not protect the
host itself; see docs/decisions/0002-one-bridge-per-runner.md.
"""

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

_IPV6 = Path("/proc/sys/net/ipv6/conf")


class FirewallError(Exception):
    """The rules cannot be set; nothing may be started then."""


class Firewall:
    """The rules for all bridges with one name prefix."""

    def __init__(self, interface_prefix: str, ports: tuple[int, ...]):
        self._interfaces = f"{interface_prefix}+"
        self._chain = interface_prefix.upper()
        self._ports = ports

    def ensure(self) -> None:
        """Puts every rule in its place, at the top, whatever was there before.

        Raises:
            FirewallError: iptables is missing or refuses.
        """
        self._run("iptables", "-N", self._chain, may_fail=True)
        self._run("iptables", "-F", self._chain)
        self._append("-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT")
        for port in self._ports:
            self._append("-p", "tcp", "--dport", str(port), "-j", "ACCEPT")
        self._append("-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset")
        self._append("-j", "REJECT")
        self._insert_once("iptables", "INPUT", "-i", self._interfaces, "-j", self._chain)
        self._insert_once("iptables", "FORWARD", "-i", self._interfaces, "-j", "DROP")
        self._insert_once("iptables", "FORWARD", "-o", self._interfaces, "-j", "DROP")
        if _IPV6.exists() and shutil.which("ip6tables"):
            self._insert_once("ip6tables", "INPUT", "-i", self._interfaces, "-j", "DROP")
            self._insert_once("ip6tables", "FORWARD", "-i", self._interfaces, "-j", "DROP")

    def remove(self) -> None:
        """Takes the rules away; only right when no bridge is left."""
        for family, chain, *rule in (
            ("iptables", "INPUT", "-i", self._interfaces, "-j", self._chain),
            ("iptables", "FORWARD", "-i", self._interfaces, "-j", "DROP"),
            ("iptables", "FORWARD", "-o", self._interfaces, "-j", "DROP"),
            ("ip6tables", "INPUT", "-i", self._interfaces, "-j", "DROP"),
            ("ip6tables", "FORWARD", "-i", self._interfaces, "-j", "DROP"),
        ):
            if shutil.which(family):
                self._run(family, "-D", chain, *rule, may_fail=True)
        self._run("iptables", "-F", self._chain, may_fail=True)
        self._run("iptables", "-X", self._chain, may_fail=True)

    def switch_off_ipv6(self, interface: str) -> None:
        """A job with enough rights could otherwise reach the host over the bridge's link-local address."""
        with suppress(FileNotFoundError):
            (_IPV6 / interface / "disable_ipv6").write_text("1")

    def _append(self, *rule: str) -> None:
        self._run("iptables", "-A", self._chain, *rule)

    def _insert_once(self, family: str, chain: str, *rule: str) -> None:
        self._run(family, "-D", chain, *rule, may_fail=True)
        self._run(family, "-I", chain, "1", *rule)

    def _run(self, program: str, *arguments: str, may_fail: bool = False) -> None:
        try:
            subprocess.run([program, "-w", *arguments], capture_output=True, text=True, check=not may_fail)
        except FileNotFoundError:
            raise FirewallError(f"{program} is missing: apt-get install iptables") from None
        except subprocess.CalledProcessError as error:
            command = " ".join([program, *arguments])
            raise FirewallError(
                f"'{command}' failed: {error.stderr.strip()} (the controller must run as root)"
            ) from None
