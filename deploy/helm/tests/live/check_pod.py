"""One pod with the chart's default values: its start, its test hook, its probes under overload, and its end."""

import errno
import http.client
import itertools
import json
import select
import threading
import time

import fields
from kubelet import ROOT_USER
from probes import Probe
from stage import Stage
from traffic import MODEL, Traffic, post

# Just under OpenAI's limit for one request. The queue takes two such, so that a third is refused.
INPUTS, WORDS = 2048, 130
OVERLOAD_SECONDS = 3


def checks(tap, bench):
    """Starts pods as rendered by default and asks them everything."""
    with Stage(bench, bench.render()) as stage:
        (pod,) = stage.start(1)
        tap.check("default values: the startup probe fails until the model is loaded, the others wait for it",
                  _start, pod)
        tap.check("default values: the process has the rendered user and can gain nothing", _confined, pod)
        tap.check("default values: `helm test` passes", hook, stage)
        tap.check("default values: under overload, requests are refused and every probe still says 200",
                  _overload, stage, pod)
        stage.start(2)
        with Traffic(stage.service.address) as traffic:
            traffic.wait_answered(100)
            answers = _drain(stage, pod)
            traffic.wait_answered(100)
        tap.check("default values: while draining, /readyz says 503 and /livez 200", _draining, answers)
        tap.check(f"default values: no request of {traffic.answered} failed while a pod was drained",
                  traffic.complaints)
        tap.check(f"default values: the pod ended after {pod.ended_at - pod.deleted_at:.1f} s of {pod.grace} s, "
                  "with exit code 0", ended_well, pod)


def control(tap, bench):
    """What must go wrong: otherwise the other checks would prove nothing.

    The end of a pod without preStop and pause must lose requests, and a field that is not known here must not be skipped.
    """
    tap.check("control: a field of a pod that is not known here is refused", _unknown_field, bench)
    release = bench.render()
    (container,) = release.one("Deployment")["spec"]["template"]["spec"]["containers"]
    del container["lifecycle"]
    (pause,) = (variable for variable in container["env"] if variable["name"] == "EMBEDGATE_SHUTDOWN_DELAY")
    pause["value"] = "0s"
    # The news spreads a second after SIGTERM in place of a second before.
    with Stage(bench, release, propagation=1) as stage:
        pod, _ = stage.start(2)
        with Traffic(stage.service.address) as traffic:
            traffic.wait_answered(100)
            stage.deployment.begin_deletion(pod).join()
            time.sleep(1)
        lost = len(traffic.failures)
        tap.check(f"control: without preStop and pause, {lost} requests of {traffic.answered + lost} fail",
                  lambda: [] if lost else ["not one failed: the checks of the drain cannot fail"])


def hook(stage):
    """Complaints about the release's own test."""
    status, said = stage.run_hook()
    if status != 0 or "dimensions" not in said:
        yield f"it ended with {status} and said: {said}"


def ended_well(pod):
    """Complaints about how a deleted pod ended."""
    if pod.status != 0:
        yield f"{pod.name} ended with {pod.status}:\n{pod.log()[-2000:]}"
    if pod.ended_at - pod.deleted_at >= pod.grace:
        yield f"{pod.name} took {pod.ended_at - pod.deleted_at:.1f} s, the grace is {pod.grace} s"
    if pod.deaths:
        yield f"{pod.name} would have been killed: {pod.deaths}"


def _confined(pod):
    """Complaints about the identity of the process, as the kernel tells it."""
    context = pod.spec["securityContext"]
    status = pod.kernel_status()
    wanted = {"NoNewPrivs": ["1"], "CapEff": ["0" * 16]}
    if ROOT_USER:
        wanted |= {"Uid": [str(context["runAsUser"])] * 4, "Gid": [str(context["runAsGroup"])] * 4}
        wanted |= {"Groups": [str(context["fsGroup"])], "CapBnd": ["0" * 16]}
    if pod.contained:
        # A filter of system calls, and a root that not even this machine's root can write to.
        wanted |= {"Seccomp": ["2"]}
        try:
            (pod.kernel_folder / "root/written").touch()
            yield "its root can be written to"
        except OSError as error:
            if error.errno != errno.EROFS:
                yield f"writing to its root: {error}"
    for name, value in wanted.items():
        if status[name] != value:
            yield f"{name} is {status[name]}, not {value}"
    if status["Uid"][0] == "0":
        yield "it runs as root"


def _unknown_field(bench):
    rendered = bench.render().one("Deployment")
    rendered["spec"]["template"]["spec"]["hostNetwork"] = True
    try:
        fields.pod(rendered["spec"]["template"]["spec"])
    except fields.Unsupported as error:
        if "hostNetwork" not in str(error):
            yield f"the refusal does not name it: {error}"
        return
    yield "hostNetwork was let through"


def _start(pod):
    startup = pod.prober.startup.answers
    if startup[0].success:
        yield "the first answer was a success already"
    if startup[-1].status != 200 or any(answer.success for answer in startup[:-1]):
        yield f"startup: {startup}"
    for probe in (pod.prober.readiness, pod.prober.liveness):
        for answer in probe.answers:
            if answer.time < startup[-1].time or answer.status != 200:
                yield f"{answer} after the startup probe's {startup[-1]}"


def _overload(stage, pod):
    """Floods the pod until the time is over, and watches the probes meanwhile."""
    stop, refused, strange = threading.Event(), [], []
    flood = [threading.Thread(target=_flood, args=(stage, stop, refused, strange, number)) for number in range(6)]
    for thread in flood:
        thread.start()
    watched = [Probe(pod.container[kind], pod.ports) for kind in ("readinessProbe", "livenessProbe", "startupProbe")]
    end = time.monotonic() + OVERLOAD_SECONDS
    while time.monotonic() < end:
        for probe in watched:
            probe.ask()
        time.sleep(0.02)
    stop.set()
    for thread in flood:
        thread.join()
    if not refused:
        yield "no request was refused: this was no overload"
    if not all(refused):
        yield "a 503 came without `retry-after`"
    yield from strange[:3]
    wrong = [answer for probe in watched for answer in probe.answers if answer.status != 200]
    if wrong:
        yield f"{len(wrong)} answers to probes were wrong, the first {wrong[0]}"
    if pod.deaths or not pod.ready:
        yield f"the kubelet took it out of service: ready {pod.ready}, {pod.deaths}"


def _flood(stage, stop, refused, strange, number):
    """Sends large requests until `stop`; hangs up on those that were let in by then."""
    host, port = stage.service.address.split(":")
    texts = [f"{number} {index} " + "word " * WORDS for index in range(INPUTS)]
    body = json.dumps({"model": MODEL, "input": texts})
    while not stop.is_set():
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        try:
            connection.request("POST", "/v1/embeddings", body, {"content-type": "application/json"})
            # Waits for the answer in steps, so that this thread can end before it comes.
            while not select.select([connection.sock], [], [], 0.1)[0]:
                if stop.is_set():
                    return
            response = connection.getresponse()
            if response.status == 503:
                refused.append(response.getheader("retry-after"))
            elif response.status != 200:
                strange.append(f"{response.status} {response.read()[:200]}")
        except (OSError, http.client.HTTPException) as error:
            strange.append(repr(error))
        finally:
            connection.close()


def _drain(stage, pod):
    """Deletes the pod with a long request under way; yields its status, and the probes' answers after SIGTERM."""
    long = {}
    texts = _long_request(pod)
    deletion = stage.deployment.begin_deletion(pod)
    while time.monotonic() < pod.deleted_at + pod.pre_stop - 0.2:
        time.sleep(0.01)
    # Straight to the pod: the Service does not lead there any more.
    asking = threading.Thread(target=_ask_long, args=(pod, texts, long))
    asking.start()
    while pod.signalled_at is None:
        time.sleep(0.01)
    probes = [Probe(pod.container[kind], pod.ports) for kind in ("readinessProbe", "livenessProbe")]
    while pod.running and asking.is_alive():
        for probe in probes:
            probe.ask()
        time.sleep(0.02)
    asking.join()
    deletion.join()
    return long["status"], *(probe.answers for probe in probes)


def _long_request(pod):
    """Texts that take this machine, under its present load, a second and more."""
    texts = [f"sample {index} " + "word " * 100 for index in range(10)]
    begun, sample = time.monotonic(), {}
    _ask_long(pod, texts, sample)
    count = int(1.5 * len(texts) / (time.monotonic() - begun))
    return [f"{index} " + "word " * 100 for index in range(min(max(count, len(texts)), INPUTS))]


def _ask_long(pod, texts, result):
    connection = http.client.HTTPConnection("127.0.0.1", pod.ports["http"], timeout=60)
    try:
        result["status"], _ = post(connection, texts)
    except (OSError, http.client.HTTPException) as error:
        result["status"] = repr(error)
    finally:
        connection.close()


def _draining(answers):
    status, ready, live = answers
    if status != 200:
        yield f"the request that was under way at SIGTERM got {status}"
    # The signal goes by way of the container's runtime, which takes its time; once there, it counts for good.
    ready = list(itertools.dropwhile(lambda answer: answer.status == 200, ready))
    for name, found, wanted in (("/readyz", ready, 503), ("/livez", live, 200)):
        # The last question may meet a process that has just ended.
        wrong = [answer for answer in found[:-1] if answer.status != wanted]
        if wrong:
            yield f"{name} gave {len(wrong)} wrong answers of {len(found)}, the first {wrong[0]}"
        if len(found) < 3:
            yield f"{name} was asked {len(found)} times only while the pod drained"
