"""The cases of gRPC's interoperability tests on grpcio, client and server, without protobuf.

A message is a line of JSON, and the bytes of its payload behind it. `serve` runs the test service; `call ADDRESS [CA]`
plays each case, over TLS if there is a CA, and tells which passed, one a line.
"""

import json
import queue
import sys
import threading
import time
from concurrent import futures

import grpc

# Sizes and texts are those of the cases' descriptions.
LARGE_ASKED, LARGE_ANSWERED = 271_828, 314_159
STREAM_ASKED, STREAM_ANSWERED = (27_182, 8, 1_828, 45_904), (31_415, 9, 2_653, 58_979)
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n"
ECHO, ECHO_BIN = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"
SERVICE = "/grpc.testing.TestService/"
OPTIONS = (("grpc.max_receive_message_length", 16 << 20),)


def message(body=b"", **fields):
    return json.dumps(fields).encode() + b"\n" + body


def parts(whole):
    line, _, body = whole.partition(b"\n")
    return json.loads(line), body


def echo_metadata(context):
    for name, value in context.invocation_metadata():
        if name == ECHO:
            context.send_initial_metadata(((name, value),))
        if name == ECHO_BIN:
            context.set_trailing_metadata(((name, value),))


def answer(asked, context):
    fields, _ = parts(asked)
    if "code" in fields:
        context.set_code(next(code for code in grpc.StatusCode if code.value[0] == fields["code"]))
        context.set_details(fields["text"])
    if fields.get("compressed") is False:
        context.disable_next_message_compression()
    time.sleep(fields.get("pause", 0))
    return message(bytes(fields.get("size", 0)))


def empty_call(asked, _context):
    assert asked == b""
    return b""


def unary_call(asked, context):
    echo_metadata(context)
    return answer(asked, context)


def streaming_input_call(asked, _context):
    return message(total=sum(len(parts(one)[1]) for one in asked))


def streaming_output_call(asked, context):
    for size in parts(asked)[0]["sizes"]:
        yield answer(message(size=size), context)


def full_duplex_call(asked, context):
    echo_metadata(context)
    for one in asked:
        yield answer(one, context)


HANDLERS = {
    "EmptyCall": grpc.unary_unary_rpc_method_handler(empty_call),
    "UnaryCall": grpc.unary_unary_rpc_method_handler(unary_call),
    "StreamingInputCall": grpc.stream_unary_rpc_method_handler(streaming_input_call),
    "StreamingOutputCall": grpc.unary_stream_rpc_method_handler(streaming_output_call),
    "FullDuplexCall": grpc.stream_stream_rpc_method_handler(full_duplex_call),
}


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(64), options=OPTIONS, compression=grpc.Compression.Gzip)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.testing.TestService", HANDLERS),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print("port", port, flush=True)
    server.wait_for_termination()


class Client:
    def __init__(self, address, ca):
        self.address, self.ca = address, ca
        self.channel = self.dial()

    def dial(self):
        if self.ca is None:
            return grpc.insecure_channel(self.address, OPTIONS)
        with open(self.ca, "rb") as file:
            trusted = grpc.ssl_channel_credentials(file.read())
        return grpc.secure_channel(self.address, trusted, (*OPTIONS, ("grpc.ssl_target_name_override", "localhost")))

    def unary(self, name="UnaryCall", service=SERVICE):
        return self.channel.unary_unary(service + name)

    def duplex(self):
        return self.channel.stream_stream(SERVICE + "FullDuplexCall")


def code_of(call, *arguments, **named):
    try:
        list(call(*arguments, **named))
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError("no error")


def ask(size):
    return message(bytes(LARGE_ASKED), size=size)


def is_large(answered, size=LARGE_ANSWERED):
    assert parts(answered)[1] == bytes(size)


def one_by_one(calls, sizes):
    """Feeds a call one message after the answer to the one before."""
    asked_next = queue.Queue()
    answers = calls(iter(asked_next.get, None))
    for asked, answered in sizes:
        asked_next.put(message(bytes(asked), size=answered))
        assert len(parts(next(answers))[1]) == answered
    asked_next.put(None)
    return answers


def empty_unary(client):
    assert client.unary("EmptyCall")(b"", timeout=10) == b""


def large_unary(client):
    is_large(client.unary()(ask(LARGE_ANSWERED), timeout=10))


def client_compressed_unary(client):
    for compression in (grpc.Compression.Gzip, grpc.Compression.NoCompression, grpc.Compression.Deflate):
        is_large(client.unary()(ask(LARGE_ANSWERED), timeout=10, compression=compression))


def server_compressed_unary(client):
    for compressed in (True, False):
        is_large(client.unary()(message(size=LARGE_ANSWERED, compressed=compressed), timeout=10))


def client_streaming(client, compression=None):
    call = client.channel.stream_unary(SERVICE + "StreamingInputCall")
    asked = (message(bytes(size)) for size in STREAM_ASKED)
    assert parts(call(asked, timeout=10, compression=compression))[0]["total"] == 74_922


def client_compressed_streaming(client):
    client_streaming(client, grpc.Compression.Gzip)


def server_streaming(client):
    call = client.channel.unary_stream(SERVICE + "StreamingOutputCall")
    answers = call(message(sizes=STREAM_ANSWERED), timeout=10)
    assert [len(parts(one)[1]) for one in answers] == list(STREAM_ANSWERED)


def server_compressed_streaming(client):
    answers = client.duplex()(
        iter([message(size=31_415, compressed=True), message(size=92_653, compressed=False)]), timeout=10
    )
    assert [len(parts(one)[1]) for one in answers] == [31_415, 92_653]


def ping_pong(client):
    answers = one_by_one(client.duplex(), zip(STREAM_ASKED, STREAM_ANSWERED))
    assert list(answers) == [] and answers.code() == grpc.StatusCode.OK


def empty_stream(client):
    answers = client.duplex()(iter(()), timeout=10)
    assert list(answers) == [] and answers.code() == grpc.StatusCode.OK


def custom_metadata(client):
    sent = ((ECHO, "test_initial_metadata_value"), (ECHO_BIN, b"\xab\xab\xab"))
    answered, unary = client.unary().with_call(ask(LARGE_ANSWERED), metadata=sent, timeout=10)
    duplex = client.duplex()(iter([ask(LARGE_ANSWERED)]), metadata=sent, timeout=10)
    for one in (answered, *duplex):
        is_large(one)
    for call in (unary, duplex):
        assert dict(call.initial_metadata())[ECHO] == sent[0][1]
        assert dict(call.trailing_metadata())[ECHO_BIN] == sent[1][1]


def status_code_and_message(client):
    asked, expected = message(code=2, text="test status message"), (grpc.StatusCode.UNKNOWN, "test status message")
    assert code_of(client.unary(), asked, timeout=10) == expected
    assert code_of(client.duplex(), iter([asked]), timeout=10) == expected


def special_status_message(client):
    told = code_of(client.unary(), message(code=2, text=SPECIAL), timeout=10)
    assert told == (grpc.StatusCode.UNKNOWN, SPECIAL), told


def unimplemented_method(client):
    assert code_of(client.unary("UnimplementedCall"), b"", timeout=10)[0] == grpc.StatusCode.UNIMPLEMENTED


def unimplemented_service(client):
    call = client.unary("UnimplementedCall", "/grpc.testing.UnimplementedService/")
    assert code_of(call, b"", timeout=10)[0] == grpc.StatusCode.UNIMPLEMENTED


def cancel_after_begin(client):
    hold = threading.Event()

    def nothing():
        hold.wait(10)
        yield from ()

    call = client.channel.stream_unary(SERVICE + "StreamingInputCall").future(nothing())
    call.cancel()
    hold.set()
    assert call.cancelled() and call.code() == grpc.StatusCode.CANCELLED


def cancel_after_first_response(client):
    answers = one_by_one(client.duplex(), [(27_182, 31_415)])
    answers.cancel()
    try:
        list(answers)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.CANCELLED
    assert answers.code() == grpc.StatusCode.CANCELLED


def timeout_on_sleeping_server(client):
    told = code_of(client.duplex(), iter([message(bytes(27_182), pause=1)]), timeout=0.05)
    assert told[0] == grpc.StatusCode.DEADLINE_EXCEEDED, told


def concurrent_large_unary(client):
    calls = [client.unary().future(ask(LARGE_ANSWERED), timeout=20) for _ in range(50)]
    for call in calls:
        is_large(call.result())


def rpc_soak(client):
    for _ in range(100):
        large_unary(client)


def channel_soak(client):
    for _ in range(20):
        client.channel.close()
        client.channel = client.dial()
        large_unary(client)


CASES = (
    empty_unary, large_unary, client_compressed_unary, server_compressed_unary, client_streaming,
    client_compressed_streaming, server_streaming, server_compressed_streaming, ping_pong, empty_stream, custom_metadata,
    status_code_and_message, special_status_message, unimplemented_method, unimplemented_service, cancel_after_begin,
    cancel_after_first_response, timeout_on_sleeping_server, concurrent_large_unary, rpc_soak, channel_soak,
)  # fmt: skip


def call(address, ca):
    client, passed = Client(address, ca), 0
    for case in CASES:
        try:
            case(client)
        except Exception as error:  # a case may fail in any way, and the others are wanted too
            print("failed", case.__name__, repr(error))
        else:
            passed += 1
            print("passed", case.__name__)
    print("passed", passed, "of", len(CASES))


if sys.argv[1] == "serve":
    serve()
else:
    call(sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None)
