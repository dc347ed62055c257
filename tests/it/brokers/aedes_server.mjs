// aedes as a broker of its own: aedes_server.mjs AEDES_JS PORT.
import { createServer } from 'node:net';
import { pathToFileURL } from 'node:url';

const [aedes, port] = process.argv.slice(2);
const { Aedes } = await import(pathToFileURL(aedes));
const broker = await Aedes.createBroker();
createServer(broker.handle).listen(Number(port), '127.0.0.1');
