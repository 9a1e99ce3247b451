# SPDX-License-Identifier: GPL-2.0-or-later
"""edgeplexd under the supervisor, and its command line client."""

import json
import os
import subprocess

from . import BUILD, host
from . import topology as topo

DIR = f"{topo.RUN}/controller"
SOCKET = topo.GIVEN.get("controller", {}).get("socket") or f"{DIR}/edgeplexd.sock"
DAEMON = f"{BUILD}/edgeplexd"
CLI = f"{BUILD}/edgeplex"
IMAGE = f"{BUILD}/image"
PRELOAD = f"{BUILD}/libedgeplex-wp.so"


class CliError(host.TestbedError):
    """`edgeplex` failed; `status` is its exit status, `output` what it wrote."""

    def __init__(self, argv, status, output):
        super().__init__(f"edgeplex {' '.join(argv)}: exit {status}\n{output}")
        self.status, self.output = status, output


def start():
    """Starts edgeplexd and waits until it answers. It is restarted whenever it dies."""
    for path in (DAEMON, CLI, IMAGE, PRELOAD):
        if not os.path.exists(path):
            raise host.TestbedError(f"{path} is missing; build it with `make all image`")
    os.makedirs(f"{DIR}/state", exist_ok=True)
    host.spawn("edgeplexd", [DAEMON, "--socket", SOCKET, "--state-dir", f"{DIR}/state",
                             "--image", IMAGE, "--run-dir", "/run/edgeplex",
                             "--preload", PRELOAD, "--console-dir", "/run/edgeplex/console"],
               restart=True)
    host.wait_daemon("edgeplexd", lambda: cli("status") is not None, "answers", limit_s=30)
    host.say(f"  controller: {SOCKET}")


def argv(*args):
    """The command line of a call of the client."""
    return [CLI, "--socket", SOCKET, *map(str, args)]


def cli(*args, limit_s=240):
    """Runs the client and returns its output. Raises CliError when it fails."""
    done = subprocess.run(argv(*args), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace",
                          timeout=limit_s, check=False)
    if done.returncode != 0:
        raise CliError([str(a) for a in args], done.returncode, done.stdout)
    return done.stdout


def query(*args, limit_s=60):
    """Runs the client with --json and returns what it printed, parsed."""
    done = subprocess.run(argv("--json", *args), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=limit_s, check=False)
    if done.returncode != 0:
        raise CliError([str(a) for a in args], done.returncode, done.stdout + done.stderr)
    return json.loads(done.stdout)


# ---- provisioning --------------------------------------------------------------------------


def site_create(site):
    """Arguments of `edgeplex` that make a site."""
    return ["site", "create", site.name, "--asn", topo.PROVIDER_ASN,
            "--pe-address", site.pe_address, "--core-port", "core",
            "--core-address", site.core_address, "--core-gateway", site.gateway,
            "--rr", topo.RR_ADDRESS, "--transport-label", site.transport_label,
            "--switch", site.switch]


def server_create(server):
    """Arguments that make a server."""
    return ["server", "create", server.name, "--site", server.site, "--uri", server.far_uri,
            "--bridge", server.bridge, "--trunk", server.trunk, "--hostd", server.far_hostd]


def port_create(edge):
    """Arguments that make a customer port."""
    return ["port", "create", edge.name, "--customer", edge.customer, "--site", edge.site,
            "--switch-port", edge.switch_port,
            "--address", f"{edge.link4}.1/30", "--address", f"{edge.link6}:1/64",
            "--ce", f"{edge.link4}.2,{edge.asn}", "--ce", f"{edge.link6}:2,{edge.asn}"]


def provisioning():
    """The whole provisioning: a list of stages; the commands of a stage may run side by side."""
    return [
        [site_create(site) for site in topo.SITES],
        [server_create(server) for server in topo.SERVERS],
        [["customer", "create", name] for name in topo.CUSTOMERS],
        [["cvm", "create", site.name] for site in topo.SITES],
        [port_create(edge) for edge in topo.CES],
    ]
