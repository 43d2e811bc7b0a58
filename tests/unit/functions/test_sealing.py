"""JIT configs that only the right hosts can read."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from functions.documents.sealing import CannotOpen, SealedConfig, new_host_key, public_key_of, seal, unseal

KEY, OTHER_KEY = new_host_key(), new_host_key()
PUBLIC_KEYS = {"host-1": public_key_of(KEY), "host-2": public_key_of(OTHER_KEY)}
CONFIG = SecretStr("eyJhIjogIkpJVCBjb25maWcifQ==")


def opened(sealed: SealedConfig, host_id: str = "host-1", key: bytes = KEY) -> str:
    return unseal(sealed, host_id, key).get_secret_value()


@pytest.mark.parametrize(("host_id", "key"), [("host-1", KEY), ("host-2", OTHER_KEY)], ids=["host-1", "host-2"])
def test_every_host_that_a_config_is_sealed_to_can_open_it(host_id: str, key: bytes) -> None:
    assert opened(seal(CONFIG, PUBLIC_KEYS), host_id, key) == CONFIG.get_secret_value()


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_a_config_comes_out_as_it_went_in(config: str) -> None:
    assert opened(seal(SecretStr(config), PUBLIC_KEYS)) == config


def test_a_config_survives_its_way_through_firestore() -> None:
    fields = seal(CONFIG, PUBLIC_KEYS).to_firestore()
    assert opened(SealedConfig.from_firestore(fields)) == CONFIG.get_secret_value()


def test_a_host_that_a_config_was_not_sealed_to_cannot_open_it() -> None:
    with pytest.raises(CannotOpen, match="the JIT config was not sealed to host host-3"):
        opened(seal(CONFIG, PUBLIC_KEYS), "host-3")


def test_a_config_may_be_sealed_to_nobody() -> None:
    with pytest.raises(CannotOpen):
        opened(seal(CONFIG, {}))


@pytest.mark.parametrize(
    "key",
    [OTHER_KEY, new_host_key(), b"", KEY[:31], KEY + b"\0", bytes(32)],
    ids=["another host's", "a new one", "none", "one byte short", "one byte more", "zeros"],
)
def test_another_key_does_not_open_a_config(key: bytes) -> None:
    with pytest.raises(CannotOpen, match="the JIT config cannot be opened with the key of host host-1"):
        opened(seal(CONFIG, PUBLIC_KEYS), "host-1", key)


@pytest.mark.parametrize("part", ["ciphertext", "key"])
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_damaged_config_does_not_open(part: str, data: st.DataObject) -> None:
    sealed = seal(CONFIG, PUBLIC_KEYS)
    whole = sealed.ciphertext if part == "ciphertext" else sealed.keys["host-1"]
    at = data.draw(st.integers(0, len(whole) - 1))
    flipped = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    for damaged in (flipped, whole[:at]):
        changed = {"ciphertext": damaged} if part == "ciphertext" else {"keys": {"host-1": damaged}}
        with pytest.raises(CannotOpen):
            opened(sealed.model_copy(update=changed))


def test_a_sealed_config_shows_nothing_of_the_config() -> None:
    sealed = seal(CONFIG, PUBLIC_KEYS)
    assert CONFIG.get_secret_value().encode() not in sealed.ciphertext + b"".join(sealed.keys.values())
    assert CONFIG.get_secret_value() not in f"{sealed!r} {sealed} {unseal(sealed, 'host-1', KEY)!r}"


def test_the_same_config_never_looks_the_same_twice() -> None:
    first, second = seal(CONFIG, PUBLIC_KEYS), seal(CONFIG, PUBLIC_KEYS)
    assert first.ciphertext != second.ciphertext
    assert first.keys["host-1"] != second.keys["host-1"]


def test_host_keys_are_32_bytes_and_never_the_same() -> None:
    assert {len(key) for key in (KEY, OTHER_KEY, *PUBLIC_KEYS.values())} == {32}
    assert len({KEY, OTHER_KEY, *PUBLIC_KEYS.values()}) == 4
