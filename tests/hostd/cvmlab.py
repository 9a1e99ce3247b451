# SPDX-License-Identifier: GPL-2.0-or-later
"""A real CVM that is protected, between two VPN speakers: one in the place of the core's route
reflector, one in that of a PVM."""

from lib.lab import wait_until

import bgpspeaker
from bgpspeaker import Direction, Routes, Speaker
from protectlab import Protected

PE, RR, REMOTE_PE = "10.0.0.1", "10.0.0.100", "10.0.0.2"
GATEWAY, CORE_LINK, INSIDE, PVM = "192.0.2.1", "192.0.2.2", "100.64.1.1", "100.64.1.10"
TARGET = (bgpspeaker.ASN, 100)
# Where each speaker's churning routes are, and those that only fill the table.
FROM_CORE, FROM_PVM, FILL = 202 << 24, 203 << 24, 32 << 24
CHURNING = 500  # prefixes on each side

CONFIG = {
    "config_id": "1", "hostname": "cvm", "asn": bgpspeaker.ASN, "router_id": PE,
    "interfaces": {"core": {"addresses": [f"{CORE_LINK}/30"], "mtu": 1500},
                   "inside": {"addresses": [f"{INSIDE}/24"], "mtu": 1500},
                   "lo": {"addresses": [f"{PE}/32"]}},
    "routes": [{"prefix": f"{RR}/32", "via": GATEWAY}],
    "core": [{"address": RR, "local_address": PE, "remote_asn": bgpspeaker.ASN}],
    "pvms": [{"name": "pvm", "address": PVM, "import_rts": ["{}:{}".format(*TARGET)],
              "export_rts": ["{}:{}".format(*TARGET)]}],
}


class ProtectedCvm(Protected):
    """A CVM on server A, one that waits on server B; its two speakers; and what they tell each other."""

    def __init__(self, lab, mem_kib):
        self.core_routes = Routes((bgpspeaker.ASN, 999), 999001, REMOTE_PE, TARGET)
        self.to_pvm = Direction("core to PVM", self.core_routes, FROM_CORE, CHURNING, 1)
        self.to_core = Direction("PVM to core", Routes((bgpspeaker.ASN, 1), 1001, PE, TARGET),
                                 FROM_PVM, CHURNING, 2)
        self.filled = 0
        self.core = self.pvm = None
        super().__init__(lab, mem_kib=mem_kib)

    def make_network(self):
        for argv in (["link", "add", "core", "type", "bridge"], ["addr", "add", f"{GATEWAY}/30", "dev", "core"],
                     ["link", "set", "core", "up"], ["addr", "add", f"{RR}/32", "dev", "lo"],
                     ["link", "add", "inside", "type", "bridge"],
                     ["addr", "add", f"{PVM}/24", "dev", "inside"], ["link", "set", "inside", "up"],
                     ["route", "add", f"{PE}/32", "via", CORE_LINK]):
            self.lab.run(self.ns, ["ip", *argv])
        self.vm_options = {}
        self.bridges = ["core", "inside"]

    def boot(self):
        self.primary = self._vm(False)
        self.primary.wait_up()
        wait_until(lambda: self.primary.ask("cvm.configure", 20, **CONFIG) is not None, 60,
                   "the CVM is configured")
        self.core = Speaker(self.ns, RR, PE, self.to_core.told)
        self.pvm = Speaker(self.ns, PVM, INSIDE, self._told_pvm)
        for speaker in (self.core, self.pvm):
            speaker.wait_established()

    def _told_pvm(self, now, change):
        self.filled += change.announced
        self.to_pvm.told(now, change)

    def fill(self, count, limit_s=420):
        """Lets the core announce so many routes, and waits until the PVM has them all."""
        self.filled = 0
        bgpspeaker.fill(self.core, self.core_routes, FILL, count)

        def there():
            self.check()
            return self.filled >= count

        wait_until(there, limit_s, f"the PVM has {count} routes", 0.2)

    def check(self):
        """Raises when a session has ended."""
        for speaker in (self.core, self.pvm):
            speaker.check()

    def close(self):
        for speaker in (self.core, self.pvm):
            if speaker:
                speaker.close()
        super().close()
