#!/bin/sh
# Where GitHub's image keeps its run.sh, with the same way in: ACTIONS_RUNNER_INPUT_JITCONFIG.
exec python3 -ISE /opt/standin/runner.py "$@"
