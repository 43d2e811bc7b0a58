"""What can go wrong on a Docker host, by what the controller does about it."""


class EngineUnavailable(Exception):
    """The Docker engine does not answer: nothing can be started now, what runs may well run on."""


class CannotStart(Exception):
    """This runner cannot be started; the message says why, in words for an operator."""


class CannotResize(Exception):
    """The engine or the kernel refuses the new limits; the old ones stay."""


class ContainerGone(Exception):
    """There is no such container any more."""
