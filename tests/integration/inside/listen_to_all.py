"""Hears everything that reaches a machine: TCP and UDP on the port given and on that of DNS, and ICMP. Answers, too.

Standard output: `ready`, then a line for each thing heard: from where, and what.
"""

import select
import socket
import sys
from contextlib import suppress

DNS_PORT = 53


def open_all(port: int) -> list[socket.socket]:
    socks = []
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        for number in (port, DNS_PORT):
            sock = socket.socket(socket.AF_INET6, kind)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("::", number))
            if kind == socket.SOCK_STREAM:
                sock.listen(100)
            socks.append(sock)
    return [*socks, socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)]


def hear(sock: socket.socket) -> tuple[bytes, str]:
    if sock.type == socket.SOCK_STREAM:
        client, peer = sock.accept()
        data = b""
        with client, suppress(OSError):
            client.settimeout(1)
            data = client.recv(500)
            client.sendall(b"answer")
        return data, peer[0]
    data, peer = sock.recvfrom(500)
    if sock.type == socket.SOCK_DGRAM:
        sock.sendto(b"answer", peer)
    return data, peer[0]


def main() -> None:
    socks = open_all(int(sys.argv[1]))
    print("ready", flush=True)
    while True:
        for sock in select.select(socks, [], [])[0]:
            data, peer = hear(sock)
            print(peer, data, flush=True)


if __name__ == "__main__":
    main()
