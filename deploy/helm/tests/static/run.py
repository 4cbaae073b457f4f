"""The static checks of the chart: what it renders, refuses and documents.

    run.py --helm PROGRAM [--write]

`--write` rewrites what is derived: golden files, the schema's descriptions and layout, the README's table.
"""

import argparse
import pathlib
import shutil
import tempfile

import broken
import cases
import documentation
import download
import effects
import engines
import golden
import notes
import promises
import references
import schemas
import yaml
from tap import Tap

# The containers that the chart makes by itself; what users add is theirs.
OWN_CONTAINERS = {"embedgate", "model", "test"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--helm", required=True, type=pathlib.Path, help="Helm's program")
    parser.add_argument("--write", action="store_true", help="rewrite what is derived")
    options = parser.parse_args()
    if options.write:
        documentation.write(cases.CHART)
        golden.write([(case, engines.library(cases.CHART, case)) for case in cases.load()])

    tap = Tap()
    tap.check("values, schema and README agree", documentation.check, cases.CHART)
    tap.check("both engines lint the chart", engines.lint, options.helm, cases.CHART)
    for case in cases.load():
        rendered(tap, options.helm, case)
    tap.check("every value does something", effects.check, cases.CHART, cases.load())
    tap.check("packed, the chart renders the same", packed, options.helm)
    fetched(tap)
    tap.check("no golden file is left over", golden.left_over, cases.load())
    refused = yaml.load((cases.HERE / "rejected.yaml").read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    for number, entry in enumerate(refused, 1):
        tap.check(f"refused {number}: {' and '.join(entry['names'])}", rejected, options.helm, entry)
    tap.check("image volumes are refused before Kubernetes 1.31", too_old, options.helm)
    for fault in broken.FAULTS:
        tap.check(f"found: {fault.what}", control, options.helm, fault)
    tap.end()


def rendered(tap, helm, case):
    """The checks of one set of values."""
    found = []
    if not tap.check(f"{case.name}: both engines render the same", same, helm, case, found):
        return
    tap.check(f"{case.name}: as in its golden file", golden.check, case, found)
    for version in case.versions():
        tap.check(f"{case.name}: Kubernetes {version} takes it", schemas.kubernetes, found, version)
    if any(schemas.is_custom(item) for item in found):
        tap.check(f"{case.name}: custom resources are what their operators take", schemas.custom_resources, found)
    tap.check(f"{case.name}: every name leads somewhere", references.check, objects(found, case))
    tap.check(f"{case.name}: promises are kept", promises.check, objects(found, case), settings(), OWN_CONTAINERS)
    told = engines.notes(cases.CHART, case)
    tap.check(f"{case.name}: the notes can be followed", notes.check, told, objects(found, case), case.values())


def fetched(tap):
    """The init container that downloads, where there are the programs that its image has."""
    name = "model-download: the init container takes the right archive and no other"
    missing = [program for program in download.PROGRAMS if not shutil.which(program)]
    if missing:
        tap.skip(name, f"not on this machine: {', '.join(missing)}")
        return
    case = next(case for case in cases.load() if case.name == "model-download")
    tap.check(name, download.check, objects(engines.library(cases.CHART, case), case))


def objects(found, case):
    return references.Objects(found, case.values())


def settings():
    return (cases.ROOT / "docs/CONFIG.md").read_text(encoding="utf-8")


def same(helm, case, found):
    """Compares the engines' objects, and leaves them in `found`."""
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
    """An archive without a file that the templates embed would only fail at the user's."""
    with tempfile.TemporaryDirectory() as folder:
        archive = engines.package(helm, cases.CHART, pathlib.Path(folder))
        for case in cases.load():
            if engines.library(archive, case) != engines.library(cases.CHART, case):
                yield f"{case.name} differs"


def rejected(helm, entry):
    """Both engines must refuse the values, each with a message that names the keys."""
    for engine, said in engines.refusals(helm, cases.CHART, entry["values"]).items():
        if said is None:
            yield f"the {engine} renders {entry['values']}"
        else:
            yield from (f"the {engine} does not name {name!r}: {said}" for name in entry["names"] if name not in said)


def too_old(helm):
    case = next(case for case in cases.load() if case.name == "model-image-volume")
    try:
        engines.program(helm, cases.CHART, case, cases.OLDEST)
        yield "it was rendered"
    except engines.RenderError as error:
        if "model.source imageVolume needs Kubernetes 1.31" not in str(error):
            yield str(error)


def control(helm, fault):
    """The chart with the fault in it must fail, in the words expected."""
    with tempfile.TemporaryDirectory() as folder:
        chart = broken.copy(fault, folder)
        case = next(case for case in cases.load(chart) if case.name == fault.case)
        complaints = list(documentation.check(chart))
        try:
            found = engines.library(chart, case)
            complaints += schemas.kubernetes(found, cases.MIDDLE)
            complaints += schemas.custom_resources(found)
            complaints += references.check(objects(found, case))
            complaints += promises.check(objects(found, case), settings(), OWN_CONTAINERS)
        except engines.RenderError as error:
            complaints.append(str(error))
    if not any(fault.found in complaint for complaint in complaints):
        yield f"not found; the checks said {complaints}"


if __name__ == "__main__":
    main()
