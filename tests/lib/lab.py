# SPDX-License-Identifier: GPL-2.0-or-later
"""Throw-away networks for tests: namespaces, veth pairs, and real routers (BIRD, FRR, ExaBGP).

    with Lab("fwd") as lab:
        ce = lab.netns("ce")
        pe = lab.netns("pe")
        lab.veth(ce, "eth0", pe, "cust")
        bird = lab.bird(ce, "bird", CONF)
        wait_until(lambda: "Established" in bird("show protocols"), 10, "BGP is Established")

Everything that a Lab makes is gone when its block ends, and also when the test is interrupted or
killed: a watcher process, which lives as long as the Lab's owner, takes it down. Should the watcher
die too, the next Lab (and tests/run) finds the records in REGISTRY and does it. Processes are
recognized by a mark in their environment, which daemons inherit, or by their network namespace, and
are signalled through pidfds, so that a process that merely reuses a number is never hit.

A Lab is to be used from one thread at a time.
"""

import ctypes
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import time

REGISTRY = "/run/edgeplex-lab"
MARK = "EDGEPLEX_LAB"
NETNS_DIR = "/run/netns"


class LabError(RuntimeError):
    """A command of the lab failed; the text has its output."""


def wait_until(fn, limit_s, what, interval_s=0.05):
    """Calls `fn` until it returns something truthy, and returns that.

    Raises TimeoutError, which names `what`, after `limit_s` seconds. An exception of `fn` counts as
    "not yet" and is reported if the time runs out.
    """
    deadline = time.monotonic() + limit_s
    while True:
        error = None
        try:
            value = fn()
            if value:
                return value
        except Exception as exc:  # pylint: disable=broad-except
            error, value = exc, None
        if time.monotonic() >= deadline:
            seen = f"last error: {error}" if error else f"last value: {value!r}"
            raise TimeoutError(f"not within {limit_s} s: {what} ({seen})") from error
        time.sleep(interval_s)


# ---- processes -----------------------------------------------------------------------------


def start_time(pid):
    """When `pid` was started, in clock ticks since boot; None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _is_standing(pid):
    """Are all threads of a process stopped, or is it gone?"""
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/stat", encoding="utf-8", errors="replace") as file:
                if file.read().rpartition(")")[2].split()[0] not in "TtZX":
                    return False
    except OSError:
        pass
    return True


def stand_still(pid):
    """SIGSTOP, and waits until it has come to all threads: until then one may go on with its work, on a
    busy machine for long enough to answer."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: _is_standing(pid), 20, f"process {pid} stands still", 0.001)


def marked_processes(mark, namespaces=()):
    """Pids of the processes that carry `mark` ("NAME=VALUE") or live in one of `namespaces`."""
    inodes = set()
    for name in namespaces:
        try:
            inodes.add(os.stat(f"{NETNS_DIR}/{name}").st_ino)
        except OSError:
            pass
    wanted = mark.encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            if os.stat(f"/proc/{entry}/ns/net").st_ino in inodes:
                found.append(int(entry))
                continue
            with open(f"/proc/{entry}/environ", "rb") as file:
                if wanted in file.read().split(b"\0"):
                    found.append(int(entry))
        except OSError:
            pass
    return found


def end_processes(find, limit_s=10):
    """Kills what `find()` lists (pids) until nothing is left or the time is over."""
    deadline = time.monotonic() + limit_s
    while True:
        pids = find()
        if not pids or time.monotonic() > deadline:
            return pids
        fds = []
        for pid in pids:
            try:
                fds.append((pid, os.pidfd_open(pid)))
            except OSError:
                pass
        still = set(find())  # a number may have been reused before its pidfd was opened
        for pid, fd in fds:
            if pid in still:
                try:
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
                    select.select([fd], [], [], 2)
                except OSError:
                    pass
            os.close(fd)


def unmount_below(path):
    """Undoes every mount at or below `path` in this mount namespace."""
    with open("/proc/self/mounts", encoding="utf-8") as file:
        points = [line.split()[1].replace("\\040", " ") for line in file]
    for point in reversed(points):
        if point == path or point.startswith(path + "/"):
            subprocess.run(["umount", "-l", point], check=False, stderr=subprocess.DEVNULL)


# ---- network namespaces --------------------------------------------------------------------


def share_namespaces():
    """Makes /run/netns a shared mount, as the machine's first `ip netns add` would, but only once.

    Several `ip netns add` at a time would each mount it over the others', and names below the
    uppermost can't be deleted. What runs in a mount namespace of its own from now on also sees the
    network namespaces that are made after it.
    """
    os.makedirs(NETNS_DIR, exist_ok=True)
    lock = os.open("/run", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            # Not os.path.ismount(): it doesn't know a bind mount within one file system.
            if any(line.split()[4] == NETNS_DIR for line in file):
                return
        subprocess.run(["mount", "--bind", NETNS_DIR, NETNS_DIR], check=True)
        subprocess.run(["mount", "--make-shared", NETNS_DIR], check=True)
    finally:
        os.close(lock)


# ---- the registry --------------------------------------------------------------------------


def _record(base, name):
    try:
        with open(f"{base}/{name}", encoding="utf-8") as file:
            return file.read().split()
    except OSError:
        return []


def _remove(lab_id):
    """Takes down what Lab `lab_id` left. Safe to run twice, also at the same time."""
    base = f"{REGISTRY}/{lab_id}"
    try:
        lock = os.open(f"{base}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        namespaces = _record(base, "netns")
        watcher = _record(base, "watcher")
        spare = {int(watcher[0])} if watcher else set()
        left = end_processes(
            lambda: [p for p in marked_processes(f"{MARK}={lab_id}", namespaces) if p not in spare]
        )
        for name in namespaces:
            if os.path.exists(f"{NETNS_DIR}/{name}"):
                subprocess.run(["ip", "netns", "del", name], check=False)
        stuck = [name for name in namespaces if os.path.exists(f"{NETNS_DIR}/{name}")]
        unmount_below(base)
        if left or stuck:
            raise LabError(f"lab {lab_id}: processes {left} can't be ended, {stuck} not be removed")
        shutil.rmtree(base, ignore_errors=True)
    finally:
        os.close(lock)
    try:
        os.rmdir(REGISTRY)
    except OSError:
        pass


def in_use(lab_id):
    """Does the owner of Lab `lab_id` still run?"""
    owner = _record(f"{REGISTRY}/{lab_id}", "owner")
    return len(owner) == 2 and start_time(int(owner[0])) == int(owner[1])


def sweep():
    """Takes down every Lab whose owner is gone. Returns their names."""
    gone = []
    try:
        entries = os.listdir(REGISTRY)
    except FileNotFoundError:
        return gone
    for lab_id in entries:
        if in_use(lab_id):
            continue
        _remove(lab_id)
        gone.append(lab_id)
    return gone


def _watch(lab_id, fd):
    """The watcher: blocks until the owner closes its end of the pipe, by whatever end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.read(fd, 1)
    _remove(lab_id)


# ---- routers -------------------------------------------------------------------------------


def frr_argv(daemon, directory):
    """Runs a stock FRR daemon in the foreground with everything it makes in `directory`.

    Its configuration is `directory`/DAEMON.conf; the directory must belong to user frr.
    """
    # FRR makes files in fixed places below /var: give it a /var that goes with the process.
    script = 'mount -t tmpfs none /var; mkdir -m 1777 /var/run /var/tmp; exec "$@"'
    return [
        "unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh",
        f"/usr/lib/frr/{daemon}", "-f", f"{directory}/{daemon}.conf",
        "-i", f"{directory}/{daemon}.pid", "-z", f"{directory}/zserv.api",
        "--vty_socket", directory, "-A", "127.0.0.1", "-P", "0", "--log", "stdout",
    ]


class Bird:
    """A running BIRD 2. Call it with a command of birdc; `control` is its socket's path."""

    def __init__(self, lab, process, conf_path, control):
        self.process, self.conf_path, self.control = process, conf_path, control
        self._lab = lab

    def __call__(self, command):
        return self._lab.run(None, ["birdc", "-s", self.control, *command.split()])

    def __str__(self):
        return self.control

    def configure(self, conf_text):
        """Loads another configuration; raises LabError when BIRD refuses it."""
        with open(self.conf_path, "w", encoding="utf-8") as file:
            file.write(conf_text)
        out = self("configure")
        if "Reconfigur" not in out:
            raise LabError(f"BIRD refused {self.conf_path}: {out}")


class Frr:
    """Running daemons of stock FRR that share a directory (`dir`: sockets, pid files)."""

    def __init__(self, lab, directory, processes):
        self.dir, self.processes, self.zserv = directory, processes, f"{directory}/zserv.api"
        self._lab = lab

    def vtysh(self, *commands):
        """Runs commands ("show …", or "configure terminal", "…") and returns the output."""
        argv = ["vtysh", "--vty_socket", self.dir]
        for command in commands:
            argv += ["-c", command]
        return self._lab.run(None, argv)


# ---- the lab -------------------------------------------------------------------------------


class Lab:
    """See the module's text. `name` is short: [a-z0-9]+."""

    _count = 0

    def __init__(self, name):
        Lab._count += 1
        self.id = f"{name}-{os.getpid()}-{Lab._count}"
        self.base = f"{REGISTRY}/{self.id}"
        self.dir = f"{self.base}/d"  # short, since Unix socket paths are
        self._processes = []
        self._pipe = None
        self._watcher = None

    def __enter__(self):
        sweep()
        os.makedirs(self.dir)
        with open(f"{self.base}/owner", "w", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {start_time(os.getpid())}")
        read_end, self._pipe = os.pipe()
        self._watcher = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), "--watch", self.id, str(read_end)],
            pass_fds=[read_end],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
        )
        os.close(read_end)
        with open(f"{self.base}/watcher", "w", encoding="utf-8") as file:
            file.write(str(self._watcher.pid))
        return self

    def __exit__(self, *_exc):
        self.close()

    def close(self):
        """Ends and removes everything."""
        if self._pipe is None:
            return
        for process, _log in reversed(self._processes):
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + 3
        for process, _log in self._processes:
            try:
                process.wait(max(0.01, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        try:
            _remove(self.id)
        finally:
            os.close(self._pipe)
            self._pipe = None
            self._watcher.wait()

    def _env(self, extra=None):
        return {**os.environ, **(extra or {}), MARK: self.id}

    @staticmethod
    def _argv(ns, argv):
        argv = [str(a) for a in argv]
        return ["ip", "netns", "exec", ns, *argv] if ns else argv

    def run(self, ns, argv, limit_s=60, check=True, stdin=None, env=None):
        """Runs a command in namespace `ns` (None: here) and returns its standard output.

        Raises LabError with all of its output when it fails, unless `check` is False.
        """
        done = subprocess.run(
            self._argv(ns, argv),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=limit_s,
            env=self._env(env),
            check=False,
        )
        if check and done.returncode != 0:
            raise LabError(
                f"{' '.join(map(str, argv))}: exit {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done.stdout

    def spawn(self, ns, argv, name, env=None, stdout=None):
        """Starts a process that stays in the foreground; returns its Popen.

        Its output goes to `dir`/`name`.log (standard output elsewhere if `stdout` is given). It is
        ended with the lab: TERM, then KILL.
        """
        log = f"{self.dir}/{name}.log"
        with open(log, "ab") as file:
            process = subprocess.Popen(
                self._argv(ns, argv),
                stdin=subprocess.DEVNULL,
                stdout=file if stdout is None else stdout,
                stderr=file,
                env=self._env(env),
            )
        self._processes.append((process, log))
        return process

    def log(self, name):
        """What the process that was spawned as `name` has written."""
        with open(f"{self.dir}/{name}.log", encoding="utf-8", errors="replace") as file:
            return file.read()

    def netns(self, name):
        """Makes a network namespace (lo up, forwarding off, no DAD); returns its full name."""
        share_namespaces()
        full = f"lab-{self.id}-{name}"
        with open(f"{self.base}/netns", "a", encoding="utf-8") as file:
            file.write(full + "\n")
        self.run(None, ["ip", "netns", "add", full])
        self.run(
            full,
            ["sh", "-ec",
             "ip link set lo up; cd /proc/sys/net/ipv6/conf;"
             " echo 0 >all/accept_dad; echo 0 >default/accept_dad"],
        )
        return full

    def veth(self, ns1, if1, ns2, if2, mtu=1500, mac1=None, mac2=None):
        """Links two namespaces; both ends are up, with all offloads off.

        (Userspace switches and TAPs hand on the half-made checksums of offloaded packets.)
        """
        self.run(
            None,
            ["ip", "link", "add", "name", if1, "netns", ns1, *(["address", mac1] if mac1 else []),
             "mtu", mtu, "type", "veth",
             "peer", "name", if2, "netns", ns2, *(["address", mac2] if mac2 else []), "mtu", mtu],
        )
        for ns, name in ((ns1, if1), (ns2, if2)):
            self.offloads_off(ns, name)
            self.run(None, ["ip", "-n", ns, "link", "set", "dev", name, "up"])

    def offloads_off(self, ns, interface):
        """Switches checksum and segmentation offloads of an interface off."""
        self.run(
            ns,
            ["ethtool", "-K", interface, "tx", "off", "rx", "off", "sg", "off", "tso", "off",
             "gso", "off", "gro", "off"],
        )

    def bird(self, ns, name, conf_text):
        """Starts BIRD 2 and waits until it answers. `conf_text` needs no log or socket lines."""
        conf, control = f"{self.dir}/{name}.conf", f"{self.dir}/{name}.ctl"
        with open(conf, "w", encoding="utf-8") as file:
            file.write(conf_text)
        process = self.spawn(
            ns, ["bird", "-f", "-c", conf, "-s", control, "-P", f"{self.dir}/{name}.pid"], name
        )
        bird = Bird(self, process, conf, control)
        self._wait_started(process, name, lambda: "Daemon is up" in bird("show status"))
        return bird

    def frr(self, ns, name, daemons, options=None):
        """Starts stock FRR daemons: {"zebra": conf, "bgpd": conf, …}, zebra always first.

        `options` adds arguments by daemon ({"zebra": ["-M", "dplane_fpm_nl"]}). Waits until each
        answers on its vty.
        """
        directory = f"{self.dir}/{name}"
        os.mkdir(directory)
        shutil.chown(directory, "frr", "frr")  # FRR insists on the user it was built for
        processes = {}
        frr = Frr(self, directory, processes)
        order = sorted(daemons, key=lambda d: (d != "zebra", d))
        for daemon in order:
            conf = f"{directory}/{daemon}.conf"
            with open(conf, "w", encoding="utf-8") as file:
                file.write(daemons[daemon])
            processes[daemon] = self.spawn(
                ns,
                [*frr_argv(daemon, directory), *(options or {}).get(daemon, [])],
                f"{name}-{daemon}",
            )
            self._wait_started(
                processes[daemon],
                f"{name}-{daemon}",
                lambda d=daemon: os.path.exists(f"{directory}/{d}.vty")
                and "FRRouting" in self.run(
                    None,
                    ["vtysh", "--vty_socket", directory, "-d", d, "-c", "show version"]),
            )
        return frr

    def exabgp(self, ns, name, conf_text):
        """Starts ExaBGP with a configuration (neighbours with static routes or a process)."""
        conf = f"{self.dir}/{name}.exabgp"
        with open(conf, "w", encoding="utf-8") as file:
            file.write(conf_text)
        return self.spawn(
            ns,
            ["exabgp", conf],
            name,
            env={"exabgp.daemon.daemonize": "false", "exabgp.daemon.user": "root",
                 "exabgp.api.cli": "false", "exabgp.log.destination": "stdout",
                 "exabgp.daemon.drop": "false"},
        )

    def _wait_started(self, process, name, ready):
        def check():
            if process.poll() is not None:
                return "ended"
            return "ready" if ready() else None

        state = wait_until(check, 20, f"{name} answers")
        if state == "ended":
            raise LabError(f"{name} ended with {process.returncode}:\n{self.log(name)}")


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "--watch":
        ctypes.CDLL(None).prctl(15, b"lab-watcher", 0, 0, 0)  # PR_SET_NAME
        _watch(sys.argv[2], int(sys.argv[3]))
    elif sys.argv[1:] == ["--sweep"]:
        for removed in sweep():
            print(f"removed what lab {removed} left behind")
    else:
        sys.exit("usage: lab.py --sweep")
