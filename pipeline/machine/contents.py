"""What a file holds, whatever its name says: for the message about one that is not what was asked for.

Downloads bring pages of errors and pointers of Git LFS under the names of weights; browsers unpack archives.
"""

from __future__ import annotations

import re
import tarfile
import zipfile
from pathlib import Path

SAFETENSORS, TORCH, OLD_TORCH = "safetensors", "a torch file", "a torch file of before torch 1.6"
PICTURE, VIDEO = "a picture", "a video"
_HEAD = 512  # bytes that tell
# The pickle of torch's magic number, which begins a file that is no zip: protocol 2, a long of ten bytes.
_TORCH_MAGIC = bytes.fromhex("8002 8a0a 6cfc9c46f9206aa85019")
_STARTS = (
    (rb"version https://git-lfs\.github\.com/", "a pointer of Git LFS in its place; `git lfs pull` fetches the file"),
    (rb"\s*<(!doctype html|html)", "a web page; what was downloaded was not the file, see what its address answers"),
    (rb"\s*<\?xml", "an XML document"),
    (rb"\x1f\x8b", "a gzip archive; unpack it"),
    (rb"\xfd7zXZ|BZh|\x28\xb5\x2f\xfd|7z\xbc\xaf", "a packed archive; unpack it"),
    (rb"\x89HDF", "an HDF5 file, as Keras and MATLAB write it"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|[\s\S]{4}ftypavi[fs]", PICTURE),
    (rb"[\s\S]{4}ftyp(hei[cxms]|hevc|mif1|msf1)", "a HEIC picture"),
    (rb"[\s\S]{4}ftyp|RIFF[\s\S]{4}AVI |\x1a\x45\xdf\xa3", VIDEO),
    (rb"\s*<svg", "an SVG drawing"),
    (rb"%PDF", "a PDF"),
    (rb"%!PS", "PostScript"),
    (rb"PK\x03\x04", "a zip archive; unpack it"),
    (rb"ply\r?\n", "a PLY file"),
    (rb"\s*[{\[]", "a JSON document"),
    (rb"\x80[\x02-\x05]", "a Python pickle that torch did not write"),
    (rb"\0+$", "zeros; it was not written to its end, copy it again"),
)


def described(path: Path) -> str:
    """What a file is, in words that follow `got`, and where it helps, what to do.

    SAFETENSORS, TORCH and OLD_TORCH for those; they may be damaged all the same. Raises OSError.
    """
    if path.is_dir():
        return "a folder"
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        return "an empty file; copy it again"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return SAFETENSORS
    if head.startswith(_TORCH_MAGIC):
        return OLD_TORCH
    if zipfile.is_zipfile(path):
        return _of_zip(path)
    if head.startswith(b"PK"):
        return "the beginning of a zip archive; copy it again"
    known = described_head(head)
    if known is None and tarfile.is_tarfile(path):
        return "a tar archive; unpack it"
    return known or "other bytes"


def described_head(head: bytes) -> str | None:
    """As `described`, by a file's first bytes alone; None where they are nothing that is known."""
    return next((words for start, words in _STARTS if re.match(start, head, re.IGNORECASE)), None)


def _of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "a damaged zip archive; copy it again"
    if any(name.endswith("/constants.pkl") for name in names):
        return "a TorchScript program; save its state_dict() with torch.save instead"
    return TORCH if any(name.endswith("data.pkl") for name in names) else "a zip archive; unpack it"
