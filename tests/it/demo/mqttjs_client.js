// Joins the demo with MQTT.js, which MQTTX and zigbee2mqtt use: mqttjs_client.js PORT 5|4. Ends with 0 if everything was
// as it should be.
'use strict';

const assert = require('node:assert');
const mqtt = require('mqtt');

const [port, version] = [Number(process.argv[2]), Number(process.argv[3])];
const base = `house/mqttjs${version}`;

/** A connected client; what it receives and nobody has taken is in `client.got`. */
async function connect(clientId, will) {
  const options = { port, host: '127.0.0.1', clientId, will, protocolVersion: version, reconnectPeriod: 0 };
  const client = await mqtt.connectAsync(options);
  client.got = [];
  client.on('message', (topic, payload, packet) => {
    client.got.push({ topic, payload, qos: packet.qos, retain: packet.retain, properties: packet.properties });
    client.emit('got');
  });
  return client;
}

/** The message on `topic` with `payload`; others before it are passed over. */
async function expect(client, topic, payload) {
  for (;;) {
    while (client.got.length > 0) {
      const message = client.got.shift();
      if (message.topic === topic && message.payload.equals(Buffer.from(payload))) return message;
    }
    await new Promise((resolve) => client.once('got', resolve));
  }
}

async function join() {
  const me = await connect(`kitchen/${base}/me`);
  const other = await connect('z'.repeat(200) + version);

  await me.subscribeAsync('ilink/recv/user/+/text', { qos: 1 });
  await me.publishAsync('ilink/send/user/414/text', `hello from ${base}`, { qos: 1 });
  const echo = await expect(me, 'ilink/recv/user/414/text', `echo: hello from ${base}`);
  if (version === 5) {
    assert.equal(echo.properties.userProperties.from_uid, '414');
    await me.subscribeAsync('ilink/reply/mqttjs', { qos: 1 });
    const properties = { responseTopic: 'ilink/reply/mqttjs', correlationData: Buffer.from('no. 1') };
    await me.publishAsync('ilink/call/ham_group/list', '', { qos: 1, properties });
    await new Promise((resolve) => me.once('got', resolve));
    const reply = me.got.find((message) => message.topic === 'ilink/reply/mqttjs');
    assert.equal(JSON.parse(reply.payload).status, 'ok');
    assert.deepEqual(reply.properties.correlationData, Buffer.from('no. 1'));
  }

  await other.subscribeAsync(`${base}/+/qos/#`, { qos: 2 });
  for (const qos of [0, 1, 2]) {
    await me.publishAsync(`${base}/a/qos/${qos}`, `at ${qos}`, { qos });
    assert.equal((await expect(other, `${base}/a/qos/${qos}`, `at ${qos}`)).qos, qos);
  }

  await me.publishAsync(`${base}/state`, 'on', { qos: 1, retain: true });
  await other.subscribeAsync(`${base}/#`, { qos: 1 });
  assert((await expect(other, `${base}/state`, 'on')).retain);

  const large = Buffer.alloc(5_000_000, 'large ');
  await me.publishAsync(`${base}/large`, large, { qos: 1 });
  await expect(other, `${base}/large`, large);

  const lost = await connect(`${base}/lost`, { topic: `${base}/will`, payload: Buffer.from('gone'), qos: 1 });
  lost.stream.destroy();
  await expect(other, `${base}/will`, 'gone');

  await Promise.all([me.endAsync(), other.endAsync()]);
  console.log('all well');
}

join().catch((error) => {
  console.error(error);
  process.exit(1);
});
