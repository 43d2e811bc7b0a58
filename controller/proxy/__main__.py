"""`python -m controller.proxy --config FILE`: `runyard proxy`, which need not import what the proxy has no use for.

When the proxy has to be started again, runners wait for it.
"""

import argparse
import os
import sys
from pathlib import Path

from ..settings import SettingsError, read_settings
from .process import CannotServe, serve


def main() -> None:
    parser = argparse.ArgumentParser(prog="runyard proxy")
    parser.add_argument("--config", type=Path, required=True)
    try:
        serve(read_settings(parser.parse_args().config, os.environ))
    except (SettingsError, CannotServe) as error:
        sys.exit(f"runyard: {error}")


if __name__ == "__main__":
    main()
