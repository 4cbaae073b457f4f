"""Runs the rendered chart: `run.py --helm PROGRAM --binary PROGRAM --prometheus FOLDER [--chart FOLDER]`.

Each pod is a container or a process of this machine. A simulated kubelet starts, probes and stops it, behind a
simulated Service. Prints the Test Anything Protocol; the exit status is 0 if all checks passed.
"""

import argparse
import json
import pathlib
import sys
import traceback

TESTS = pathlib.Path(__file__).resolve().parents[1]
# `tap` is shared with the static checks.
sys.path.append(str(TESTS / "static"))

import check_models
import check_pod
import check_rolling
import check_secrets
from image import Image
from kubelet import ROOT_USER
from stage import bench
from tap import Tap

SCENARIOS = {
    "default": check_pod.checks,
    "control": check_pod.control,
    "secrets": check_secrets.checks,
    "models": check_models.checks,
    "rolling": check_rolling.checks,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--helm", type=pathlib.Path, required=True, help="path of the program helm")
    parser.add_argument("--binary", type=pathlib.Path, required=True, help="the release build of embedgate")
    parser.add_argument("--prometheus", type=pathlib.Path, required=True, help="folder with prometheus and promtool")
    parser.add_argument("--chart", type=pathlib.Path, default=TESTS.parent / "embedgate", help="the chart's folder")
    parser.add_argument("--image", help="run containers of this podman image instead of processes")
    parser.add_argument("--podman", type=json.loads, default=["podman"], help="command that starts podman, as a JSON list")
    parser.add_argument("--only", choices=SCENARIOS, help="run only this scenario")
    options = parser.parse_args()

    tap = Tap()
    container = Image(podman=options.podman, name=options.image) if options.image else None
    if container is None:
        print("# pods are run as processes of this machine, without a container runtime", flush=True)
        if not ROOT_USER:
            print("# not root: pods run as the current user instead of the rendered one", flush=True)
    with bench(options.binary, container, options.helm, options.chart, options.prometheus) as tools:
        for name, scenario in SCENARIOS.items():
            if options.only in (None, name):
                try:
                    scenario(tap, tools)
                except Exception:
                    tap.check(f"{name}: completes", traceback.format_exc().splitlines)
    tap.end()


main()
