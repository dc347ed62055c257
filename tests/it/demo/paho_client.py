"""Joins the demo with paho-mqtt: paho_client.py PORT 5|3.1.1. Ends with 0 if everything was as it should be."""

import queue
import socket
import sys

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

PORT, V5 = int(sys.argv[1]), sys.argv[2] == "5"
BASE = f"house/paho{'5' if V5 else '311'}"
LIMIT = 30


def connect(client_id, will=None):
    """A connected client; what it receives is in `client.got`."""
    version = paho.MQTTv5 if V5 else paho.MQTTv311
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=version)
    client.got, connected, client.granted = queue.Queue(), queue.Queue(), queue.Queue()
    client.on_message = lambda _client, _data, message: client.got.put(message)
    client.on_connect = lambda _client, _data, _flags, reason, _properties: connected.put(reason)
    client.on_subscribe = lambda _client, _data, _id, reasons, _properties: client.granted.put(reasons)
    if will:
        client.will_set(*will)
    client.connect("127.0.0.1", PORT)
    client.loop_start()
    reason = connected.get(timeout=LIMIT)
    assert not reason.is_failure, reason
    return client


def subscribe(client, topic, qos):
    """Subscribes and waits until that is granted."""
    client.subscribe(topic, options=SubscribeOptions(qos=qos)) if V5 else client.subscribe(topic, qos)
    granted = client.granted.get(timeout=LIMIT)
    assert [reason.value for reason in granted] == [qos], granted


def expect(client, topic, payload):
    """The message on `topic` with `payload`; others before it are passed over."""
    while True:
        message = client.got.get(timeout=LIMIT)
        if message.topic == topic and message.payload == payload:
            return message


# Ids with slashes, and long ones.
me = connect(f"living room/{BASE}/me")
other = connect("x" * 200 + BASE.replace("/", "-"))

# The demo: a message to the contact that echoes, and a call.
subscribe(me, "ilink/recv/+/414/#", 1)
me.publish("ilink/send/user/414/text", f"hello from {BASE}", qos=1)
echo = expect(me, "ilink/recv/user/414/text", f"echo: hello from {BASE}".encode())
if V5:
    assert echo.properties.ContentType == "text/plain; charset=utf-8", echo.properties
    assert dict(echo.properties.UserProperty)["from_uid"] == "414", echo.properties
    asked = Properties(PacketTypes.PUBLISH)
    asked.ResponseTopic, asked.CorrelationData = "ilink/reply/paho", b"no. 1"
    subscribe(me, "ilink/reply/paho", 1)
    me.publish("ilink/call/ham_group/list", "", qos=1, properties=asked)
    reply = me.got.get(timeout=LIMIT)
    while reply.topic != "ilink/reply/paho":
        reply = me.got.get(timeout=LIMIT)
    assert b'"status":"ok"' in reply.payload and reply.properties.CorrelationData == b"no. 1", reply.payload

# Each quality of service, through a wildcard; each message once.
subscribe(other, f"{BASE}/+/qos/#", 2)
for qos in (0, 1, 2):
    me.publish(f"{BASE}/a/qos/{qos}", f"at {qos}", qos=qos).wait_for_publish(LIMIT)
    message = other.got.get(timeout=LIMIT)
    assert (message.topic, message.payload, message.qos) == (f"{BASE}/a/qos/{qos}", f"at {qos}".encode(), qos)

# Retained: kept, told to who comes later, and cleared.
me.publish(f"{BASE}/state", "on", qos=1, retain=True).wait_for_publish(LIMIT)
subscribe(other, f"{BASE}/state", 1)
assert expect(other, f"{BASE}/state", b"on").retain
me.publish(f"{BASE}/state", "", qos=1, retain=True).wait_for_publish(LIMIT)
assert not expect(other, f"{BASE}/state", b"").retain
subscribe(me, f"{BASE}/#", 1)
me.publish(f"{BASE}/mark", "x", qos=1)
assert me.got.get(timeout=LIMIT).topic == f"{BASE}/mark", "a cleared message was kept"

# A payload of 5 MB.
large = bytes(range(250)) * 20_000
me.publish(f"{BASE}/large", large, qos=1)
expect(me, f"{BASE}/large", large)

# The last will of one whose connection breaks.
lost = connect(f"{BASE}/lost", will=(f"{BASE}/will", "gone", 1, False))
lost.loop_stop()
lost.socket().shutdown(socket.SHUT_RDWR)
expect(me, f"{BASE}/will", b"gone")

for client in (me, other):
    client.disconnect()
    client.loop_stop()
print("all well")
