"""A provider that knows nothing but a schema: it stands in for Google's, which a test cannot always get, nor let loose.

Terraform itself checks names, types and numbers of arguments and blocks against the schema, and computes everything
that a configuration can tell; here only those values are checked that the schema's descriptions list. To apply creates
nothing, and fills what Google would compute with placeholders that name where they come from. Terraform is told of it
by TF_REATTACH_PROVIDERS, which is how providers are debugged.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import msgpack

SCHEMA = Path(__file__).parent / "google-provider.json"
SOURCE = "registry.terraform.io/hashicorp/google"
_UNKNOWN = msgpack.ExtType(0, b"")
"""how Terraform writes a value that is known only after an apply"""
_LARGEST_MESSAGE = 64 << 20
_messages, _services = grpc.protos_and_services("tests/terraform/plugin.proto")

Block = Mapping[str, Any]


def read_schemas() -> dict[str, Any]:
    """What `terraform providers schema -json` says of the provider, cut to what is used here."""
    schemas: dict[str, Any] = json.loads(SCHEMA.read_text())["provider_schemas"][SOURCE]
    return schemas


class StandInProvider:
    """Answers Terraform."""

    def __init__(self, schemas: Mapping[str, Any]):
        self._schemas = schemas

    def GetSchema(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's names
        return _messages.GetProviderSchema.Response(
            provider=_schema(self._schemas["provider"]),
            resource_schemas={name: _schema(schema) for name, schema in self._schemas["resource_schemas"].items()},
            data_source_schemas={
                name: _schema(schema) for name, schema in self._schemas["data_source_schemas"].items()
            },
        )

    def PrepareProviderConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        return _messages.PrepareProviderConfig.Response(prepared_config=request.config)

    def Configure(self, request: Any, context: Any) -> Any:  # noqa: N802
        return _messages.Configure.Response()

    def ValidateResourceTypeConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        block = self._schemas["resource_schemas"][request.type_name]["block"]
        faults = find_wrong_values(block, _decode(request.config.msgpack))
        return _messages.Validate.Response(
            diagnostics=[_messages.Diagnostic(severity="ERROR", summary=fault) for fault in faults]
        )

    def PlanResourceChange(self, request: Any, context: Any) -> Any:  # noqa: N802
        block = self._schemas["resource_schemas"][request.type_name]["block"]
        planned = _with_unknowns(block, _decode(request.proposed_new_state.msgpack))
        return _messages.PlanResourceChange.Response(planned_state=_encode(planned))

    def ApplyResourceChange(self, request: Any, context: Any) -> Any:  # noqa: N802
        block = self._schemas["resource_schemas"][request.type_name]["block"]
        planned = _decode(request.planned_state.msgpack)
        created = _with_placeholders(block, planned, _handle(planned))
        return _messages.ApplyResourceChange.Response(new_state=_encode(created))

    def Stop(self, request: Any, context: Any) -> Any:  # noqa: N802
        return _messages.Stop.Response()


@contextmanager
def running_provider(schemas: Mapping[str, Any], socket: Path) -> Iterator[str]:
    """Serves on a Unix socket; the value for TF_REATTACH_PROVIDERS."""
    limits = [("grpc.max_receive_message_length", _LARGEST_MESSAGE), ("grpc.max_send_message_length", _LARGEST_MESSAGE)]
    server = grpc.server(futures.ThreadPoolExecutor(), options=limits)
    _services.add_ProviderServicer_to_server(StandInProvider(schemas), server)
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    address = {"Network": "unix", "String": str(socket)}
    try:
        yield json.dumps({SOURCE: {"Protocol": "grpc", "ProtocolVersion": 5, "Pid": 1, "Test": True, "Addr": address}})
    finally:
        server.stop(None).wait()


def find_wrong_values(block: Block, value: Mapping[str, Any]) -> Iterator[str]:
    """A line for each argument whose value is not among those that the schema's description lists."""
    for name, attribute in block["attributes"].items():
        known = attribute.get("x-values")
        if known and isinstance(value.get(name), str) and value[name] not in known:
            yield f'{name} = "{value[name]}": expected one of {", ".join(known)}'
    for name, nested in block.get("block_types", {}).items():
        for inner in _inner_values(nested, value.get(name)):
            yield from find_wrong_values(nested["block"], inner)


def _with_unknowns(block: Block, value: Mapping[str, Any]) -> dict[str, Any]:
    """A planned value: what the provider will compute, and nobody has given, is not known yet."""
    unknown = {
        name: _UNKNOWN
        for name, attribute in block["attributes"].items()
        if attribute.get("computed") and value.get(name) is None
    }
    return {**value, **unknown, **_map_blocks(block, value, _with_unknowns)}


def _with_placeholders(block: Block, value: Mapping[str, Any], handle: str) -> dict[str, Any]:
    """A created value: what was not known is made up."""
    made_up = {
        name: _placeholder(attribute["type"], f"{handle}/{name}")
        for name, attribute in block["attributes"].items()
        if isinstance(value.get(name), msgpack.ExtType)
    }
    inner = _map_blocks(block, value, lambda nested, item: _with_placeholders(nested, item, handle))
    return {**value, **made_up, **inner}


def _map_blocks(
    block: Block, value: Mapping[str, Any], change: Callable[[Block, Mapping[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for name, nested in block.get("block_types", {}).items():
        inner = value.get(name)
        if isinstance(inner, list):
            changed[name] = [change(nested["block"], item) for item in inner]
        elif isinstance(inner, Mapping):
            changed[name] = change(nested["block"], inner)
    return changed


def _handle(value: Mapping[str, Any]) -> str:
    """What tells a resource from its like."""
    of_kind = ("account", "role", "secret", "repository", "workload_identity_pool_provider", "workload_identity_pool")
    keys = (*(f"{kind}_id" for kind in of_kind), "name")
    return next((value[key] for key in keys if isinstance(value.get(key), str)), "unnamed")


def _placeholder(kind: Any, text: str) -> Any:
    simple = {"string": text, "number": 1, "bool": False}
    if isinstance(kind, str):
        return simple[kind]
    return {} if kind[0] == "map" else []


def _inner_values(nested: Block, value: Any) -> Iterator[Mapping[str, Any]]:
    candidates = [value] if nested["nesting_mode"] == "single" else value if isinstance(value, list) else []
    return (candidate for candidate in candidates if isinstance(candidate, Mapping))


def _decode(encoded: bytes) -> dict[str, Any]:
    value: dict[str, Any] = msgpack.unpackb(encoded, strict_map_key=False)
    return value


def _encode(value: Mapping[str, Any]) -> Any:
    return _messages.DynamicValue(msgpack=msgpack.packb(value))


def _schema(schema: Mapping[str, Any]) -> Any:
    return _messages.Schema(version=schema["version"], block=_block(schema["block"]))


def _block(block: Block) -> Any:
    attributes = [
        _messages.Schema.Attribute(
            name=name,
            type=json.dumps(attribute["type"]).encode(),
            **{flag: attribute.get(flag, False) for flag in ("required", "optional", "computed")},
        )
        for name, attribute in block["attributes"].items()
    ]
    nested = [
        _messages.Schema.NestedBlock(
            type_name=name,
            block=_block(inner["block"]),
            nesting=inner["nesting_mode"].upper(),
            min_items=inner.get("min_items", 0),
            max_items=inner.get("max_items", 0),
        )
        for name, inner in block.get("block_types", {}).items()
    ]
    return _messages.Schema.Block(attributes=attributes, block_types=nested)
