"""A gRPC echo without generated code: `server` says its port and serves until its input ends; `client PORT` talks to it."""

import sys
import threading
from concurrent import futures

import grpc

cancelled = threading.Event()


def unary(request, context):
    context.send_initial_metadata((("x-initial", "yes"),))
    if request == b"fail":
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "asked to")
    if request == b"was one cancelled?":
        return b"yes" if cancelled.wait(5) else b"no"
    context.set_trailing_metadata((("x-sum", str(len(request))), ("x-said-bin", b"\x00\xff")))
    return request


def both_ways(requests, context):
    context.add_callback(lambda: None if context.is_active() else None)
    for request in requests:
        if request == b"wait":
            context.add_callback(cancelled.set)
        yield request


class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == "/echo/Unary":
            return grpc.unary_unary_rpc_method_handler(unary)
        if details.method == "/echo/Both":
            return grpc.stream_stream_rpc_method_handler(both_ways)
        return None


OPTIONS = [("grpc.max_receive_message_length", 1 << 26), ("grpc.max_send_message_length", 1 << 26)]


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(16), handlers=[Echo()], options=OPTIONS)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(0)


def talk(port):
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS)
    one, both = channel.unary_unary("/echo/Unary"), channel.stream_stream("/echo/Both")
    answer, call = one.with_call(b"hello", timeout=5)
    trailing = dict(call.trailing_metadata())
    assert answer == b"hello" and dict(call.initial_metadata())["x-initial"] == "yes"
    assert trailing["x-sum"] == "5" and trailing["x-said-bin"] == b"\x00\xff", trailing
    large = b"x" * (8 << 20)
    assert one(large, timeout=5) == large
    for request, path, code in [
        (b"fail", "/echo/Unary", grpc.StatusCode.INVALID_ARGUMENT),
        (b"", "/echo/None", grpc.StatusCode.UNIMPLEMENTED),
    ]:
        try:
            channel.unary_unary(path)(request, timeout=5)
            raise AssertionError(path)
        except grpc.RpcError as error:
            assert error.code() == code, error
    messages = [str(number).encode() * 100 for number in range(1000)]
    assert list(both(iter(messages), timeout=8)) == messages

    # An answer to each message before the next is sent: nothing on the way may wait for more.
    said = threading.Semaphore(1)

    def turns():
        for number in range(20):
            said.acquire()
            yield str(number).encode()

    for number, answer in enumerate(both(turns(), timeout=5)):
        assert answer == str(number).encode()
        said.release()

    def waits():
        yield b"wait"
        threading.Event().wait(5)

    stream = both(waits())
    assert next(stream) == b"wait"
    stream.cancel()
    assert one(b"was one cancelled?", timeout=8) == b"yes"
    print("done")


if sys.argv[1] == "server":
    serve()
else:
    talk(int(sys.argv[2]))
