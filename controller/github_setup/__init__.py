"""Setting up GitHub, for `runyard github`. It runs on an operator's machine: a controller has no access to GitHub."""
