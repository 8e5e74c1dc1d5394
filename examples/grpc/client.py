"""Asks the health service through Lockgate: one answer, then an error with its gRPC status, then a stream."""

import pathlib
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

address = sys.argv[1] if len(sys.argv) > 1 else "localhost:8443"
ca = pathlib.Path(__file__).parent / "certs" / "ca.pem"
with grpc.secure_channel(address, grpc.ssl_channel_credentials(ca.read_bytes())) as channel:
    stub = health_pb2_grpc.HealthStub(channel)
    print("greeter:", stub.Check(health_pb2.HealthCheckRequest(service="greeter"), timeout=5))
    try:
        stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=5)
    except grpc.RpcError as error:
        print("nobody:", error.code())
    stream = stub.Watch(health_pb2.HealthCheckRequest(service="greeter"), timeout=5)
    print("stream:", next(stream))
    stream.cancel()
