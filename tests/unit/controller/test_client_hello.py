"""The name that a TLS client asks for."""

import ssl
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.proxy.client_hello import LARGEST, FirstWords, read_first_words


def hello(server_name: str | None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """What OpenSSL sends first."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = version
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=server_name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def in_records(data: bytes, size: int) -> bytes:
    """The same message, cut into records of a size."""
    message = data[5:]
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(data[:3] + len(part).to_bytes(2, "big") + part for part in parts)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["example.com", "API.GitHub.com", "a" * 60 + ".example.com"])
def test_the_name_is_read_from_what_openssl_sends(name: str, version: ssl.TLSVersion) -> None:
    assert read_first_words(hello(name, version)) == FirstWords(True, name.lower())


def test_what_follows_the_message_does_not_matter() -> None:
    assert read_first_words(hello("example.com") + b"\x14\x03\x03\0\x01\x01more") == FirstWords(True, "example.com")


def test_a_client_that_asks_for_no_name_says_so() -> None:
    assert read_first_words(hello(None)) == FirstWords(True)


def test_until_the_message_is_there_nothing_is_known() -> None:
    whole = hello("example.com")
    assert read_first_words(b"") is None
    for cut in range(1, len(whole)):
        assert read_first_words(whole[:cut]) is None, cut


@pytest.mark.parametrize("size", [1, 3, 4, 5, 100])
def test_a_message_in_several_records_is_put_together(size: int) -> None:
    cut = in_records(hello("example.com"), size)
    assert read_first_words(cut) == FirstWords(True, "example.com")
    assert read_first_words(cut[:-1]) is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="SSH"),
        pytest.param(b"GET / HTTP/1.1\r\n", id="HTTP"),
        pytest.param(b"\x80\x2e\x01\x03\x01", id="SSL 2"),
        pytest.param(b"\x15\x03\x01\0\x02\x02\x28", id="an alert"),
        pytest.param(b"\x16\x02\x00", id="another version"),
        pytest.param(b"\x16\x03\x01\0\x04\x02\0\0\0", id="a server's hello"),
        pytest.param(b"\x16\x03\x01\0\x02\x01\0\x17\x03\x03", id="another record in between"),
        pytest.param(b"\0", id="a NUL"),
    ],
)
def test_another_protocol_is_told_at_once(data: bytes) -> None:
    assert read_first_words(data) == FirstWords(False)


def test_what_is_endless_is_not_waited_for() -> None:
    """A message that announces 16 MB, in records of 16 kB."""
    record = b"\x16\x03\x01\x40\x00" + b"\x01\xff\xff\xff" + bytes(0x4000 - 4)
    later = b"\x16\x03\x01\x40\x00" + bytes(0x4000)
    assert read_first_words(record + later * 2) is None
    assert read_first_words((record + later * 4)[: LARGEST + 1]) == FirstWords(False)


@pytest.mark.parametrize("position", range(9, 120))
def test_a_message_that_is_damaged_inside_is_tls_without_a_name_or_with_another(position: int) -> None:
    data = bytearray(hello("example.com", ssl.TLSVersion.TLSv1_2))
    for value in (0, 1, 0x7F, 0xFF):
        data[position] = value
        words = read_first_words(bytes(data))
        assert words is None or words.is_tls


@settings(max_examples=300, deadline=timedelta(seconds=1))
@given(st.binary(max_size=400), st.sampled_from([b"", b"\x16\x03\x01", b"\x16\x03\x01\0\x80\x01\0\0\x7c\x03\x03"]))
def test_any_bytes_at_all_are_read_without_a_fault_and_more_of_them_change_no_answer(data: bytes, start: bytes) -> None:
    whole = start + data
    known = None
    for cut in range(len(whole) + 1):
        words = read_first_words(whole[:cut])
        if known is not None:
            assert words == known
        known = words
