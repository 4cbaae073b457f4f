"""API keys and certificates from Secrets, their rotation under load, and settings from ConfigMaps."""

import http.client
import shutil
import ssl
import subprocess
import time

import check_pod
from stage import Stage
from traffic import Traffic, post

KEYS, CERTIFICATE = "team-keys", "team-certificate"
# Large enough for the golden texts of the model.
MAX_INPUTS, MAX_TOKENS = 7, 1000
VALUES = {
    "auth": {"existingSecret": KEYS},
    "tls": {"existingSecret": CERTIFICATE},
    "config": f"[limits]\nmax_inputs = {MAX_INPUTS}\n",
    "extraEnv": [
        {
            "name": "EMBEDGATE_MAX_REQUEST_TOKENS",
            "valueFrom": {"configMapKeyRef": {"name": "team-settings", "key": "tokens"}},
        },
    ],
}
OLD, NEW = "sk-old-0123456789abcdef", "sk-new-0123456789abcdef"
# The program checks its files about once per second.
RELOAD_TIMEOUT = 20


def checks(tap, bench):
    """Runs a release with API keys and TLS, and rotates both under load."""
    if shutil.which("openssl") is None:
        tap.skip("keys and certificates from Secrets", "openssl is not installed")
        return
    release = bench.render(VALUES)
    with Stage(bench, release) as stage:
        first, second = (_certificate(stage.folder / name) for name in ("first", "second"))
        authority = stage.folder / "authority.pem"
        authority.write_bytes(first["tls.crt"] + second["tls.crt"])
        stage.cluster.secrets |= {KEYS: _keys(("old", OLD)), CERTIFICATE: first}
        stage.cluster.config_maps["team-settings"] = {"tokens": str(MAX_TOKENS).encode()}
        (pod,) = stage.start(1)
        tap.check("keys and TLS: `helm test` passes with the key of the Secret", check_pod.hook, stage)
        tap.check("keys and TLS: a request without a key gets 401", _rejected, stage, authority, None)
        tap.check("settings from a mounted ConfigMap and from a variable of another ConfigMap apply",
                  _settings, stage, authority)
        with Traffic(stage.service.address, key=OLD, authority=authority) as traffic:
            traffic.wait_answered(50)
            tap.check("keys and TLS: a new key in the Secret is accepted", _rotated_in, stage, authority)
            traffic.key = NEW
            # By then, requests with the old key have been answered.
            traffic.wait_answered(50)
            tap.check("keys and TLS: a key removed from the Secret is rejected", _rotated_out, stage, authority)
            stage.update_secret(CERTIFICATE, second)
            tap.check("keys and TLS: a new certificate in the Secret is served",
                      _served, stage, second["tls.crt"].decode())
            traffic.wait_answered(50)
        tap.check(f"keys and TLS: no request of {traffic.answered} failed during the rotation", traffic.complaints)
        tap.check("keys and TLS: no key is in the log", _no_key, pod)


def _certificate(folder):
    """A certificate for the loopback interface, as the data of a Secret of type kubernetes.io/tls."""
    folder.mkdir()
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2"]
    command += ["-nodes", "-keyout", folder / "tls.key", "-out", folder / "tls.crt"]
    command += ["-subj", f"/CN={folder.name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return {name: (folder / name).read_bytes() for name in ("tls.key", "tls.crt")}


def _keys(*keys):
    return {"keys": "".join(f"{name}={key}\n" for name, key in keys).encode()}


def _settings(stage, authority):
    few = ["text"] * MAX_INPUTS
    for what, texts, wanted in (
        ("as many inputs as are allowed", few, 200),
        ("one input more", few + ["text"], 400),
        ("too many tokens", [f"{number} " + "word " * (MAX_TOKENS // 5) for number in range(MAX_INPUTS)], 400),
    ):
        found = _status(stage, authority, OLD, texts)
        if found != wanted:
            yield f"{what}: got {found}, expected {wanted}"


def _status(stage, authority, key, texts="Who is there?"):
    host, port = stage.service.address.split(":")
    context = ssl.create_default_context(cafile=authority)
    connection = http.client.HTTPSConnection(host, int(port), timeout=30, context=context)
    try:
        return post(connection, texts, key, keep_alive=False)[0]
    finally:
        connection.close()


def _rejected(stage, authority, key):
    """Complaints unless a request with this key is rejected within RELOAD_TIMEOUT."""
    yield from _becomes(lambda: _status(stage, authority, key), 401)


def _rotated_in(stage, authority):
    stage.update_secret(KEYS, _keys(("old", OLD), ("new", NEW)))
    yield from _becomes(lambda: _status(stage, authority, NEW), 200)


def _rotated_out(stage, authority):
    stage.update_secret(KEYS, _keys(("new", NEW)))
    yield from _rejected(stage, authority, OLD)


def _served(stage, wanted):
    host, port = stage.service.address.split(":")
    body = lambda pem: "".join(pem.split())
    yield from _becomes(lambda: body(ssl.get_server_certificate((host, int(port)))), body(wanted))


def _becomes(value, wanted):
    end = time.monotonic() + RELOAD_TIMEOUT
    while (found := value()) != wanted:
        if time.monotonic() > end:
            yield f"after {RELOAD_TIMEOUT} s it is still {found}"
            return
        time.sleep(0.2)


def _no_key(pod):
    for key in (OLD, NEW):
        if key in pod.log():
            yield f"{key} is in the log"
