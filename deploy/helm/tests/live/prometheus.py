"""A Prometheus server for the checks: configuration, rules and queries."""

import json
import subprocess
import time
import urllib.parse
import urllib.request

import yaml

from kubelet import free_port


class Prometheus:
    """One server with its own folder. It reads its targets from the file `targets`."""

    def __init__(self, programs, folder):
        """`programs` is the folder with `prometheus` and `promtool`."""
        self._programs = programs
        self._folder = folder
        self.targets = folder / "targets.json"
        self._process = None
        folder.mkdir()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._process:
            self._process.terminate()
            self._process.wait()

    def start(self, scrape_configs, rule_groups):
        """Checks configuration and rules with promtool, then starts the server.

        Raises RuntimeError with the output of promtool or of the server.
        """
        (self._folder / "rules.yaml").write_text(yaml.safe_dump({"groups": rule_groups}), encoding="utf-8")
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": scrape_configs,
        }
        path = self._folder / "prometheus.yml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        checked = subprocess.run(
            [self._programs / "promtool", "check", "config", path], capture_output=True, text=True, timeout=60
        )
        if checked.returncode != 0:
            raise RuntimeError(checked.stdout + checked.stderr)
        self._origin = f"http://127.0.0.1:{free_port()}"
        log = self._folder / "log"
        with open(log, "wb") as file:
            self._process = subprocess.Popen(
                [
                    self._programs / "prometheus",
                    f"--config.file={path}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address={self._origin.removeprefix('http://')}",
                ],
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            )
        end = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"{self._origin}/-/ready", timeout=5).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(log.read_text(encoding="utf-8")) from None
                time.sleep(0.05)

    def query(self, expression):
        """The elements of an instant query."""
        return self._get("query", query=expression)["result"]

    def active_targets(self):
        return self._get("targets", state="active")["activeTargets"]

    def rules(self):
        """All rules with their evaluation state."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def wait(self, condition, seconds):
        """Waits for `condition(self)`; returns false after `seconds`."""
        end = time.monotonic() + seconds
        while not condition(self):
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        return True

    def _get(self, what, **parameters):
        url = f"{self._origin}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as response:
            return json.load(response)["data"]
