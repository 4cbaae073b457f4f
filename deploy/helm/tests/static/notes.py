"""The notes after an installation: commands that work, and exactly the warnings that apply."""

import json
import re
import shlex

# Text of each warning, and the values to which it applies.
_WARNINGS = {
    "no API key is set": lambda v: not v.get("auth"),
    "stored in the release's values": lambda v: "keys" in v.get("auth", {}),
    "keys are sent unencrypted": lambda v: v.get("auth") and "service" in v and "tls" not in v,
    "each pod downloads the model": lambda v: v.get("model", {}).get("source") == "download",
    "no resources are set": lambda v: "resources" not in v,
}


def check(text, objects, values):
    """Complaints about `text`, the notes as Helm prints them; its commands must name the rendered objects."""
    (service,) = [one for one in objects.kind("Service") if one["spec"]["ports"][0]["name"] == "http"]
    port = service["spec"]["ports"][0]
    forwarded = re.search(r"port-forward service/(\S+) (\d+):(\d+)", text)
    if not forwarded or (forwarded[1], int(forwarded[3])) != (service["metadata"]["name"], port["port"]):
        yield f"the port-forward does not name the Service: {forwarded and forwarded[0]}"
        return
    command = shlex.split(re.search(r"curl (?:.*\\\n)*.*", text)[0])
    (address,) = [word for word in command if "://" in word]
    prefix = values.get("pathPrefix", "")
    if address != f"{port['appProtocol']}://127.0.0.1:{forwarded[2]}{prefix}/v1/embeddings":
        yield f"curl requests {address}"
    if set(json.loads(command[command.index("-d") + 1])) != {"model", "input"}:
        yield f"curl sends {command}"
    if ("authorization: Bearer YOUR-KEY" in command) != bool(values.get("auth")):
        yield "curl sends an API key although none is required, or omits a required one"
    for words, due in _WARNINGS.items():
        if (words in text) != bool(due(values)):
            yield f"the warning with {words!r} is missing, or does not apply"
