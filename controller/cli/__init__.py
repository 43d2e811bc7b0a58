"""The commands of `runyard` that are for people."""
