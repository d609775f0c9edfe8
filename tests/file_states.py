"""The state of every file of a folder, to compare it before and after a command."""

import hashlib


def file_states(folder):
    """Return SHA-256 and time of writing of each file, by its path in the folder."""
    return {
        file.relative_to(folder).as_posix(): (
            hashlib.sha256(file.read_bytes()).hexdigest(),
            file.stat().st_mtime_ns,
        )
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
