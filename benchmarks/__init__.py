"""Measurements: ours beside a peer or the floor, on the same machine, in turns."""
