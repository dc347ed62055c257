"""The bridge's entities in a real Home Assistant, checked by their states; see `live`.

All servers are on loopback, on free ports, and end with this script. The MQTT integration is set up by its config entry in
`.storage`, and the API is used with a long-lived token made in the same way: nobody has to click.
"""

import base64
import contextlib
import json
import pathlib
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import jwt

UID, ANN, GROUP, SUBJECT = "414", "413", "4cdad356-85b4-008627", "home/lamp"
NOW = "2026-01-01T00:00:00+00:00"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def until(what, look, limit=120):
    """The first thing that `look` finds."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, KeyError):
            found = look()
            if found:
                print(f"ok {what}", flush=True)
                return found
        time.sleep(0.2)
    sys.exit(f"waited {limit} s for {what}")


def fetch(url, body=None, token=None):
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=20) as answer:
        return answer.read()


class World:
    """The processes, each with its log in the directory."""

    def __init__(self, program, directory):
        self.program, self.dir, self.running = program, directory, []
        self.broker, self.sim, self.home = free_port(), free_port(), free_port()

    def start(self, name, *command):
        log = open(self.dir / f"{name}.log", "ab")
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.dir)
        self.running.append(process)
        return process

    def stop(self, process):
        process.terminate()
        process.wait(60)
        self.running.remove(process)

    def stop_all(self):
        for process in reversed(self.running):
            process.terminate()
        for process in self.running:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()

    def start_mosquitto(self):
        conf = self.dir / "mosquitto.conf"
        conf.write_text(f"listener {self.broker} 127.0.0.1\nallow_anonymous true\n")
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        self.start("mosquitto", program, "-c", str(conf))

    def start_sim(self):
        listen = f"127.0.0.1:{self.sim}"
        self.start("sim", self.program, "sim", "--listen", listen, "--appkey", "A", "--secretkey", "S")
        until("the simulated iLink", lambda: fetch(f"http://{listen}/sim/state"))

    def start_bridge(self):
        callback, admin = free_port(), free_port()
        (self.dir / "config.toml").write_text(
            f"""
state_dir = "{self.dir}/state"
ilink = {{ api = "http://127.0.0.1:{self.sim}", appkey = "A", secretkey = "S", uid = "{UID}", subscribe.presence = ["{ANN}"] }}
callback = {{ listen = "127.0.0.1:{callback}", public_url = "http://127.0.0.1:{callback}" }}
mqtt.broker = "mqtt://127.0.0.1:{self.broker}"
admin.listen = "127.0.0.1:{admin}"
[homeassistant]
enabled = true
contacts = [
  {{ uid = "{ANN}", name = "Ann" }},
  {{ group = "{GROUP}", name = "Family" }},
  {{ subject = "{SUBJECT}", name = "Lamp" }},
]
"""
        )
        bridge = self.start("bridge", self.program, "--config", str(self.dir / "config.toml"), "run")
        until("the bridge", lambda: fetch(f"http://127.0.0.1:{admin}/readyz"))
        return bridge

    def start_home_assistant(self):
        home = self.dir / "home"
        (home / ".storage").mkdir(parents=True)
        (home / "configuration.yaml").write_text(
            f"http:\n  server_host: 127.0.0.1\n  server_port: {self.home}\napi:\nlogger:\n  default: warning\n"
        )
        entry = {
            "created_at": NOW, "modified_at": NOW, "entry_id": "0" * 26, "domain": "mqtt", "title": "broker",
            "version": 1, "minor_version": 2, "source": "user", "unique_id": None, "disabled_by": None,
            "discovery_keys": {}, "subentries": [], "options": {"discovery": True, "discovery_prefix": "homeassistant"},
            "pref_disable_new_entities": False, "pref_disable_polling": False,
            "data": {"broker": "127.0.0.1", "port": self.broker},
        }  # fmt: skip
        key, user, refresh = secrets.token_hex(32), "1" * 32, "2" * 32
        auth = {
            "users": [{"id": user, "group_ids": ["system-admin"], "is_owner": True, "is_active": True, "name": "test",
                       "system_generated": False, "local_only": False}],
            "groups": [{"id": "system-admin", "name": "Administrators"}],
            "credentials": [],
            "refresh_tokens": [{
                "id": refresh, "user_id": user, "client_id": None, "client_name": "test", "client_icon": None,
                "token_type": "long_lived_access_token", "created_at": NOW, "access_token_expiration": 315360000.0,
                "token": secrets.token_hex(32), "jwt_key": key, "last_used_at": None, "last_used_ip": None,
                "expire_at": None, "credential_id": None, "version": None,
            }],
        }  # fmt: skip
        for name, minor, data in [("core.config_entries", 5, {"entries": [entry]}), ("auth", 1, auth)]:
            stored = {"version": 1, "minor_version": minor, "key": name, "data": data}
            (home / ".storage" / name).write_text(json.dumps(stored))
        now = int(time.time())
        self.token = jwt.encode({"iss": refresh, "iat": now - 60, "exp": now + 86400}, key, algorithm="HS256")
        self.start("home-assistant", sys.executable, "-m", "homeassistant", "--config", str(home))
        until("Home Assistant", lambda: self.api(""), limit=900)

    def api(self, path, body=None):
        return json.loads(fetch(f"http://127.0.0.1:{self.home}/api/{path}", body, self.token))

    def states(self):
        """The states of the bridge's entities, by entity id without the device's name."""
        states = {state["entity_id"].replace(f"ilink_{UID}_", ""): state for state in self.api("states")}
        return {name: state for name, state in states.items() if state["attributes"].get("friendly_name", "").startswith("iLink 414")}

    def state(self, entity):
        return self.states()[entity]["state"]

    def push(self, body):
        fetch(f"http://127.0.0.1:{self.sim}/sim/push", {"to_uid": UID, "from_uid": ANN} | body)

    def calls(self, path):
        calls = json.loads(fetch(f"http://127.0.0.1:{self.sim}/sim/state"))["calls"]
        return [call["body"] for call in calls if call["path"].strip("/") == path]


def content(text):
    return base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


WANTED = {
    "binary_sensor.ilink", "sensor.ilink_state", "binary_sensor.ann_online", "event.message", "image.last_picture_of_ann",
    "notify.ann", "notify.family", "notify.lamp", "sensor.inbound_waiting", "sensor.inbound_oldest", "sensor.outbound_waiting",
    "sensor.outbound_oldest", "sensor.set_aside_waiting", "sensor.set_aside_oldest",
}  # fmt: skip


def check(world):
    world.start_mosquitto()
    world.start_sim()
    bridge = world.start_bridge()
    world.start_home_assistant()

    until("all entities", lambda: world.states().keys() >= WANTED)
    assert world.states().keys() == WANTED, world.states().keys() ^ WANTED
    for entity, value in [("binary_sensor.ilink", "on"), ("sensor.ilink_state", "online"),
                          ("binary_sensor.ann_online", "off"), ("sensor.inbound_waiting", "0")]:  # fmt: skip
        until(f"{entity} is {value}", lambda: world.state(entity) == value)

    world.push({"msg_type": 1, "content": content("lamp on, 开灯")})
    event = lambda: world.states()["event.message"]["attributes"]
    until("the event entity fires", lambda: event().get("content") == "lamp on, 开灯")
    assert (event()["event_type"], event()["from_uid"]) == ("text", ANN), event()

    world.push({"msg_type": 2, "content": content(PNG)})
    proxy = lambda: fetch(f"http://127.0.0.1:{world.home}" + world.states()["image.last_picture_of_ann"]["attributes"]["entity_picture"])
    until("the image entity shows the picture", lambda: proxy() == PNG)
    until("the queues are empty again", lambda: world.state("sensor.inbound_waiting") == "0", limit=15)

    full = lambda entity: entity.replace("notify.", f"notify.ilink_{UID}_")
    for entity, path, field, to in [
        ("notify.ann", "send_msg", "accept_uid", ANN),
        ("notify.family", "send_msg", "group_id", GROUP),
        ("notify.lamp", "ham_topic", "subject", SUBJECT),
    ]:
        said = f"to {entity}"
        world.api("services/notify/send_message", {"entity_id": full(entity), "message": said})
        sent = lambda: [call for call in world.calls(path) if call.get("content") == content(said)]
        until(f"notify.send_message to {entity}", lambda: sent())
        assert sent()[0][field] == to, sent()

    world.stop(bridge)
    until("without the bridge they are unavailable", lambda: world.state("sensor.ilink_state") == "unavailable")
    world.start_bridge()
    until("with it they are there again", lambda: world.state("sensor.ilink_state") == "online")
    assert proxy() == PNG, "the picture has stayed"
    world.push({"msg_type": 1, "content": content("again")})
    until("and it works", lambda: event().get("content") == "again")


def main(program):
    directory = pathlib.Path(tempfile.mkdtemp(prefix="ilink2mqtt-homeassistant-"))
    world = World(str(pathlib.Path(program).resolve()), directory)
    try:
        check(world)
    except BaseException:
        print(f"the logs are in {directory}", file=sys.stderr)
        raise
    finally:
        world.stop_all()
    shutil.rmtree(directory)
    print("tests/homeassistant/live: a real Home Assistant shows all of it")


if __name__ == "__main__":
    main(sys.argv[1])
