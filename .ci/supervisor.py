"""A small Home Assistant Supervisor, as far as an add-on meets it: it holds options against config.yaml as the real one does and
writes them for the add-on, tells whoever has the token of the MQTT service, and lets administrators through to the add-on's page.

    supervisor.py check ADDON                      the folder is consistent in itself
    supervisor.py options ADDON OPTIONS FILE       FILE becomes what the add-on reads as /data/options.json
    supervisor.py serve ADDRESS ADDON_ADDRESS TOKEN MQTT       MQTT: the service as JSON, or "none"

Ingress is at /api/hassio_ingress/PATH/, for who has the cookie ingress_session=good.
"""

import http.client
import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

PREFIX = "/api/hassio_ingress/a-token/"
TYPES = {
    "str": lambda value, _: isinstance(value, (str, int)),
    "password": lambda value, _: isinstance(value, (str, int)),
    "url": lambda value, _: re.match(r"https?://.+", value),
    "match": lambda value, pattern: re.fullmatch(pattern, value),
    "list": lambda value, words: value in words.split("|"),
}


def config(addon):
    return yaml.safe_load((Path(addon) / "config.yaml").read_text())


def checked(value, kind, name):
    """The value as the Supervisor hands it on: by a type such as match(^a$)? of the schema."""
    if isinstance(kind, list):
        return [checked(entry, kind[0], name) for entry in value]
    if isinstance(kind, dict):
        return {key: checked(value[key], kind[key], f"{name}.{key}") for key in kind}
    word, argument = re.fullmatch(r"(\w+)(?:\((.*)\))?\??", kind).groups()
    assert TYPES[word](value, argument), f"{name}: {value!r} is no {kind}"
    return str(value) if word in ("str", "password") else value


def is_optional(kind):
    return is_optional(kind[0]) if isinstance(kind, list) else isinstance(kind, str) and kind.endswith("?")


def options(addon, given):
    about = config(addon)
    schema = about["schema"]
    given = {key: value for key, value in (about["options"] | given).items() if value is not None}
    assert given.keys() <= schema.keys(), given.keys() - schema.keys()
    missing = [key for key, kind in schema.items() if key not in given and not is_optional(kind)]
    assert not missing, f"missing: {missing}"
    return {key: checked(value, schema[key], key) for key, value in given.items()}


def check(addon):
    about = config(addon)
    for key in ("name", "version", "slug", "description", "arch"):
        assert about[key], key
    assert set(about["arch"]) <= {"aarch64", "amd64"} and about["ingress"] and about["services"] == ["mqtt:want"]
    assert about["options"].keys() <= about["schema"].keys()
    for language in ("en", "zh-Hans"):
        translated = yaml.safe_load((Path(addon) / "translations" / f"{language}.yaml").read_text())
        assert translated["configuration"].keys() == about["schema"].keys(), language
        assert translated["network"].keys() == about["ports"].keys(), language
        assert all(entry["name"] and entry["description"] for entry in translated["configuration"].values()), language


class Supervisor(BaseHTTPRequestHandler):
    address = addon = token = service = None

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/services/mqtt":
            if self.headers["Authorization"] != f"Bearer {self.token}":
                self.answer(401, b"")
            elif self.service is None:
                self.answer(400, json.dumps({"result": "error", "message": "Service is not enabled"}).encode())
            else:
                self.answer(200, json.dumps({"result": "ok", "data": self.service}).encode())
        elif self.path.startswith(PREFIX) and "ingress_session=good" in self.headers.get("Cookie", ""):
            self.ingress()
        else:
            self.answer(401, b"")

    def ingress(self):
        """Everything is handed on, Host included; one chunk of a stream is enough to see it."""
        addon = http.client.HTTPConnection(self.addon, 8099, timeout=20, source_address=(self.address, 0))
        headers = dict(self.headers.items()) | {"X-Ingress-Path": PREFIX.rstrip("/")}
        addon.request("GET", "/" + self.path.removeprefix(PREFIX), headers=headers)
        answer = addon.getresponse()
        kept = [pair for pair in answer.getheaders() if pair[0].lower() not in ("transfer-encoding", "content-length")]
        streams = answer.getheader("Content-Type") == "text/event-stream"
        self.answer(answer.status, answer.read1(65536) if streams else answer.read(), kept)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "check":
        check(*rest)
    elif what == "options":
        addon, given, file = rest
        Path(file).write_text(json.dumps(options(addon, json.loads(given))))
    else:
        Supervisor.address, Supervisor.addon, Supervisor.token, service = rest
        Supervisor.service = None if service == "none" else json.loads(service)
        ThreadingHTTPServer((Supervisor.address, 80), Supervisor).serve_forever()
