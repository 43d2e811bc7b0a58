"""Which deliveries are GitHub's."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from functions.webhook.signature import HEADER, find_fault, sign

# GitHub docs, "Validating webhook deliveries": the test values of that page.
SECRET = SecretStr("It's a Secret to Everybody")
BODY = b"Hello, World!"
SIGNATURE = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
DIGEST = SIGNATURE.removeprefix("sha256=")

OTHER = SecretStr("the next secret")


def test_githubs_own_example_is_signed_as_github_does() -> None:
    assert sign(BODY, SECRET) == SIGNATURE


def test_the_signature_is_looked_for_where_github_puts_it() -> None:
    assert HEADER == "X-Hub-Signature-256"


def test_githubs_own_example_is_accepted() -> None:
    assert find_fault(BODY, SIGNATURE, [SECRET]) is None


@pytest.mark.parametrize(
    "secrets", [[SECRET, OTHER], [OTHER, SECRET], [OTHER, OTHER, SECRET]], ids=["first", "second", "last"]
)
def test_while_secrets_rotate_any_of_them_may_have_signed(secrets: list[SecretStr]) -> None:
    assert find_fault(BODY, SIGNATURE, secrets) is None


@pytest.mark.parametrize("secrets", [[], [OTHER], [SecretStr("")]], ids=["none", "another", "empty"])
def test_a_signature_of_an_unknown_secret_is_refused(secrets: list[SecretStr]) -> None:
    assert find_fault(BODY, SIGNATURE, secrets) == "the signature does not match: check the webhook's secret"


@pytest.mark.parametrize("body", [b"", b"Hello, World", BODY + b"\n", BODY.lower()], ids=repr)
def test_any_other_body_is_refused(body: bytes) -> None:
    assert find_fault(body, SIGNATURE, [SECRET]) == "the signature does not match: check the webhook's secret"


def test_a_webhook_without_a_secret_is_told_to_have_one() -> None:
    assert find_fault(BODY, None, [SECRET]) == f"the {HEADER} header is missing: give the webhook a secret"


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("", id="empty"),
        pytest.param("sha256=", id="no digest"),
        pytest.param(DIGEST, id="no prefix"),
        pytest.param(f"sha1={DIGEST}", id="another algorithm"),
        pytest.param(f"SHA256={DIGEST}", id="prefix in capitals"),
        pytest.param(f"sha512={DIGEST}", id="a prefix of the same length"),
        pytest.param(SIGNATURE[:-1], id="one digit short"),
        pytest.param(SIGNATURE + "0", id="one digit more"),
        pytest.param(f" {SIGNATURE}", id="a space before it"),
        pytest.param(f"{SIGNATURE}, {SIGNATURE}", id="two signatures"),
    ],
)
def test_a_header_of_another_form_is_called_malformed(header: str) -> None:
    assert find_fault(BODY, header, [SECRET]) == f"the {HEADER} header is malformed"


@pytest.mark.parametrize(
    "digest",
    [
        pytest.param(DIGEST.upper(), id="digits in capitals"),
        pytest.param("é" * 64, id="bytes beyond ASCII, as servers decode them"),
        pytest.param("\udcff" * 64, id="bytes that are no text"),
        pytest.param("\x00" * 64, id="control characters"),
        pytest.param("0" * 64, id="zeros"),
    ],
)
def test_a_header_of_the_right_length_with_a_wrong_digest_is_refused(digest: str) -> None:
    assert find_fault(BODY, f"sha256={digest}", [SECRET]) == "the signature does not match: check the webhook's secret"


def test_secrets_and_bodies_beyond_ascii_are_signed_as_utf_8() -> None:
    body, secret = "größe ✓".encode(), SecretStr("schlüssel ✓")
    assert sign(body, secret) == "sha256=1ddb758fbc54ca30246fb25b842e8d02d0857a4dd9cd4ffe09703ad069553674"


# HMAC fills a short key with zeros, so a secret is worth as much with them as without.
SECRETS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=64)


@settings(max_examples=100, deadline=None)
@given(st.binary(), SECRETS, SECRETS)
def test_what_one_secret_has_signed_only_that_secret_accepts(body: bytes, ours: str, theirs: str) -> None:
    header = sign(body, SecretStr(ours))
    assert find_fault(body, header, [SecretStr(ours)]) is None
    assert (find_fault(body, header, [SecretStr(theirs)]) is None) is (ours == theirs)


@settings(max_examples=100, deadline=None)
@given(st.integers(min_value=0, max_value=len(BODY) * 8 - 1))
def test_a_single_changed_bit_is_noticed(bit: int) -> None:
    changed = bytearray(BODY)
    changed[bit // 8] ^= 1 << bit % 8
    assert find_fault(bytes(changed), SIGNATURE, [SECRET]) is not None


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters()) | st.text(st.characters(), min_size=64, max_size=64).map("sha256={}".format))
def test_no_header_makes_the_check_itself_fail(header: str) -> None:
    assert find_fault(BODY, header, [SECRET]) is not None
