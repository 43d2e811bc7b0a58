#!/bin/sh
# Starts the runner program with the JIT config that the controller writes to standard input.
# The config is a secret: it goes from the attached input into the environment of this one process, and is never in the
# container's configuration, in an argument or on disk. The runner takes it out of its environment when it has read it.
IFS= read -r ACTIONS_RUNNER_INPUT_JITCONFIG || exit 78
export ACTIONS_RUNNER_INPUT_JITCONFIG
exec "$@" </dev/null
