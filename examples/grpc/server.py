"""A gRPC server that offers the standard health service. Needs grpcio and grpcio-health-checking."""

from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
service = health.HealthServicer()
service.set("greeter", health_pb2.HealthCheckResponse.SERVING)
health_pb2_grpc.add_HealthServicer_to_server(service, server)
server.add_insecure_port("127.0.0.1:50051")
server.start()
server.wait_for_termination()
