"""CPU and memory as people write them."""

import pytest

from functions.routing.units import format_cpus, format_memory, parse_cpus, parse_memory


@pytest.mark.parametrize(
    ("written", "millis"),
    [("4", 4000), (0.5, 500), ("1.5", 1500), ("500m", 500), (2, 2000), ("0.125", 125), ("16", 16000)],
)
def test_cpus_become_millicpus(written: object, millis: int) -> None:
    assert parse_cpus(written) == millis


@pytest.mark.parametrize(
    ("written", "correction"),
    [
        ("four", "write a number of CPUs"),
        ("0", "more than 0"),
        (-1, "more than 0"),
        ("0.0001", "three decimal places"),
        ("nan", "more than 0"),
        ("Infinity", "more than 0"),
        ("", "write a number"),
    ],
)
def test_bad_cpus_are_refused_with_a_correction(written: object, correction: str) -> None:
    with pytest.raises(ValueError, match=correction):
        parse_cpus(written)


@pytest.mark.parametrize(
    ("written", "size"),
    [("8g", 8 << 30), ("512m", 512 << 20), ("1.5G", 3 << 29), (1048576, 1 << 20), ("64k", 65536), ("10b", 10)],
)
def test_memory_becomes_bytes_in_powers_of_1024(written: object, size: int) -> None:
    assert parse_memory(written) == size


@pytest.mark.parametrize(
    ("written", "correction"),
    [("2gb", "write 2g"), ("2GiB", "write 2g"), ("4 g", "write 4g"), ("much", "such as 512m"), ("0", "more than 0")],
)
def test_bad_memory_is_refused_with_a_correction(written: str, correction: str) -> None:
    with pytest.raises(ValueError, match=correction):
        parse_memory(written)


@pytest.mark.parametrize("text", ["8g", "512m", "3k", "1t"])
def test_memory_is_shown_as_it_was_written(text: str) -> None:
    assert format_memory(parse_memory(text)) == text


@pytest.mark.parametrize(("millis", "text"), [(4000, "4"), (500, "0.5"), (100, "0.1"), (1250, "1.25")])
def test_cpus_are_shown_without_useless_digits(millis: int, text: str) -> None:
    assert format_cpus(millis) == text
