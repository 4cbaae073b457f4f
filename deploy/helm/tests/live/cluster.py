"""Objects that pods refer to by name: Secrets, ConfigMaps, claims, image volumes, images, and Services."""

import base64
import re
from dataclasses import dataclass, field


@dataclass
class Cluster:
    """One namespace. Data of Secrets and ConfigMaps are bytes by key; claims and image volumes are folders."""

    namespace: str
    secrets: dict = field(default_factory=dict)
    config_maps: dict = field(default_factory=dict)
    claims: dict = field(default_factory=dict)
    image_volumes: dict = field(default_factory=dict)
    # Images by their full name.
    images: dict = field(default_factory=dict)
    # "127.0.0.1:41234" by "service:80".
    addresses: dict = field(default_factory=dict)

    def add(self, objects):
        """Adds the Secrets and ConfigMaps among rendered objects."""
        for item in objects:
            name = item["metadata"]["name"]
            if item["kind"] == "Secret":
                self.secrets[name] = {key: base64.b64decode(value) for key, value in item.get("data", {}).items()}
            elif item["kind"] == "ConfigMap":
                self.config_maps[name] = {key: value.encode() for key, value in item.get("data", {}).items()}

    def resolve(self, text):
        """Replaces the names of Services in `text` by their addresses, because there is no DNS."""
        for name, address in self.addresses.items():
            text = re.sub(rf"(?<=//){re.escape(name)}(?!\d)", address, text)
        return text
