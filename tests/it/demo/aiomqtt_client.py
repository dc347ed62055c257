"""Joins the demo with aiomqtt: aiomqtt_client.py PORT. Ends with 0 if everything was as it should be."""

import asyncio
import socket
import sys

import aiomqtt

PORT = int(sys.argv[1])
BASE = "house/aiomqtt"
LIMIT = 60


def client(identifier, will=None):
    """A client of MQTT 5, which aiomqtt's users choose for Home Assistant and the like."""
    return aiomqtt.Client("127.0.0.1", PORT, identifier=identifier, protocol=aiomqtt.ProtocolVersion.V5, will=will)


async def expect(messages, topic, payload):
    """The message on `topic` with `payload`; others before it are passed over."""
    async for message in messages:
        if message.topic.value == topic and message.payload == payload:
            return message
    raise AssertionError(f"the connection ended before {topic}")


async def join():
    """Everything, one step after the other."""
    async with client("hall/aiomqtt/1") as me, client("y" * 200) as other:
        mine, others = me.messages.__aiter__(), other.messages.__aiter__()
        await me.subscribe("ilink/recv/user/+/text", qos=1)
        await me.publish("ilink/send/user/414/text", "hello from aiomqtt", qos=1)
        await expect(mine, "ilink/recv/user/414/text", b"echo: hello from aiomqtt")

        await other.subscribe(f"{BASE}/#", qos=2)
        for qos in (0, 1, 2):
            await me.publish(f"{BASE}/qos/{qos}", f"at {qos}", qos=qos)
            message = await expect(others, f"{BASE}/qos/{qos}", f"at {qos}".encode())
            assert message.qos == qos, message.qos

        await me.publish(f"{BASE}/state", "on", qos=1, retain=True)
        await me.subscribe(f"{BASE}/+", qos=1)
        assert (await expect(mine, f"{BASE}/state", b"on")).retain

        large = bytes(range(250)) * 20_000
        await me.publish(f"{BASE}/large", large, qos=2)
        await expect(others, f"{BASE}/large", large)

        lost = client(f"{BASE}/lost", aiomqtt.Will(f"{BASE}/will", "gone", qos=1))
        await lost.__aenter__()
        # Its connection breaks: never left in order, it says no DISCONNECT. aiomqtt has no public way to be so rude.
        lost._client.socket().shutdown(socket.SHUT_RDWR)
        await expect(others, f"{BASE}/will", b"gone")


asyncio.run(asyncio.wait_for(join(), LIMIT))
print("all well")
