"""What can go wrong between us and Firestore, by what the caller should do about it."""


class StoreUnavailable(Exception):
    """Firestore did not answer, or not in time: try again later. Nothing is known about what was written."""


class StoreRefused(Exception):
    """Firestore answered that we may not, or that the request is wrong: trying again does not help."""


class Moved(Exception):
    """A guarded write lost: somebody else wrote first, or our own earlier attempt did. Read again, then decide."""


class Unreadable(StoreUnavailable):
    """Somebody has written something into a document that does not belong there; reconciling mends it."""
