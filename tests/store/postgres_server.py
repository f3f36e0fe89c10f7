"""Run a PostgreSQL server of its own in a temporary folder until standard input ends.

Prints the URL of its one database, then serves over a Unix socket only; everything is removed at
the end, also when the parent was killed. Where there is no PostgreSQL it says why on standard error
and ends with 1. Usage: python tests/store/postgres_server.py [--fsync]
"""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

PLACES = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
)


def binaries() -> Path | None:
    """The folder of the newest initdb on this machine."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    found = [
        path
        for pattern in PLACES
        for path in Path("/").glob(pattern.lstrip("/"))
        if (path / "initdb").exists()
    ]
    return max(found, key=lambda path: (len(str(path)), str(path)), default=None)


def main() -> int:
    """Serve."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # by way of every `finally`
    folder = binaries()
    if folder is None:
        print("no PostgreSQL here: apt-get install postgresql, or brew install", file=sys.stderr)
        return 1
    user, owner = None, os.getuid()
    if owner == 0:  # the server refuses to run as root
        entry = next((pwd.getpwnam(name) for name in ("postgres", "nobody") if _exists(name)), None)
        if entry is None:
            print("running as root, and no user postgres or nobody to serve as", file=sys.stderr)
            return 1
        user, owner = entry.pw_name, entry.pw_uid
    # Short, since a socket's path may have some 100 characters.
    with tempfile.TemporaryDirectory(prefix="qd-pg-", dir="/tmp") as place:
        os.chown(place, owner, -1)
        data = Path(place) / "data"
        as_user = {"user": user} if user else {}
        made = subprocess.run(
            [
                *(folder / "initdb", "-D", data, "-A", "trust", "-U", "quietdesk"),
                *("--no-sync", "-E", "UTF8", "--locale=C"),
            ],
            capture_output=True,
            text=True,
            cwd=place,
            **as_user,
        )
        if made.returncode:
            print(f"initdb failed: {made.stderr.strip()}", file=sys.stderr)
            return 1
        control = [folder / "pg_ctl", "-D", data, "-s", "-w"]
        # What is tested is the death of clients and of the server, not of the power.
        fsync = "on" if "--fsync" in sys.argv else "off"
        options = f"-k {place} -c listen_addresses='' -c fsync={fsync} -c max_connections=300"
        started = subprocess.run(
            [*control, "-l", Path(place) / "log", "-o", options, "start"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=place,
            **as_user,
        )
        try:
            if started.returncode:
                print((Path(place) / "log").read_text().strip()[-500:], file=sys.stderr)
                return 1
            print(f"postgresql://quietdesk@/postgres?host={place}", flush=True)
            sys.stdin.read()
        except KeyboardInterrupt:
            pass
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], cwd=place, **as_user)
    return 0


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
