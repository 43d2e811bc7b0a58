"""A proxy before the Firestore emulator that counts what is billed: documents read, written and deleted.

What counts as a read is in Firestore's price list: each document that an answer holds, or that is asked for and
missing; at least one for a query; with a listener, each document that is added, changed, or leaves the result because
it was changed. Writes of a commit that was refused are not billed.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.cloud.firestore_v1 import types

_THREADS = 64
_STREAMED = {"BatchGetDocuments", "RunQuery"}
_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass
class Bill:
    """What was counted, by collection."""

    reads: Counter[str] = field(default_factory=Counter)
    writes: Counter[str] = field(default_factory=Counter)
    deletes: Counter[str] = field(default_factory=Counter)
    commits: int = 0
    """that were tried"""
    commits_lost: int = 0
    """of them refused: somebody else was first, or a document was there already"""


class CountingProxy(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Passes calls on as they are, and looks at them on the way."""

    def __init__(self, emulator: str):
        self._channel = grpc.insecure_channel(emulator, options=_OPTIONS)
        self._lock = threading.Lock()
        self._bill = Bill()

    def take_bill(self) -> Bill:
        """What was counted since it was last asked for."""
        with self._lock:
            bill, self._bill = self._bill, Bill()
        return bill

    def service(self, handler_call_details: Any) -> Any:
        """How grpc asks for the handler of a call."""
        method = handler_call_details.method
        name = method.rpartition("/")[2]
        if name == "Listen":
            return grpc.stream_stream_rpc_method_handler(self._pass_stream(self._channel.stream_stream(method), name))
        if name in _STREAMED:
            return grpc.unary_stream_rpc_method_handler(self._pass_stream(self._channel.unary_stream(method), name))
        return grpc.unary_unary_rpc_method_handler(self._pass_call(self._channel.unary_unary(method), name))

    def _pass_call(self, call: Any, name: str) -> Callable[[Any, Any], Any]:
        def handle(request: bytes, context: Any) -> Any:
            try:
                answer = call(request, metadata=context.invocation_metadata())
            except grpc.RpcError as error:
                if name == "Commit":
                    self._count_commit(request, has_landed=False)
                _refuse(context, error)
                return b""
            if name == "Commit":
                self._count_commit(request, has_landed=True)
            return answer

        return handle

    def _pass_stream(self, call: Any, name: str) -> Callable[[Any, Any], Iterator[bytes]]:
        def handle(request: Any, context: Any) -> Iterator[bytes]:
            answers = call(request, metadata=context.invocation_metadata())
            context.add_callback(answers.cancel)
            read = _READERS[name]()
            documents = 0
            try:
                for answer in answers:
                    found = read(answer)
                    documents += len(found)
                    self._count_reads(found)
                    yield answer
                if name == "RunQuery" and not documents:
                    query = types.RunQueryRequest.deserialize(request).structured_query
                    self._count_reads([f"{query.from_[0].collection_id}/none"])
            except grpc.RpcError as error:
                _refuse(context, error)

        return handle

    def _count_commit(self, request: bytes, *, has_landed: bool) -> None:
        writes = types.CommitRequest.pb().FromString(request).writes
        with self._lock:
            self._bill.commits += 1
            self._bill.commits_lost += not has_landed
            for write in writes if has_landed else ():
                if write.delete:
                    self._bill.deletes[_collection(write.delete)] += 1
                else:
                    self._bill.writes[_collection(write.update.name or write.transform.document)] += 1

    def _count_reads(self, documents: Iterable[str]) -> None:
        with self._lock:
            self._bill.reads.update(map(_collection, documents))


Reader = Callable[[bytes], Sequence[str]]
"""The documents that are billed as read with an answer."""


def _read_batch(answer: bytes) -> Sequence[str]:
    message = types.BatchGetDocumentsResponse.pb().FromString(answer)
    return [name] if (name := message.found.name or message.missing) else []


def _read_query(answer: bytes) -> Sequence[str]:
    name = types.RunQueryResponse.pb().FromString(answer).document.name
    return [name] if name else []


class _Listener:
    """What changes in a listener's result. The emulator sends all of it again with every change; Firestore does not."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}
        self._again: dict[str, Any] | None = None
        """what has been sent again so far"""

    def __call__(self, answer: bytes) -> Sequence[str]:
        message = types.ListenResponse.pb().FromString(answer)
        document = message.document_change.document
        if message.target_change.target_change_type == types.TargetChange.TargetChangeType.RESET:
            self._again = {}
        elif document.name and self._again is not None:
            self._again[document.name] = document.update_time
        elif document.name:
            self._known[document.name] = document.update_time
            return [document.name]
        elif message.target_change.target_change_type == types.TargetChange.TargetChangeType.CURRENT:
            return self._compare()
        return []

    def _compare(self) -> Sequence[str]:
        if self._again is None:
            return []
        before, self._known, self._again = self._known, self._again, None
        return [name for name in before.keys() | self._known.keys() if before.get(name) != self._known.get(name)]


_READERS: dict[str, Callable[[], Reader]] = {
    "BatchGetDocuments": lambda: _read_batch,
    "RunQuery": lambda: _read_query,
    "Listen": _Listener,
}


def _collection(document: str) -> str:
    return document.split("/")[-2]


def _refuse(context: Any, error: Any) -> None:
    context.set_code(error.code())
    context.set_details(error.details())
    context.set_trailing_metadata(error.trailing_metadata() or ())


@contextmanager
def counting_proxy(emulator: str) -> Iterator[tuple[str, CountingProxy]]:
    """The `host:port` of a proxy before an emulator, and the proxy itself."""
    proxy = CountingProxy(emulator)
    server = grpc.server(ThreadPoolExecutor(_THREADS), handlers=[proxy], options=_OPTIONS)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", proxy
    finally:
        server.stop(grace=None)
