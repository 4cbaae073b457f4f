"""One pod with the chart's default values: startup, test hook, probes under overload, and shutdown."""

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

# Slightly below OpenAI's limit for one request. The queue admits two such requests and rejects a third.
INPUTS, WORDS = 2048, 130
OVERLOAD_SECONDS = 3


def checks(tap, bench):
    """Starts pods with the default values and runs all checks on them."""
    with Stage(bench, bench.render()) as stage:
        (pod,) = stage.start(1)
        tap.check("default values: the startup probe fails until the model is loaded, and delays the others",
                  _start, pod)
        tap.check("default values: the process has the rendered user and cannot gain privileges", _confined, pod)
        tap.check("default values: `helm test` passes", hook, stage)
        tap.check("default values: under overload, requests are rejected and every probe still gets 200",
                  _overload, stage, pod)
        stage.start(2)
        with Traffic(stage.service.address) as traffic:
            traffic.wait_answered(100)
            answers = _drain(stage, pod)
            traffic.wait_answered(100)
        tap.check("default values: while draining, /readyz returns 503 and /livez 200", _draining, answers)
        tap.check(f"default values: no request of {traffic.answered} failed while a pod was drained",
                  traffic.complaints)
        tap.check(f"default values: the pod ended after {pod.ended_at - pod.deleted_at:.1f} s of {pod.grace} s, "
                  "with exit code 0", ended_well, pod)


def control(tap, bench):
    """Negative controls, which prove that the other checks can fail.

    A shutdown without preStop and shutdown delay must lose requests, and an unknown field must be an error.
    """
    tap.check("control: an unknown field of a pod is an error", _unknown_field, bench)
    release = bench.render()
    (container,) = release.one("Deployment")["spec"]["template"]["spec"]["containers"]
    del container["lifecycle"]
    (delay,) = (variable for variable in container["env"] if variable["name"] == "EMBEDGATE_SHUTDOWN_DELAY")
    delay["value"] = "0s"
    # Endpoints are updated one second after SIGTERM instead of one second before it.
    with Stage(bench, release, propagation=1) as stage:
        pod, _ = stage.start(2)
        with Traffic(stage.service.address) as traffic:
            traffic.wait_answered(100)
            stage.deployment.begin_deletion(pod).join()
            time.sleep(1)
        lost = len(traffic.failures)
        tap.check(f"control: without preStop and shutdown delay, {lost} requests of {traffic.answered + lost} fail",
                  lambda: [] if lost else ["no request failed, so the checks of the drain cannot fail"])


def hook(stage):
    """Complaints about the test hook of the release."""
    status, output = stage.run_hook()
    if status != 0 or "dimensions" not in output:
        yield f"exit status {status}, output: {output}"


def ended_well(pod):
    """Complaints about the shutdown of a deleted pod."""
    if pod.status != 0:
        yield f"{pod.name} ended with {pod.status}:\n{pod.log()[-2000:]}"
    if pod.ended_at - pod.deleted_at >= pod.grace:
        yield f"{pod.name} took {pod.ended_at - pod.deleted_at:.1f} s, the grace period is {pod.grace} s"
    if pod.deaths:
        yield f"{pod.name} would have been killed: {pod.deaths}"


def _confined(pod):
    """Complaints about user, groups and privileges of the process, as the kernel reports them."""
    context = pod.spec["securityContext"]
    status = pod.kernel_status()
    wanted = {"NoNewPrivs": ["1"], "CapEff": ["0" * 16]}
    if ROOT_USER:
        wanted |= {"Uid": [str(context["runAsUser"])] * 4, "Gid": [str(context["runAsGroup"])] * 4}
        wanted |= {"Groups": [str(context["fsGroup"])], "CapBnd": ["0" * 16]}
    if pod.contained:
        # A seccomp filter, and a root file system that even the root user of this machine cannot write to.
        wanted |= {"Seccomp": ["2"]}
        try:
            (pod.kernel_folder / "root/written").touch()
            yield "its root file system is writable"
        except OSError as error:
            if error.errno != errno.EROFS:
                yield f"writing to its root file system: {error}"
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
            yield f"the error does not name it: {error}"
        return
    yield "hostNetwork was accepted"


def _start(pod):
    startup = pod.prober.startup.results
    if startup[0].success:
        yield "the first startup probe succeeded"
    if startup[-1].status != 200 or any(answer.success for answer in startup[:-1]):
        yield f"startup: {startup}"
    for probe in (pod.prober.readiness, pod.prober.liveness):
        for answer in probe.results:
            if answer.time < startup[-1].time or answer.status != 200:
                yield f"{answer} after the startup probe's {startup[-1]}"


def _overload(stage, pod):
    """Overloads the pod for a fixed time and probes it concurrently."""
    stop, rejected, unexpected = threading.Event(), [], []
    flood = [threading.Thread(target=_flood, args=(stage, stop, rejected, unexpected, number)) for number in range(6)]
    for thread in flood:
        thread.start()
    watched = [Probe(pod.container[kind], pod.ports) for kind in ("readinessProbe", "livenessProbe", "startupProbe")]
    end = time.monotonic() + OVERLOAD_SECONDS
    while time.monotonic() < end:
        for probe in watched:
            probe.send()
        time.sleep(0.02)
    stop.set()
    for thread in flood:
        thread.join()
    if not rejected:
        yield "no request was rejected, so there was no overload"
    if not all(rejected):
        yield "a 503 has no `retry-after`"
    yield from unexpected[:3]
    wrong = [answer for probe in watched for answer in probe.results if answer.status != 200]
    if wrong:
        yield f"{len(wrong)} probes failed, the first {wrong[0]}"
    if pod.deaths or not pod.ready:
        yield f"the kubelet removed it from the Service: ready {pod.ready}, {pod.deaths}"


def _flood(stage, stop, rejected, unexpected, number):
    """Sends large requests until `stop`, and then disconnects from an admitted one."""
    host, port = stage.service.address.split(":")
    texts = [f"{number} {index} " + "word " * WORDS for index in range(INPUTS)]
    body = json.dumps({"model": MODEL, "input": texts})
    while not stop.is_set():
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        try:
            connection.request("POST", "/v1/embeddings", body, {"content-type": "application/json"})
            # Waits for the response in steps, so that this thread can end without it.
            while not select.select([connection.sock], [], [], 0.1)[0]:
                if stop.is_set():
                    return
            response = connection.getresponse()
            if response.status == 503:
                rejected.append(response.getheader("retry-after"))
            elif response.status != 200:
                unexpected.append(f"{response.status} {response.read()[:200]}")
        except (OSError, http.client.HTTPException) as error:
            unexpected.append(repr(error))
        finally:
            connection.close()


def _drain(stage, pod):
    """Deletes the pod during a long request; returns its status and the probes' results after SIGTERM."""
    long = {}
    texts = _long_request(pod)
    deletion = stage.deployment.begin_deletion(pod)
    while time.monotonic() < pod.deleted_at + pod.pre_stop - 0.2:
        time.sleep(0.01)
    # Directly to the pod: the Service no longer routes to it.
    sending = threading.Thread(target=_send_long, args=(pod, texts, long))
    sending.start()
    while pod.signaled_at is None:
        time.sleep(0.01)
    probes = [Probe(pod.container[kind], pod.ports) for kind in ("readinessProbe", "livenessProbe")]
    while pod.running and sending.is_alive():
        for probe in probes:
            probe.send()
        time.sleep(0.02)
    sending.join()
    deletion.join()
    return long["status"], *(probe.results for probe in probes)


def _long_request(pod):
    """Texts that take this machine more than a second at its current load."""
    texts = [f"sample {index} " + "word " * 100 for index in range(10)]
    begun, sample = time.monotonic(), {}
    _send_long(pod, texts, sample)
    count = int(1.5 * len(texts) / (time.monotonic() - begun))
    return [f"{index} " + "word " * 100 for index in range(min(max(count, len(texts)), INPUTS))]


def _send_long(pod, texts, result):
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
        yield f"the request in flight at SIGTERM got {status}"
    # The container runtime delivers the signal with a delay; after its arrival every result must be 503.
    ready = list(itertools.dropwhile(lambda answer: answer.status == 200, ready))
    for name, found, wanted in (("/readyz", ready, 503), ("/livez", live, 200)):
        # The last probe may reach a process that has just exited.
        wrong = [answer for answer in found[:-1] if answer.status != wanted]
        if wrong:
            yield f"{name} had {len(wrong)} wrong results of {len(found)}, the first {wrong[0]}"
        if len(found) < 3:
            yield f"{name} was probed only {len(found)} times during the drain"
