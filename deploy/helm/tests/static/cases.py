"""The rendered cases: the chart with its default values, and with each file of its folder `ci`."""

import pathlib
from dataclasses import dataclass

import yaml

CHART = pathlib.Path(__file__).resolve().parents[2] / "embedgate"
ROOT = CHART.parents[2]
HERE = pathlib.Path(__file__).resolve().parent

# Name and namespace of the release in all checks.
RELEASE = "test"
NAMESPACE = "embeddings"

# Supported versions of Kubernetes: the oldest, one in the middle, the newest with a published schema.
OLDEST, MIDDLE, NEWEST = "1.30", "1.33", "1.37"
# The first version whose API has image volumes.
IMAGE_VOLUMES = "1.31"


@dataclass(frozen=True)
class Case:
    """A set of values, named after its file; `path` is None for the default values."""

    name: str
    path: pathlib.Path | None

    def values(self):
        """The values of the file, without the chart's defaults."""
        return yaml.load(self.path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader) if self.path else {}

    def versions(self):
        """The versions of Kubernetes that these values support."""
        image_volume = self.values().get("model", {}).get("source") == "imageVolume"
        return [IMAGE_VOLUMES if image_volume else OLDEST, MIDDLE, NEWEST]


def load(chart=CHART):
    """All cases: the default one first, then the files by name."""
    files = sorted((chart / "ci").glob("*-values.yaml"))
    return [Case("default", None)] + [Case(path.name.removesuffix("-values.yaml"), path) for path in files]
