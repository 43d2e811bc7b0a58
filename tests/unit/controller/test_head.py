"""The head of a proxy request: bytes in, event or error out."""

from datetime import timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from controller.proxy.head import LARGEST_HEAD, BadHead, Head, parse_head


def head_of(request: str) -> Head:
    head = parse_head(request.encode("latin-1"))
    assert head is not None
    return head


def outcome(buffer: bytes) -> Head | tuple[int, str] | None:
    try:
        return parse_head(buffer)
    except BadHead as error:
        return error.status, error.reason


def outcome_in_pieces(*pieces: bytes) -> Head | tuple[int, str] | None:
    """As the proxy reads: after each piece it looks at all that it has."""
    buffer = bytearray()
    found = None
    for piece in pieces:
        buffer += piece
        found = outcome(bytes(buffer))
        if found is not None:
            break
    return found


def passed_on(*lines: str, request_line: str = "GET http://example.com/x HTTP/1.1") -> list[str]:
    """The lines that the origin gets for a request with these header lines."""
    head = head_of("\r\n".join([request_line, *lines, "", ""]))
    assert head.origin_head is not None
    assert head.origin_head.endswith(b"\r\n\r\n")
    return head.origin_head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")


@pytest.mark.parametrize(
    ("target", "host", "port", "shown"),
    [
        pytest.param("api.github.com:443", "api.github.com", 443, "api.github.com:443", id="a name"),
        pytest.param("API.GitHub.com:443", "api.github.com", 443, "api.github.com:443", id="capitals"),
        pytest.param("my_host:8080", "my_host", 8080, "my_host:8080", id="an underscore"),
        pytest.param("example.com.:443", "example.com.", 443, "example.com.:443", id="a final dot"),
        pytest.param("10.1.2.3:1", "10.1.2.3", 1, "10.1.2.3:1", id="an IPv4 address and the lowest port"),
        pytest.param("[::1]:65535", "::1", 65535, "[::1]:65535", id="an IPv6 address and the highest port"),
        pytest.param("[2606:50C0:0:0::153]:443", "2606:50c0::153", 443, "[2606:50c0::153]:443", id="IPv6 written long"),
        pytest.param("[::ffff:1.2.3.4]:80", "::ffff:102:304", 80, "[::ffff:102:304]:80", id="IPv4 within IPv6"),
        pytest.param("example.com:00443", "example.com", 443, "example.com:443", id="zeros before the port"),
    ],
)
def test_connect_names_a_host_and_a_port(target: str, host: str, port: int, shown: str) -> None:
    head = head_of(f"CONNECT {target} HTTP/1.1\r\nHost: elsewhere:1\r\n\r\n")
    assert (head.host, head.port, head.target, head.is_connect) == (host, port, shown, True)


@pytest.mark.parametrize(
    ("url", "host", "port", "request_line", "host_line"),
    [
        ("http://example.com/a?b=c", "example.com", 80, "GET /a?b=c HTTP/1.1", "Host: example.com"),
        ("http://example.com", "example.com", 80, "GET / HTTP/1.1", "Host: example.com"),
        ("http://example.com?b", "example.com", 80, "GET /?b HTTP/1.1", "Host: example.com"),
        ("http://example.com:8080//a/../b", "example.com", 8080, "GET //a/../b HTTP/1.1", "Host: example.com:8080"),
        ("HTTP://EXAMPLE.com/", "example.com", 80, "GET / HTTP/1.1", "Host: EXAMPLE.com"),
        ("http://[2001:db8::1]:81/", "2001:db8::1", 81, "GET / HTTP/1.1", "Host: [2001:db8::1]:81"),
        ("http://a/http://b:90/", "a", 80, "GET /http://b:90/ HTTP/1.1", "Host: a"),
    ],
)
def test_a_url_becomes_a_request_for_its_path(
    url: str, host: str, port: int, request_line: str, host_line: str
) -> None:
    head = head_of(f"GET {url} HTTP/1.1\r\n\r\n")
    assert (head.host, head.port, head.is_connect) == (host, port, False)
    assert passed_on(request_line=f"GET {url} HTTP/1.1")[:2] == [request_line, host_line]


@pytest.mark.parametrize("method", ["GET", "POST", "M-SEARCH", "get", "2GET", "!#$%&'*+-.^_`|~"])
def test_any_method_is_passed_on(method: str) -> None:
    assert passed_on(request_line=f"{method} http://a/ HTTP/1.0")[0] == f"{method} / HTTP/1.1"


def test_header_lines_are_passed_on_in_their_order_without_the_space_around_values() -> None:
    lines = passed_on("B: 2", "a:1", "X-Empty:", "X-Padded: \t a  b \t", "B: 3", "X-Latin: \xe9\x80")
    assert lines[2:-2] == ["B: 2", "a: 1", "X-Empty: ", "X-Padded: a  b", "B: 3", "X-Latin: \xe9\x80"]


def test_the_origin_is_asked_once_only() -> None:
    assert passed_on("Connection: keep-alive", "Keep-Alive: 5")[2:] == ["Via: 1.1 runyard", "Connection: close"]


@pytest.mark.parametrize(
    "line",
    [
        "Connection: keep-alive",
        "Proxy-Connection: keep-alive",
        "Keep-Alive: timeout=5",
        "Proxy-Authorization: Basic c2VjcmV0",
        "TE: trailers",
        "Upgrade: websocket",
        "upgrade: h2c",
        "Host: other.example.com",
    ],
)
def test_what_concerns_this_connection_only_is_not_passed_on(line: str) -> None:
    assert passed_on(line) == passed_on()


@pytest.mark.parametrize("value", ["X-Secret", "close, x-secret", " , x-SECRET\t,", "x-secret,x-secret"])
def test_what_connection_names_is_not_passed_on(value: str) -> None:
    assert passed_on(f"Connection: {value}", "X-Secret: 1", "X-Other: 2")[2:-2] == ["X-Other: 2"]


def test_several_connection_lines_count_together() -> None:
    assert passed_on("Connection: a", "A: 1", "Connection: b", "B: 2", "C: 3")[2:-2] == ["C: 3"]


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(["Content-Length: 5"], id="a length"),
        pytest.param(["Transfer-Encoding: chunked"], id="chunks"),
        pytest.param(["Content-Length: 5", "Transfer-Encoding: chunked"], id="both, which only the origin can judge"),
        pytest.param(["Content-Length: 5", "Content-Length: 5"], id="the same length twice"),
    ],
)
def test_nothing_a_client_says_takes_away_what_tells_where_a_body_ends(lines: list[str]) -> None:
    assert passed_on("Connection: content-length, Transfer-Encoding", *lines)[2:-2] == lines


@pytest.mark.parametrize(
    ("lines", "size"),
    [
        pytest.param([], 0, id="no body"),
        pytest.param(["content-LENGTH: 5"], 5, id="a length"),
        pytest.param(["Content-Length: 5", "Content-Length: 5"], 5, id="the same length twice"),
        pytest.param(["Content-Length: " + "9" * 18], 10**18 - 1, id="the largest length"),
        pytest.param(["Transfer-Encoding: chunked"], None, id="chunks, whose end only the origin knows"),
        pytest.param(["Content-Length: 5", "Transfer-Encoding: chunked"], None, id="chunks win over a length"),
    ],
)
def test_only_a_requests_own_body_belongs_to_it(lines: list[str], size: int | None) -> None:
    assert head_of("\r\n".join(["POST http://a/ HTTP/1.1", *lines, "", ""])).body_size == size


def test_everything_after_a_connect_belongs_to_its_tunnel() -> None:
    assert head_of("CONNECT a:1 HTTP/1.1\r\nContent-Length: 5\r\n\r\n").body_size is None


@pytest.mark.parametrize("value", ["", "-5", "+5", "5 6", "5, 5", "0x5", "5.0", "٥", "9" * 19])  # noqa: RUF001
def test_a_length_that_readers_could_read_differently_is_refused(value: str) -> None:
    request = f"POST http://a/ HTTP/1.1\r\nContent-Length: {value}\r\n\r\n"
    assert outcome(request.encode()) == (400, "the request's Content-Length is not a number")


def test_two_different_lengths_are_refused() -> None:
    request = b"POST http://a/ HTTP/1.1\r\nContent-Length: 5\r\ncontent-length: 6\r\n\r\n"
    assert outcome(request) == (400, "the request's Content-Length is not a number")


def test_connection_cannot_take_away_the_host() -> None:
    assert passed_on("Connection: host", "Host: other")[1] == "Host: example.com"


@pytest.mark.parametrize(
    "request_line",
    [
        pytest.param("GET / HTTP/1.1", id="a path, as for an origin"),
        pytest.param("GET example.com/ HTTP/1.1", id="no scheme"),
        pytest.param("GET https://example.com/ HTTP/1.1", id="https, which needs CONNECT"),
        pytest.param("GET ftp://example.com/ HTTP/1.1", id="another scheme"),
        pytest.param("OPTIONS * HTTP/1.1", id="an asterisk"),
        pytest.param("GET http:///x HTTP/1.1", id="no host in a URL"),
        pytest.param("GET http://user@example.com/ HTTP/1.1", id="a user in a URL"),
        pytest.param("GET http://example.com\\@evil.com/ HTTP/1.1", id="a backslash in a host"),
        pytest.param("GET http://example.com:80:90/ HTTP/1.1", id="two ports in a URL"),
        pytest.param("GET http://[::1/ HTTP/1.1", id="an open bracket"),
        pytest.param("GET http://example.com#x HTTP/1.1", id="a fragment for a path"),
        pytest.param("CONNECT example.com HTTP/1.1", id="no port"),
        pytest.param("CONNECT example.com: HTTP/1.1", id="an empty port"),
        pytest.param("CONNECT :443 HTTP/1.1", id="no host"),
        pytest.param("CONNECT example.com:0 HTTP/1.1", id="port 0"),
        pytest.param("CONNECT example.com:65536 HTTP/1.1", id="a port that is too high"),
        pytest.param("CONNECT example.com:+443 HTTP/1.1", id="a port with a sign"),
        pytest.param("CONNECT example.com:443/ HTTP/1.1", id="a path"),
        pytest.param("CONNECT http://example.com:443 HTTP/1.1", id="a URL to connect to"),
        pytest.param("CONNECT user@example.com:443 HTTP/1.1", id="a user"),
        pytest.param("CONNECT ::1:443 HTTP/1.1", id="IPv6 without brackets"),
        pytest.param("CONNECT [::1] HTTP/1.1", id="IPv6 without a port"),
        pytest.param("CONNECT [::1%25eth0]:443 HTTP/1.1", id="IPv6 with an interface"),
        pytest.param("CONNECT [1.2.3.4]:443 HTTP/1.1", id="IPv4 in brackets"),
        pytest.param("CONNECT [::::]:443 HTTP/1.1", id="what only looks like IPv6"),
        pytest.param("CONNECT ex\u00e4mple.com:443 HTTP/1.1", id="a name that is not ASCII"),
        pytest.param(f"CONNECT {'a' * 254}:443 HTTP/1.1", id="a name that is too long"),
        pytest.param("connect example.com:443 HTTP/1.1", id="connect in lower case is another method"),
        pytest.param("CONNECT  example.com:443 HTTP/1.1", id="two spaces"),
        pytest.param("CONNECT\texample.com:443\tHTTP/1.1", id="tabs"),
        pytest.param("CONNECT example.com:443 HTTP/1.1 ", id="a space at the end"),
        pytest.param(" CONNECT example.com:443 HTTP/1.1", id="a space at the start"),
        pytest.param("CONNECT example.com:443", id="no version"),
        pytest.param("CONNECT example.com:443 HTTP/2.0", id="another version"),
        pytest.param("CONNECT example.com:443 http/1.1", id="a version in lower case"),
        pytest.param("PRI * HTTP/2.0", id="the preface of HTTP/2"),
        pytest.param("CONNECT example.com:443 HTTP/1.1\nX: y", id="a bare line feed"),
        pytest.param("CONNECT example.com:443 HTTP/1.1\rX: y", id="a bare carriage return"),
        pytest.param("CONNECT example.com\x00.evil.com:443 HTTP/1.1", id="a NUL"),
        pytest.param("", id="nothing"),
    ],
)
def test_what_is_no_proxy_request_is_answered_with_400(request_line: str) -> None:
    with pytest.raises(BadHead) as caught:
        head_of(f"{request_line}\r\nHost: example.com\r\n\r\n")
    assert caught.value.status == 400
    assert caught.value.reason


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("Content-Length : 5", id="a space before the colon"),
        pytest.param(" Content-Length: 5", id="a space before the name"),
        pytest.param("X: a\r\n b", id="a folded line"),
        pytest.param("X: a\nContent-Length: 5", id="a bare line feed"),
        pytest.param("X: a\rContent-Length: 5", id="a bare carriage return"),
        pytest.param("X: a\x00", id="a NUL"),
        pytest.param("X: a\x7f", id="a delete"),
        pytest.param("Content-Length", id="no colon"),
        pytest.param(": 5", id="no name"),
        pytest.param("X(Y): 5", id="a parenthesis in the name"),
        pytest.param("X\xe9: 5", id="a name that is not ASCII"),
    ],
)
@pytest.mark.parametrize("request_line", ["CONNECT a:1 HTTP/1.1", "POST http://a/ HTTP/1.1"])
def test_a_header_line_that_two_readers_could_read_differently_is_refused(request_line: str, line: str) -> None:
    with pytest.raises(BadHead, match="header line is malformed"):
        head_of(f"{request_line}\r\nHost: a\r\n{line}\r\n\r\n")


@pytest.mark.parametrize("after", [b"", b"\x16\x03\x01", b"GET http://evil/ HTTP/1.1\r\n\r\n", b"\r\n\r\n"])
@pytest.mark.parametrize("request_line", [b"CONNECT a:1 HTTP/1.1", b"POST http://a/ HTTP/1.1"])
def test_what_follows_the_head_is_no_part_of_it(request_line: bytes, after: bytes) -> None:
    request = request_line + b"\r\nX: y\r\n\r\n"
    head = parse_head(request + after)
    assert head == parse_head(request)
    assert head is not None
    assert head.size == len(request)


REQUESTS = [
    b"CONNECT api.github.com:443 HTTP/1.1\r\nHost: api.github.com:443\r\nUser-Agent: x\r\n\r\n",
    b"CONNECT [::1]:443 HTTP/1.0\r\n\r\n\x16\x03\x01 and more",
    b"POST http://example.com:80/a HTTP/1.1\r\nContent-Length: 4\r\nConnection: x\r\n\r\nbody\r\n\r\n",
    b"!strange http://a HTTP/1.1\r\n\r\n",
    b"CONNECT a HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nX : y\r\n\r\n",
    b"\r\n\r\nCONNECT a:1 HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x05\x01\x00",
]


@pytest.mark.parametrize("request_bytes", REQUESTS)
def test_a_request_means_the_same_however_it_is_cut(request_bytes: bytes) -> None:
    whole = outcome(request_bytes)
    for cut in range(len(request_bytes) + 1):
        assert outcome_in_pieces(request_bytes[:cut], request_bytes[cut:]) == whole
    assert outcome_in_pieces(*(bytes([byte]) for byte in request_bytes)) == whole


PIECES = st.sampled_from(
    [b"CONNECT ", b"GET ", b"http://", b"a.b:443", b"[::1]:1", b" HTTP/1.1", b"\r\n", b"X: y", b"Connection: x", b" "]
)
NEARLY_REQUESTS = st.lists(PIECES | st.binary(max_size=4), max_size=12).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(NEARLY_REQUESTS | st.binary(max_size=200), st.data())
def test_any_bytes_mean_the_same_however_they_are_cut(request_bytes: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(request_bytes)))
    assert outcome_in_pieces(request_bytes[:cut], request_bytes[cut:]) == outcome(request_bytes)


LONG_RUNS = st.lists(
    st.tuples(
        st.sampled_from([b" ", b"\t", b"x", b":", b",", b".", b"/", b"\r\n", b"\r", b"\x00"]), st.integers(1, 900)
    ),
    min_size=1,
    max_size=5,
).map(lambda runs: b"".join(byte * count for byte, count in runs))


@settings(max_examples=100, deadline=timedelta(seconds=3))
@given(
    st.sampled_from([b"", b"CONNECT ", b"CONNECT a:1 HTTP/1.1\r\n", b"GET http://", b"GET http://a/ HTTP/1.1\r\nX:"]),
    LONG_RUNS,
)
@example(b"CONNECT a:1 HTTP/1.1\r\nX:", b" " * 2000 + b"\x00")
@example(b"CONNECT a:1 HTTP/1.1\r\nX:x", b" " * 12_000 + b"\x00")
@example(b"GET http://", b"a." * 8000)
def test_no_bytes_keep_the_proxy_busy(start: bytes, run: bytes) -> None:
    """One thread serves every runner of the host."""
    for end in (b"\r\n\r\n", b" HTTP/1.1\r\n\r\n", b""):
        outcome(start + run + end)


def test_while_a_head_is_not_complete_nothing_is_known() -> None:
    assert parse_head(b"") is None
    assert parse_head(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n") is None


@pytest.mark.parametrize(
    "start", [b"\x16\x03\x01\x02\x00", b"\x05\x01\x00", b"\x04\x01\x01\xbb", b"\x00", b"\r\n", b"GET /\r\n", b"{}"]
)
def test_another_protocol_is_refused_before_its_end_is_seen(start: bytes) -> None:
    with pytest.raises(BadHead, match=r"not an HTTP/1\.1 request"):
        parse_head(start)


def padded(size: int) -> bytes:
    """A request whose head, without the empty line at its end, has this size."""
    start, end = b"CONNECT a:1 HTTP/1.1\r\nX: ", b"\r\n\r\n"
    return start + b"x" * (size - len(start)) + end


def test_a_head_of_the_largest_size_is_taken_however_it_is_cut() -> None:
    request = padded(LARGEST_HEAD)
    assert isinstance(outcome(request), Head)
    for cut in range(len(request) - 6, len(request)):
        assert outcome_in_pieces(request[:cut], request[cut:]) == outcome(request)


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([padded(LARGEST_HEAD + 1)], id="complete"),
        pytest.param([padded(LARGEST_HEAD + 1)[:-4], b"\r\n\r\n"], id="complete in two pieces"),
        pytest.param([b"CONNECT a:1 HTTP/1.1\r\n", *[b"X: y\r\n" * 1000] * 6], id="header lines without an end"),
        pytest.param([b"GET http://a/", *[b"x" * 16_384] * 3], id="a line without an end"),
    ],
)
def test_a_head_that_is_too_large_is_answered_with_431(pieces: list[bytes]) -> None:
    assert outcome_in_pieces(*pieces) == (431, f"the request's head is larger than {LARGEST_HEAD} bytes")
