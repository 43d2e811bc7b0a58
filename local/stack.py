"""Everything that Runyard needs, on one machine: GitHub (simulated), the function, a controller. For demo and tests."""

import json
import os
import secrets
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from .processes import Process, accepts_connections, free_port

ROOT = Path(__file__).parent.parent
GITHUB_HOST_NAME = "github.simulated.test"
APP_ID = "12345"
SCHEDULER, RECONCILE_AUDIENCE = "scheduler@local.iam.gserviceaccount.com", "runyard-reconcile"
_START_WITHIN_S = 30.0


@dataclass(frozen=True)
class StackOptions:
    """What differs from one use to the next."""

    folder: Path
    """logs, certificates, keys, sockets"""
    project: str
    """a Firestore project of its own, so that several stacks can share an emulator"""
    emulator_host: str
    docker_host: str
    host_id: str = "demo-host"
    cpus: str = "2"
    memory: str = "4g"
    network_range: str = "10.213.0.0/16"
    bridge_prefix: str = "runyard"
    hand_out: str = "random"
    seed: int = 1
    webhook_content_type: str = "json"
    users: str = ""
    """owners that are users; comma-separated"""
    has_webhook: bool = True
    """GitHub has a webhook to the function from the start"""
    is_app: bool = False
    """the function signs in as a GitHub App instead of with a token"""
    function_environment: Mapping[str, str] = field(default_factory=dict)
    controller_settings: Mapping[str, Any] = field(default_factory=dict)


class Stack:
    """Starts the parts and knows where they are."""

    def __init__(self, options: StackOptions):
        self.options = options
        self.github_port = free_port()
        self.control_port = free_port()
        self.function_port = free_port()
        self.proxy_port = free_port()
        self.gate_port = free_port()
        self.commands_port = free_port()
        self.reconcile_port = free_port()
        self.webhook_secret = secrets.token_hex(16)
        self.github_token = "ghp_" + secrets.token_hex(20)
        self._environment = {
            "GOOGLE_CLOUD_PROJECT": options.project,
            "FIRESTORE_EMULATOR_HOST": options.emulator_host,
            # google-auth would otherwise look for a metadata server.
            "NO_GCE_CHECK": "true",
        }
        options.folder.mkdir(parents=True, exist_ok=True)

    def beside(self, host_id: str, network_range: str, bridge_prefix: str) -> "Stack":
        """A further Docker host of the same GitHub, project and engine: only its controller is to be started."""
        folder = self.options.folder / host_id
        options = replace(
            self.options, folder=folder, host_id=host_id, network_range=network_range, bridge_prefix=bridge_prefix
        )
        other = Stack(options)
        other.github_port = self.github_port
        other.authority.write_bytes(self.authority.read_bytes())
        return other

    @property
    def proxy_log(self) -> Path:
        return self.options.folder / "connections.log"

    @property
    def function_url(self) -> str:
        return f"http://127.0.0.1:{self.function_port}/"

    @property
    def github_url(self) -> str:
        return f"https://127.0.0.1:{self.github_port}"

    @property
    def authority(self) -> Path:
        """The certificate authority of the simulated GitHub."""
        return self.options.folder / "authority.pem"

    def start_github(self) -> Process:
        folder = self.options.folder
        (folder / "webhook.secret").write_text(self.webhook_secret)
        (folder / "github.token").write_text(self.github_token)
        arguments = {
            "--folder": folder,
            "--host-name": GITHUB_HOST_NAME,
            "--port": self.github_port,
            "--control-port": self.control_port,
            "--webhook-url": self.function_url if self.options.has_webhook else "",
            "--webhook-secret-file": folder / "webhook.secret",
            "--webhook-content-type": self.options.webhook_content_type,
            "--token-file": folder / "github.token",
            "--hand-out": self.options.hand_out,
            "--seed": self.options.seed,
            "--users": self.options.users,
        }
        if self.options.is_app:
            arguments |= {"--app-id": APP_ID, "--app-public-key": self._make_app_key()}
        command = [sys.executable, "-m", "simulator", *(str(word) for pair in arguments.items() for word in pair)]
        return self._start("github", command, self.control_port, {})

    def start_function(self, target: str = "github_webhook", port: int | None = None) -> Process:
        """One of the functions, as the cloud starts it; on its own port when several run."""
        port = port or self.function_port
        command = [str(Path(sys.executable).parent / "functions-framework")]
        name = "function" if port == self.function_port else f"function-{target}-{port}"
        return self._start(name, command, port, self.function_environment(target, port))

    def function_environment(
        self, target: str, port: int, source: Path = ROOT / "functions" / "main.py"
    ) -> dict[str, str]:
        """What the cloud gives one of the functions, besides the variables of the machine."""
        return {
            **self._environment,
            "FUNCTION_TARGET": target,
            "FUNCTION_SOURCE": str(source),
            "FUNCTION_USE_ASGI": "true",
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "GITHUB_WEBHOOK_SECRET": self.webhook_secret,
            "GITHUB_API_URL": self.github_url,
            **self._credentials(),
            "GITHUB_OIDC_ISSUER": self.github_url,
            "GITHUB_WEBHOOK_URL": self.function_url,
            "RECONCILE_CALLER": SCHEDULER,
            "RECONCILE_AUDIENCE": RECONCILE_AUDIENCE,
            "RECONCILE_ISSUER": self.github_url,
            "RECONCILE_GRACE_S": "1",
            "SSL_CERT_FILE": str(self.authority),
            **self.options.function_environment,
        }

    def start_reconcile(self) -> Process:
        """The function that heals what was lost."""
        return self.start_function("reconcile", self.reconcile_port)

    def reconcile(self) -> dict[str, Any]:
        """Calls it as the scheduler does in the cloud, with a token for the scheduler's account; its report."""
        claims = {"email": SCHEDULER, "email_verified": True}
        order = {"audience": RECONCILE_AUDIENCE, "repository": "none/none", "run_id": 1, "claims": claims}
        token = self.control("POST", "/oidc-token", order)["token"]
        url = f"http://127.0.0.1:{self.reconcile_port}/"
        request = urllib.request.Request(url, b"", {"Authorization": f"Bearer {token}"}, method="POST")
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310 - our own function
            report: dict[str, Any] = json.loads(response.read())
        return report

    def start_commands(self) -> Process:
        """The function that does what controllers ask for."""
        return self.start_function("commands", self.commands_port)

    def start_triggers(self) -> Process:
        """What calls it when a command is written, as Firestore's triggers do in the cloud."""
        port = free_port()
        url = f"http://127.0.0.1:{self.commands_port}/"
        command = [sys.executable, "-m", "local.triggers", "commands", url, str(port)]
        return self._start("triggers", command, port, self._environment)

    def _credentials(self) -> dict[str, str]:
        if not self.options.is_app:
            return {"GITHUB_TOKEN": self.github_token}
        private_key = (self.options.folder / "app.key").read_text()
        return {"GITHUB_APP_ID": APP_ID, "GITHUB_APP_PRIVATE_KEY": private_key}

    def _make_app_key(self) -> Path:
        """An App's key pair; the path of the public part."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem, public = serialization.Encoding.PEM, self.options.folder / "app.pub"
        (self.options.folder / "app.key").write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
        )
        public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
        return public

    def start_controller(self) -> Process:
        config = self.write_controller_config()
        command = [str(Path(sys.executable).parent / "runyard"), "run", "--config", str(config)]
        return self._start("controller", command, self.gate_port, self._environment)

    def write_controller_config(self) -> Path:
        options = self.options
        settings = {
            "host_id": options.host_id,
            "project": options.project,
            "docker_host": options.docker_host,
            "capacity": {"cpus": options.cpus, "memory": options.memory},
            "state_dir": str(options.folder / "state"),
            "run_dir": str(options.folder / "run"),
            "ca_file": str(self.authority),
            "network": {"range": options.network_range, "bridge_prefix": options.bridge_prefix},
            "proxy": {
                "port": self.proxy_port,
                "log_file": str(self.proxy_log),
                "hosts": {GITHUB_HOST_NAME: "127.0.0.1"},
                "private_targets": [f"{GITHUB_HOST_NAME}:{self.github_port}"],
            },
            "gate": {"port": self.gate_port},
            **options.controller_settings,
        }
        path = options.folder / f"{options.host_id}.yaml"
        path.write_text(yaml.safe_dump(settings, sort_keys=False))
        return path

    def _start(self, name: str, command: Sequence[str], port: int, environment: Mapping[str, str]) -> Process:
        process = Process(name, command, self.options.folder / f"{name}.log", environment)
        process.wait_until(lambda: accepts_connections(port), _START_WITHIN_S)
        return process

    @contextmanager
    def running(self) -> Iterator["Stack"]:
        """All parts, stopped again in the opposite order."""
        with ExitStack() as parts:
            starts = (
                self.start_github,
                self.start_function,
                self.start_commands,
                self.start_triggers,
                self.start_controller,
            )
            for start in starts:
                process = start()
                parts.callback(process.stop)
            yield self

    def control(self, method: str, path: str, body: object = None) -> Any:
        """Steers the simulated GitHub."""
        payload = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.control_port}{path}", payload, method=method)
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - our own server
            content = response.read()
        return json.loads(content) if content else None

    def dispatch(
        self, repository: str, jobs: Sequence[Mapping[str, Any]], workflow: str = "ci"
    ) -> list[dict[str, Any]]:
        """Starts a workflow run; the queued jobs."""
        queued: list[dict[str, Any]] = self.control(
            "POST", "/dispatch", {"repository": repository, "workflow": workflow, "jobs": list(jobs)}
        )
        return queued

    def github_state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.control("GET", "/state")
        return state


def local_environment() -> None:
    """What a developer's machine may have set must not lead a local stack to the real Google Cloud."""
    os.environ.pop("GOOGLE_APPLICATION_CREDENTIALS", None)
