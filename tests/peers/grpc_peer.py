"""A gRPC service and its client, without protobuf: messages are plain bytes.

`serve` runs the service; `kinds|error|deadline|down|nowhere ADDRESS CA` calls it and tells what came, one fact a line.
"""

import sys
import threading
import time
from concurrent import futures

import grpc

BIG = bytes(range(256)) * 12_000  # 3 MB, below what grpcio takes by default


def unary(message, context):
    context.send_initial_metadata((("x-first", "initial"),))
    context.set_trailing_metadata((("x-last", "trailing"), ("x-last-bin", b"\x00\xff\x01")))
    return message


def server_stream(message, _context):
    for number in range(int(message)):
        yield b"%d" % number


def client_stream(messages, _context):
    return b"%d" % sum(int(message) for message in messages)


def both_streams(messages, _context):
    for message in messages:
        yield b"again " + message


def error(_message, context):
    context.set_trailing_metadata((("x-last", "trailing"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: 50 % of \u00fc")


def late_error(_message, context):
    yield b"one"
    yield b"two"
    context.abort(grpc.StatusCode.DATA_LOSS, "after two")


def slow(_message, context):
    ended = threading.Event()
    context.add_callback(ended.set)
    if ended.wait(10):
        print("the slow call was ended", flush=True)
    return b"late"


KINDS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "BothStreams": grpc.stream_stream_rpc_method_handler(both_streams),
    "Error": grpc.unary_unary_rpc_method_handler(error),
    "LateError": grpc.unary_stream_rpc_method_handler(late_error),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
}


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("peers.Test", KINDS),))
    print("port", server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


def tell_error(name, call):
    try:
        answer = call()
        print(name, "answered", answer)
    except grpc.RpcError as failed:
        print(name, failed.code().name, repr(failed.details()))
        print(name, "trailers", dict(failed.trailing_metadata() or ()).get("x-last"))


def kinds(channel):
    call = channel.unary_unary("/peers.Test/Unary")
    answer, info = call.with_call(b"hello", timeout=20, metadata=(("x-ours", "1"),))
    trailers = dict(info.trailing_metadata())
    print("unary", answer, info.code().name)
    print("initial", dict(info.initial_metadata()).get("x-first"))
    print("trailing", trailers.get("x-last"), trailers.get("x-last-bin"))
    print("big", call(BIG, timeout=20) == BIG)
    print("empty", call(b"", timeout=20))
    answers = channel.unary_stream("/peers.Test/ServerStream")(b"1000", timeout=20)
    print("server stream", sum(1 for _ in answers), answers.code().name)
    numbers = (b"%d" % number for number in range(1000))
    print("client stream", channel.stream_unary("/peers.Test/ClientStream")(numbers, timeout=20))
    ping_pong(channel)
    calls = [call.future(b"%d" % number, timeout=20) for number in range(200)]
    print("at once", sum(int(one.result()) for one in calls))


def ping_pong(channel):
    """Says the next thing only when the last one has come back: nothing on the way may wait for more."""
    back = threading.Semaphore(1)

    def say():
        for number in range(50):
            back.acquire()
            yield b"%d" % number

    heard = 0
    answers = channel.stream_stream("/peers.Test/BothStreams")(say(), timeout=20)
    for number, answer in enumerate(answers):
        assert answer == b"again %d" % number
        heard += 1
        back.release()
    print("both streams", heard, answers.code().name)


def errors(channel):
    tell_error("error", lambda: channel.unary_unary("/peers.Test/Error")(b"", timeout=20))
    tell_error("unknown", lambda: channel.unary_unary("/peers.Test/Nothing")(b"", timeout=20))
    answers = channel.unary_stream("/peers.Test/LateError")(b"", timeout=20)
    tell_error("late", lambda: [print("late", answer) for answer in answers])


def deadline(channel):
    began = time.monotonic()
    tell_error("slow", lambda: channel.unary_unary("/peers.Test/Slow")(b"", timeout=0.7))
    print("in time", time.monotonic() - began < 5)


def down(channel):
    tell_error("down", lambda: channel.unary_unary("/peers.Test/Unary")(b"", timeout=20))
    answers = channel.unary_stream("/peers.Test/ServerStream")(b"3", timeout=20)
    tell_error("down stream", lambda: list(answers))


def nowhere(channel):
    tell_error("nowhere", lambda: channel.unary_unary("/nobody.Knows/It")(b"", timeout=20))
    tell_error("sluggish", lambda: channel.unary_unary("/peers.Test/Slow")(b"", timeout=20))


if sys.argv[1] == "serve":
    serve()
else:
    scenario, address, ca = sys.argv[1:4]
    # The certificate is for this name; the address is told as one, so that nothing is looked up.
    options = (("grpc.ssl_target_name_override", "localhost"), ("grpc.enable_http_proxy", 0))
    with open(ca, "rb") as file:
        secret = grpc.ssl_channel_credentials(file.read())
    with grpc.secure_channel(address, secret, options) as open_channel:
        {"kinds": kinds, "error": errors, "deadline": deadline, "down": down, "nowhere": nowhere}[
            scenario
        ](open_channel)
