"""Gives the golden discovery payloads to Home Assistant's own code; see `run`.

The schemas of the components and the pattern of discovery topics are taken from the source of a recent Home Assistant, which
needs a newer Python than most machines have; what they are made of (voluptuous validators, constants, templates) comes from
the Home Assistant that is installed. Keys that a schema does not know are errors here, while Home Assistant drops them.
"""

import ast
import importlib
import json
import pathlib
import sys

import jinja2.sandbox
import voluptuous as vol

HERE = pathlib.Path(__file__).parent
GOLDEN = HERE / "entities.json"


def wanted(node):
    """Constants, schemas, and the functions that schemas are made of."""
    if isinstance(node, ast.FunctionDef):
        return node.name.startswith("valid")
    return isinstance(node, (ast.Assign, ast.AnnAssign))


def import_names(node, space):
    """What an import of the recent source gives, as far as the installed version has it."""
    module = "." * node.level + (node.module or "") if isinstance(node, ast.ImportFrom) else None
    for alias in node.names:
        name = alias.asname or alias.name
        if name in space:
            continue
        try:
            if module is None:
                space[name.split(".")[0]] = importlib.import_module(alias.name.split(".")[0])
            else:
                found = importlib.import_module(module, "homeassistant.components.mqtt")
                space[name] = getattr(found, alias.name)
        except (ImportError, AttributeError, SyntaxError):
            pass


def load(recent, name, shared):
    """The wanted parts of a module of the recent source."""
    text = (recent / "homeassistant" / f"{name}.py").read_text()
    space = dict(shared)
    for node in ast.parse(text).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            import_names(node, space)
        elif wanted(node):
            code = compile(ast.Module([node], []), f"{name}.py", "exec")
            try:
                exec(code, space)
            except (NameError, AttributeError, TypeError):
                # Of no concern, unless it is a schema that is asked for later: then there is a KeyError.
                pass
    return space


def templates(config):
    """Each template with the samples of what comes to it, and what it must become."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment()

    def render(value):
        sample = json.dumps(value) if not isinstance(value, str) else value
        return environment.from_string(config["value_template"]).render(value=sample, value_json=value)

    topic = config.get("state_topic", "")
    if topic.endswith("/bridge/cloud") and "value_template" in config:
        assert [render("online"), render("degraded")] == ["ON", "OFF"]
    if topic.endswith("/bridge/health"):
        queue = lambda depth, oldest: {"depth": depth, "oldest_s": oldest, "bytes": 0}
        health = lambda *of: {"queues": {name: queue(*of) for name in ("inbound", "outbound", "set_aside")}}
        age = config.get("device_class") == "duration"
        assert [render(health(3, 70)), render(health(0, None))] == (["70", "0"] if age else ["3", "0"])
    if topic.endswith("/bridge/cluster"):
        assert render({"leader": "a", "members": [], "etcd": {"healthy": 3, "of": 3}}) == "a"
    if topic.endswith("/event/+"):
        message = {"v": 1, "id": "01J", "kind": "text", "from_uid": "413", "content": "<\"a' & ü>", "encoding": "utf8"}
        assert json.loads(render(message)) == message | {"event_type": "text"}
        for other in ({"late": True}, {"not_allowed": True}, {"kind": "presence"}, {"kind": "other"}):
            assert render(message | other).strip() == "", other


def main(recent):
    shared = {"__name__": "recent"}
    mqtt = "components/mqtt"
    for name in ("const", f"{mqtt}/const", f"{mqtt}/util", f"{mqtt}/schemas", f"{mqtt}/config"):
        own = load(recent, name, shared)
        shared |= {key: value for key, value in own.items() if not key.startswith("__")}
    topics = load(recent, f"{mqtt}/discovery", shared)["TOPIC_MATCHER"]
    schemas = {}
    entities = json.loads(GOLDEN.read_text())
    for topic, config in entities.items():
        prefix, _, rest = topic.partition("/")
        match = topics.fullmatch(rest)
        assert prefix == "homeassistant" and match, topic
        component = match["component"]
        if component not in schemas:
            schemas[component] = load(recent, f"{mqtt}/{component}", shared)["PLATFORM_SCHEMA_MODERN"]
        try:
            schemas[component](config)
        except vol.Invalid as error:
            sys.exit(f"{topic}: {error}")
        for wrong in ({"no_such_key": 1}, {"availability_topic": "a/#/b"}, {"qos": 3}):
            try:
                schemas[component](config | wrong)
            except vol.Invalid:
                continue
            sys.exit(f"{topic}: the schema lets {wrong} pass, so it says nothing")
        templates(config)
        print("ok", topic)
    assert len(entities) >= 14 and schemas.keys() == {"binary_sensor", "sensor", "notify", "event", "image"}, schemas.keys()


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
