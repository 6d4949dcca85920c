"""Asks for users over AMQP, as programs in Python do: msgpack bodies, reply_to and correlation_id.

Reads one JSON list of [operation, body] from standard input (body {"raw_hex": ...} is sent as these bytes, {"fill": N} as
N bytes of nothing), sends them all, and prints one line of JSON for each answer: [index, answer]. It ends when every
request has its answer, or after the patience given. Settings: the broker's URL, seconds of patience.
"""

import json
import sys
import uuid

import msgpack
import pika

url, patience = sys.argv[1], float(sys.argv[2])
requests = json.load(sys.stdin)
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
queue = channel.queue_declare("", exclusive=True).method.queue
waiting = {str(uuid.uuid4()): index for index in range(len(requests))}
open_ = set(waiting)


def on_answer(channel, method, properties, body):
    assert properties.correlation_id in waiting, properties.correlation_id
    print(json.dumps([waiting[properties.correlation_id], msgpack.unpackb(body, raw=False)]), flush=True)
    open_.discard(properties.correlation_id)
    if not open_:
        channel.stop_consuming()


channel.basic_consume(queue, on_answer, auto_ack=True)
for correlation, index in waiting.items():
    operation, body = requests[index]
    if isinstance(body, dict) and "raw_hex" in body:
        data = bytes.fromhex(body["raw_hex"])
    elif isinstance(body, dict) and "fill" in body:
        data = b"\xc0" * body["fill"]
    else:
        data = msgpack.packb(body, use_bin_type=True)
    properties = pika.BasicProperties(reply_to=queue, correlation_id=correlation)
    channel.basic_publish("amq.topic", f"rpc.user.{operation}", data, properties)
connection.call_later(patience, channel.stop_consuming)
channel.start_consuming()
connection.close()
