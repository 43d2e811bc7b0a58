"""What the proxy itself answers."""

import pytest

from controller.proxy.refusal import format_refusal


def test_the_reason_stands_in_the_status_line_and_in_the_body() -> None:
    assert format_refusal(403, "evil.org:443 is denied by rule no-evil") == (
        b"HTTP/1.1 403 evil.org:443 is denied by rule no-evil\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Content-Length: 54\r\nConnection: close\r\n\r\nrunyard proxy: evil.org:443 is denied by rule no-evil\n"
    )


@pytest.mark.parametrize("profile", ["größe-1", "a\r\nX: y", "部署", "\x1b[2J", "\ud7ff\n\n"])
def test_a_profiles_name_cannot_make_another_head_of_it(profile: str) -> None:
    head, _, body = format_refusal(403, f"not allowed by profile {profile}").partition(b"\r\n\r\n")
    assert [line.split(b":")[0] for line in head.split(b"\r\n")[1:]] == [
        b"Content-Type",
        b"Content-Length",
        b"Connection",
    ]
    assert head.isascii()
    assert f"\r\nContent-Length: {len(body)}\r\n".encode() in head
    assert profile in body.decode()
