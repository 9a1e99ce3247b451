# SPDX-License-Identifier: GPL-2.0-or-later
"""The testbed's own certification authority, which signs hostds' certificates and nothing else."""

import os

from . import host
from . import topology as topo

DIR = f"{topo.RUN}/ca"
CA, CA_KEY = f"{DIR}/ca.pem", f"{DIR}/ca.key"
NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
DAYS = 30


def make():
    """Makes the authority."""
    os.makedirs(DIR, mode=0o700)
    host.run(None, ["openssl", "req", "-x509", *NEW_KEY, "-days", DAYS,
                    "-subj", "/CN=EdgePlex testbed", "-keyout", CA_KEY, "-out", CA])


def issue(name, certificate, key):
    """Makes a key and has it signed."""
    request = f"{certificate}.csr"
    host.run(None, ["openssl", "req", *NEW_KEY, "-subj", f"/CN={name}", "-keyout", key,
                    "-out", request])
    # Without -CAserial: each would write the same file.
    host.run(None, ["openssl", "x509", "-req", "-in", request, "-CA", CA, "-CAkey", CA_KEY,
                    "-set_serial", str(1 + [s.name for s in topo.SERVERS].index(name)),
                    "-days", DAYS, "-out", certificate])
    os.unlink(request)
