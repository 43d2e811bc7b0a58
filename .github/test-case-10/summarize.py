"""One table and one verdict from the receipts of the ten jobs.

usage: python3 summarize.py FOLDER   (exit code 1 when anything is missing or not as it should be)
"""

import json
import os
import sys
from pathlib import Path

JOBS = 10
HIGH_CPU_IS = 4


def read(folder):
    """The receipts, in the order of the jobs; a file that is none is left out, and missed."""
    receipts = []
    for path in sorted(folder.rglob("*.json")):
        try:
            receipt = json.loads(path.read_text())
        except ValueError:
            receipt = None
        if isinstance(receipt, dict) and "number" in receipt:
            receipts.append(receipt)
        else:
            print(f"::warning::{path.name} is no receipt")
    return sorted(receipts, key=lambda receipt: receipt["number"])


def fits(receipt):
    return (
        receipt["cpu_millis"] == receipt["wanted_cpu_millis"]
        and receipt["memory_bytes"] == receipt["wanted_memory_bytes"]
    )


def find_faults(receipts):
    """What is not as it should be, in words."""
    numbers = [receipt["number"] for receipt in receipts]
    for number in range(1, JOBS + 1):
        if numbers.count(number) != 1:
            yield f"job {number} left {'no receipt' if number not in numbers else 'several receipts'}"
    large = [receipt["number"] for receipt in receipts if receipt["profile"] == "high-cpu"]
    if large != [HIGH_CPU_IS]:
        yield f"high-cpu should be job {HIGH_CPU_IS} alone, and is {large or 'none'}"
    for receipt in receipts:
        if not fits(receipt):
            yield f"job {receipt['number']} ({receipt['job']}) had other limits than its profile {receipt['profile']}"
    runners = [receipt["runner"] for receipt in receipts if receipt["runner"]]
    for runner in sorted({runner for runner in runners if runners.count(runner) > 1}):
        yield f"runner {runner} ran more than one job"


def to_markdown(receipts, faults):
    lines = ["| # | job | profile | CPUs | memory | runner | |", "|---|---|---|---|---|---|---|"]
    for receipt in receipts:
        cpus = compare(receipt["cpu_millis"] / 1000, receipt["wanted_cpu_millis"] / 1000, "")
        memory = compare(receipt["memory_bytes"] / 2**20, receipt["wanted_memory_bytes"] / 2**20, " MiB")
        cells = (receipt["number"], receipt["job"], receipt["profile"], cpus, memory, receipt["runner"])
        lines.append(f"| {' | '.join(map(str, cells))} | {'✔' if fits(receipt) else '✘'} |")
    verdict = f"✔ {JOBS} of {JOBS} jobs had the limits of their profile, with one label for all of them."
    return "\n".join([*lines, "", *([f"✘ {fault}  " for fault in faults] or [verdict])]) + "\n"


def compare(seen, wanted, unit):
    text = f"{seen:g}{unit}" if seen else "no limit"
    return text if seen == wanted else f"**{text}** instead of {wanted:g}{unit}"


def main():
    receipts = read(Path(sys.argv[1]))
    faults = list(find_faults(receipts))
    report = to_markdown(receipts, faults)
    print(report)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(summary, "a", encoding="utf-8") as file:
            file.write(f"## Test case 10\n\n{report}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
