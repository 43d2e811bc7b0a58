"""CPU and memory as people write them, and as whole numbers: millicpus and bytes."""

import re
from decimal import Decimal

_MEMORY = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>[bkmgt]?)", re.IGNORECASE)
_BYTES_PER_UNIT = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_LARGEST = (1 << 63) - 1
"""the largest whole number that Firestore keeps"""
_MISSPELT_UNIT = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[kmgt])i?b?", re.IGNORECASE)


def parse_cpus(text: object) -> int:
    """Millicpus of `"4"`, `0.5`, `"1.5"` or `"500m"`.

    Raises:
        ValueError: it is none of these, not positive, absurdly large, or finer than a thousandth of a CPU.
    """
    written = str(text).strip()
    if written.endswith("m") and written[:-1].isdecimal():
        millis = Decimal(written[:-1])
    else:
        try:
            millis = Decimal(written) * 1000
        except ArithmeticError:
            raise ValueError(f"cpus '{written}': write a number of CPUs, such as 2 or 0.5") from None
    if not millis.is_finite() or millis <= 0:
        raise ValueError(f"cpus '{written}': must be more than 0")
    if millis > _LARGEST:
        raise ValueError(f"cpus '{written}': more than any machine has")
    if millis != int(millis):
        raise ValueError(f"cpus '{written}': at most three decimal places")
    return int(millis)


def parse_memory(text: object) -> int:
    """Bytes of `"8g"`, `"512m"` or `1073741824`; units are powers of 1024, as Docker's are.

    Raises:
        ValueError: it is none of these, not positive or absurdly large; the message offers a correction.
    """
    written = str(text).strip()
    match = _MEMORY.fullmatch(written)
    if match is None:
        near = _MISSPELT_UNIT.fullmatch(written)
        hint = f"write {near['number']}{near['unit'].lower()}" if near else "write a size such as 512m or 8g"
        raise ValueError(f"memory '{written}': {hint}")
    size = int(Decimal(match["number"]) * _BYTES_PER_UNIT[match["unit"].lower()])
    if size <= 0:
        raise ValueError(f"memory '{written}': must be more than 0")
    if size > _LARGEST:
        raise ValueError(f"memory '{written}': more than any machine has")
    return size


def format_cpus(cpu_millis: int) -> str:
    """`"0.5"` for 500 millicpus."""
    return f"{Decimal(cpu_millis) / 1000:f}"


def format_memory(memory_bytes: int) -> str:
    """`"8g"` for 8 GiB: the largest unit that loses nothing, else bytes."""
    if memory_bytes == 0:
        return "0"
    for unit in ("t", "g", "m", "k"):
        if memory_bytes % _BYTES_PER_UNIT[unit] == 0:
            return f"{memory_bytes // _BYTES_PER_UNIT[unit]}{unit}"
    return str(memory_bytes)


_DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>[smhd]?)")
_SECONDS_PER_UNIT = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: object) -> int:
    """Seconds of `"6h"`, `"90m"`, `"30s"`, `"1d"` or `300`.

    Raises:
        ValueError: it is none of these; the message offers a correction.
    """
    written = str(text).strip().lower()
    match = _DURATION.fullmatch(written)
    if match is None:
        raise ValueError(f"duration '{written}': write a number of seconds, or 30s, 90m, 6h, 1d")
    seconds = Decimal(match["number"]) * _SECONDS_PER_UNIT[match["unit"]]
    if seconds > _LARGEST:
        raise ValueError(f"duration '{written}': longer than anything lasts")
    return int(seconds)
