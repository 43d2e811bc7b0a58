"""Runs benchmarks, all or by name: `python -m benchmarks [NAME…]`."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Every module here that can be run by itself."""
    mark = 'if __name__ == "__main__":'
    return sorted(path.stem for path in FOLDER.glob("[!_]*.py") if mark in path.read_text())


def main(wanted: list[str]) -> int:
    """Each in a process of its own; 1 when any has missed a target, 2 for a name that there is not."""
    known = names()
    if unknown := sorted(set(wanted) - set(known)):
        print(f"there is no benchmark {', '.join(unknown)}: known are {', '.join(known)}", file=sys.stderr)
        return 2
    codes = [subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False) for name in wanted or known]
    return 1 if any(code.returncode for code in codes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
