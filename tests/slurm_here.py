"""A real Slurm on this machine, for tests: one node, two pretend GPUs, no accounting.

Started as root from Debian's packages, without systemd and without cgroups; everything
it writes lies in one folder, but for munge's key and socket.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
_PATH = "/usr/sbin:/sbin:" + os.environ["PATH"]


def why_not():
    """Return why Slurm cannot be started here; empty if it can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
    if missing:
        return f"Slurm is not installed ({', '.join(missing)} missing)"
    if os.geteuid() != 0:
        return "only root can start a Slurm for a test"
    if _answers(Path("/run/munge/munge.socket.2")):
        return "another munge runs here; this Slurm would get in its way"
    return ""


def _answers(file):
    """Whether somebody listens at a socket; one that a dead process left is removed."""
    if not file.exists():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        try:
            caller.connect(str(file))
        except ConnectionRefusedError:
            file.unlink()
            return False
    return True


@contextlib.contextmanager
def slurm(folder):
    """Run a Slurm while the block does; yield the variables that its commands need."""
    daemons = []
    conf = _configured(folder)
    environment = {**os.environ, "SLURM_CONF": str(conf), "PATH": _PATH}
    try:
        _make_munge_folders()
        daemons.append(_start(["runuser", "-u", "munge", "--", "munged", "-F"]))
        _until(lambda: Path("/run/munge/munge.socket.2").exists(), "munge")
        daemons.append(_start(["slurmctld", "-D"], environment))
        daemons.append(_start(["slurmd", "-D"], environment))
        _until(
            lambda: "idle" in _said(["sinfo", "-h", "-o", "%T"], environment), "node"
        )
        yield environment
    finally:
        _said(["scancel", "--user=root"], environment)
        time.sleep(1)
        for daemon in reversed(daemons):
            _stop(daemon)
        Path("/run/munge/munge.socket.2").unlink(missing_ok=True)


def _configured(folder):
    host = socket.gethostname().partition(".")[0]
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30
    for name in ("state", "spool", "run", "log"):
        (folder / name).mkdir(parents=True)
    settings = {
        "ClusterName": "test",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        "CryptoType": "crypto/munge",
        "MpiDefault": "none",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "AccountingStorageType": "accounting_storage/none",
        "JobAcctGatherType": "jobacct_gather/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        "ReturnToService": "2",
        "SlurmctldPidFile": folder / "run" / "slurmctld.pid",
        "SlurmdPidFile": folder / "run" / "slurmd.pid",
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool",
        "SlurmctldLogFile": folder / "log" / "slurmctld.log",
        "SlurmdLogFile": folder / "log" / "slurmd.log",
        "KillWait": "5",
        "MinJobAge": "600",
        "GresTypes": "gpu",
        "SchedulerParameters": "requeue_delay=5",
    }
    node = (
        f"NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} "
        f"RealMemory={(gib - 1) * 1024} Gres=gpu:2 State=UNKNOWN"
    )
    partition = f"PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP"
    lines = [f"{key}={value}" for key, value in settings.items()]
    conf = folder / "slurm.conf"
    conf.write_text("\n".join([*lines, node, partition, ""]))
    # Any character device can stand for a GPU.
    (folder / "gres.conf").write_text(
        f"NodeName={host} Name=gpu File=/dev/null\n"
        f"NodeName={host} Name=gpu File=/dev/zero\n"
    )
    return conf


def _make_munge_folders():
    for name, mode in (("/run/munge", 0o755), ("/var/lib/munge", 0o700)):
        Path(name).mkdir(parents=True, exist_ok=True)
        Path(name).chmod(mode)
        shutil.chown(name, "munge", "munge")
    log = Path("/var/log/munge")
    log.mkdir(parents=True, exist_ok=True)
    log.chmod(0o700)
    shutil.chown(log, "munge", "munge")
    key = Path("/etc/munge/munge.key")
    if not key.exists() or not key.stat().st_size:
        key.parent.mkdir(parents=True, exist_ok=True)
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        shutil.chown(key, "munge", "munge")


def _start(command, environment=None):
    return subprocess.Popen(
        command,
        env=environment or {**os.environ, "PATH": _PATH},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _stop(daemon):
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(daemon.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.wait(10)
            return


def _said(command, environment):
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    return result.stdout


def _until(happened, what, *, seconds=60):
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise RuntimeError(f"Slurm did not start: no {what} within {seconds} s")
        time.sleep(0.25)
