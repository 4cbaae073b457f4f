"""Static checks of the chart: rendered objects, rejected values and documentation.

    run.py --helm PROGRAM [--write]

`--write` rewrites the generated files: golden files, the schema's descriptions and layout, the README's table.
"""

import argparse
import pathlib
import tempfile

import cases
import documentation
import download
import effects
import engines
import faults
import golden
import guarantees
import notes
import references
import schemas
import yaml
from tap import Tap

# Containers of the chart itself; the rules do not apply to containers that users add.
OWN_CONTAINERS = {"embedgate", "model", "test"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--helm", required=True, type=pathlib.Path, help="path of the program helm")
    parser.add_argument("--write", action="store_true", help="rewrite the generated files")
    options = parser.parse_args()
    if options.write:
        documentation.write(cases.CHART)
        golden.write([(case, engines.library(cases.CHART, case)) for case in cases.load()])

    tap = Tap()
    tap.check("values, schema and README agree", documentation.check, cases.CHART)
    tap.check("both engines lint the chart", engines.lint, options.helm, cases.CHART)
    for case in cases.load():
        rendered(tap, options.helm, case)
    tap.check("every value has an effect", effects.check, cases.CHART, cases.load())
    tap.check("the packaged chart renders the same objects", packed, options.helm)
    fetched(tap)
    tap.check("every golden file belongs to a case", golden.left_over, cases.load())
    invalid = yaml.load((cases.HERE / "rejected.yaml").read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    for number, entry in enumerate(invalid, 1):
        tap.check(f"rejected {number}: {' and '.join(entry['names'])}", rejected, options.helm, entry)
    tap.check("image volumes are rejected before Kubernetes 1.31", too_old, options.helm)
    for fault in faults.FAULTS:
        tap.check(f"detected: {fault.description}", detects, options.helm, fault)
    tap.end()


def rendered(tap, helm, case):
    """Runs the checks of one set of values."""
    found = []
    if not tap.check(f"{case.name}: both engines render the same", same, helm, case, found):
        return
    tap.check(f"{case.name}: equals its golden file", golden.check, case, found)
    for version in case.versions():
        tap.check(f"{case.name}: valid for Kubernetes {version}", schemas.kubernetes, found, version)
    if any(schemas.is_custom(item) for item in found):
        tap.check(f"{case.name}: custom resources are valid for their operators", schemas.custom_resources, found)
    tap.check(f"{case.name}: every reference resolves", references.check, objects(found, case))
    tap.check(f"{case.name}: guarantees hold", guarantees.check, objects(found, case), settings(), OWN_CONTAINERS)
    text = engines.notes(cases.CHART, case)
    tap.check(f"{case.name}: the notes are correct", notes.check, text, objects(found, case), case.values())


def fetched(tap):
    """Runs the init container of the download, if the program has been built."""
    name = "model-download: the init container accepts only the pinned archive"
    if not download.PROGRAM.exists():
        tap.skip(name, f"{download.PROGRAM} has not been built")
        return
    case = next(case for case in cases.load() if case.name == "model-download")
    tap.check(name, download.check, objects(engines.library(cases.CHART, case), case))


def objects(found, case):
    return references.Objects(found, case.values())


def settings():
    return (cases.ROOT / "docs/CONFIG.md").read_text(encoding="utf-8")


def same(helm, case, found):
    """Compares the objects of both engines and appends them to `found`."""
    modern = engines.by_identity(engines.library(cases.CHART, case))
    found += modern.values()
    for version in case.versions():
        old = engines.by_identity(engines.program(helm, cases.CHART, case, version))
        for key in sorted(modern.keys() ^ old.keys()):
            yield f"Kubernetes {version}: only one engine renders {key}"
        for key in modern.keys() & old.keys():
            if modern[key] != old[key]:
                yield f"Kubernetes {version}: {key} differs:\n{modern[key]}\n{old[key]}"


def packed(helm):
    """The package must contain every file that the templates embed."""
    with tempfile.TemporaryDirectory() as folder:
        archive = engines.package(helm, cases.CHART, pathlib.Path(folder))
        for case in cases.load():
            if engines.library(archive, case) != engines.library(cases.CHART, case):
                yield f"{case.name} differs"


def rejected(helm, entry):
    """Both engines must reject the values with a message that names the keys."""
    for engine, said in engines.refusals(helm, cases.CHART, entry["values"]).items():
        if said is None:
            yield f"the {engine} renders {entry['values']}"
        else:
            yield from (f"the {engine} does not name {name!r}: {said}" for name in entry["names"] if name not in said)


def too_old(helm):
    case = next(case for case in cases.load() if case.name == "model-image-volume")
    try:
        engines.program(helm, cases.CHART, case, cases.OLDEST)
        yield "the chart was rendered"
    except engines.RenderError as error:
        if "model.source imageVolume needs Kubernetes 1.31" not in str(error):
            yield str(error)


def detects(helm, fault):
    """A check of the chart with this fault must complain with the expected text."""
    with tempfile.TemporaryDirectory() as folder:
        chart = faults.inject(fault, folder)
        case = next(case for case in cases.load(chart) if case.name == fault.case)
        complaints = list(documentation.check(chart))
        try:
            found = engines.library(chart, case)
            complaints += schemas.kubernetes(found, cases.MIDDLE)
            complaints += schemas.custom_resources(found)
            complaints += references.check(objects(found, case))
            complaints += guarantees.check(objects(found, case), settings(), OWN_CONTAINERS)
        except engines.RenderError as error:
            complaints.append(str(error))
    if not any(fault.expected in complaint for complaint in complaints):
        yield f"not detected; complaints: {complaints}"


if __name__ == "__main__":
    main()
