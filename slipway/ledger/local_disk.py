"""Whether a folder is on a disk of this machine: SQLite's locks and shared memory end at the machine's edge."""

from pathlib import Path

# Kinds of file systems that several machines mount at once.
_SHARED = (
    "9p", "afs", "beegfs", "ceph", "cifs", "fhgfs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "gfs2",
    "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "ocfs2", "smb3", "smbfs",
)  # fmt: skip
_MOUNTS = Path("/proc/self/mountinfo")


def network_kind(folder: Path) -> str | None:
    """The kind of network file system that a folder is on; None on a local one, or where nothing tells."""
    try:
        return kind_in(_MOUNTS.read_text(errors="replace"), folder.resolve())
    except OSError:
        return None


def kind_in(mounts: str, folder: Path) -> str | None:
    """The same, by what the kernel says is mounted where: of the mounts above a folder, the deepest and newest."""
    found, depth = None, -1
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")[0]
        if len(fields) < 5:
            continue
        point = Path(fields[4].replace("\\040", " ").replace("\\011", "\t"))
        if folder.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = kind, len(point.parts)
    return found if found in _SHARED else None
