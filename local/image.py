"""Builds the stand-in runner's image from this machine's own Python and busybox, without any registry."""

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
import docker.errors

IMAGE = "runyard-standin-runner"
_RUNNER = Path(__file__).parent.parent / "simulator" / "runner"
_RUNNER_UID = 1001
_SETUID_SHELL = Path("/bin/dash")
_LEFT_OUT = {"dist-packages", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages"}
_LEFT_OUT |= {"test", "tests", "tkinter", "turtledemo", "unittest"}
_ETC = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nrunner:x:1001:1001:runner:/home/runner:/bin/sh\n",
    "etc/group": "root:x:0:\nrunner:x:1001:\n",
    "etc/os-release": 'NAME="Runyard stand-in runner"\n',
}


class CannotBuild(Exception):
    """Something that the image is made of is missing; the message says what to install."""


def ensure_image(client: docker.APIClient) -> str:
    """The image's name; it is built only if there is none of exactly this content yet."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise CannotBuild("busybox is missing: apt-get install busybox-static")
    name = f"{IMAGE}:{_fingerprint(Path(busybox))}"
    try:
        client.inspect_image(name)
    except docker.errors.ImageNotFound:
        changes = ["USER runner", "WORKDIR /home/runner", "ENV PATH=/usr/local/bin:/bin"]
        repository, _, tag = name.partition(":")
        client.import_image_from_data(_build(Path(busybox)), repository=repository, tag=tag, changes=changes)
    client.tag(name, IMAGE, "latest")
    return IMAGE


def _fingerprint(busybox: Path) -> str:
    digest = hashlib.sha256()
    for path in (Path(__file__), *sorted(_RUNNER.iterdir()), busybox):
        if path.is_file():
            digest.update(path.read_bytes())
    digest.update(sys.version.encode())
    return digest.hexdigest()[:12]


def _build(busybox: Path) -> bytes:
    """A tar of the whole file system; owners and times are fixed, so that the same input gives the same layer."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in ("bin", "etc", "home", "lib", "opt", "proc", "sys", "usr/local/bin"):
            _add_folder(tar, folder)
        _add_folder(tar, "tmp", mode=0o1777)
        _add_folder(tar, "home/runner", owner=_RUNNER_UID)
        for name, text in _ETC.items():
            _add(tar, name, text.encode())
        _add_busybox(tar, busybox)
        _add_setuid_shell(tar)
        _add_python(tar)
        _add(tar, "home/runner/run.sh", (_RUNNER / "run.sh").read_bytes(), mode=0o755)
        _add(tar, "opt/standin/runner.py", (_RUNNER / "runner.py").read_bytes())
    return buffer.getvalue()


def _add_busybox(tar: tarfile.TarFile, busybox: Path) -> None:
    _add(tar, "bin/busybox", busybox.read_bytes(), mode=0o755)
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            _add_link(tar, f"bin/{applet}", "busybox")


def _add_setuid_shell(tar: tarfile.TarFile) -> None:
    """A stand-in for sudo: `setuid-sh -p -c …` runs as root exactly where sudo would work."""
    _add(tar, "bin/setuid-sh", _SETUID_SHELL.read_bytes(), mode=0o4755)


def _add_python(tar: tarfile.TarFile) -> None:
    """The interpreter, its standard library and every shared library that they are linked with."""
    interpreter = Path(os.path.realpath(sys.executable))
    standard_library = Path(sysconfig.get_path("stdlib"))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    _add(tar, "usr/local/bin/python3", interpreter.read_bytes(), mode=0o755)
    modules = list(_files_below(standard_library))
    for path in modules:
        # With their times, or Python would not take the compiled files for up to date.
        name = f"usr/local/lib/{version}/{path.relative_to(standard_library)}"
        _add(tar, name, path.read_bytes(), time=int(path.stat().st_mtime))
    extensions = [path for path in modules if path.suffix == ".so"]
    for library in sorted(_shared_libraries([interpreter, *extensions, _SETUID_SHELL])):
        _add(tar, str(library).lstrip("/"), library.read_bytes(), mode=0o755)


def _files_below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name in _LEFT_OUT or path.name.startswith("config-") or path.is_symlink():
            continue
        if path.is_dir():
            yield from _files_below(path)
        elif path.suffix != ".a" and ".opt-" not in path.name:
            yield path


def _shared_libraries(binaries: list[Path]) -> set[Path]:
    listing = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout
    return {Path(found) for found in re.findall(r"(/\S+\.so\S*) \(0x", listing)}


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644, time: int = 0) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(content), mode, time
    tar.addfile(entry, io.BytesIO(content))


def _add_folder(tar: tarfile.TarFile, name: str, mode: int = 0o755, owner: int = 0) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, mode, owner, owner
    tar.addfile(entry)


def _add_link(tar: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    tar.addfile(entry)
