"""Where a file or folder lies on this machine; what is on the hub is fetched first."""

import re
from pathlib import Path, PurePosixPath

from edgewise._errors import InputError
from edgewise.runs import user_path

WEIGHTS = (".safetensors", ".pt", ".npz")
"""How files of weights end."""
BESIDE = ("config.yaml", "config.json")
"""What lies beside a file of weights and says how it is to be read."""
_PART = re.compile(r"(?!\.+$)[^\x00-\x1f\x7f\\/:]+")
"""Of a hub id or a path in a repository; none of dots alone, which would lead out of it."""


def local(source: str) -> Path:
    """Where a file or folder lies on this machine; what is on the hub is fetched first. Raises `InputError`."""
    path = user_path(source)
    on_disk = source.startswith((".", "/", "~")) or "/" not in source or path.parent.is_dir()
    on_disk = on_disk or (source.count("/") == 1 and path.suffix in WEIGHTS)  # no repository is called so
    if not source.startswith("hf://") and (path.exists() or on_disk):
        if not path.exists():
            raise InputError(
                f"{source}: no such file or folder; give one, or a hub id (hf://org/name[/folder][@revision])"
            )
        return path
    name = source.removeprefix("hf://").replace("?revision=", "@")
    place, _, revision = name.partition("@")
    organisation, repository, *inner = [*place.split("/"), ""]
    if not all(_PART.fullmatch(part) for part in (organisation, repository, *inner[:-1])):
        raise InputError(f"{source}: no hub id; write org/name[/folder][@revision]")
    inner = inner[:-1]
    return _fetch(f"{organisation}/{repository}", "/".join(inner), revision or None, source)


def _fetch(repository: str, inner: str, revision: str | None, source: str) -> Path:
    from huggingface_hub import snapshot_download

    if not inner:
        _check_top(repository, revision, source)
    # The two folders above may say how it was trained, as sparsify's do.
    above = [str(folder / "config.json") for folder in list(PurePosixPath(inner).parents)[:2]]
    patterns = [inner, f"{inner}/*", *above] if inner else None
    if inner.endswith(WEIGHTS):
        patterns = [inner, *(f"{inner.rpartition('/')[0]}/{name}".lstrip("/") for name in BESIDE)]
    try:
        folder = snapshot_download(repository, revision=revision, allow_patterns=patterns)
    except Exception as error:  # the hub client raises many kinds; the user needs one line
        reason = " ".join(str(error).split())
        raise InputError(f"{source}: neither here nor on the hub ({reason[:160]})") from error
    path = Path(folder) / inner
    if not path.exists():
        raise InputError(f"{source}: the repository holds no {inner}")
    return path


def _check_top(repository: str, revision: str | None, source: str) -> None:
    """Refuse a repository of folders before all of it, hundreds of gigabytes it may be, is fetched."""
    from huggingface_hub import list_repo_files

    try:
        names = list_repo_files(repository, revision=revision)
    except Exception:  # no connection: what was fetched before may be all there, and else the fetching says why
        return
    weights = [name for name in names if name.endswith(WEIGHTS)]
    near = [name for name in weights if "/" not in name or re.fullmatch(r"[^/]+/sae\.safetensors", name)]
    if weights and not near and "config.yaml" not in names:  # which lists what lies deeper
        folder, at = weights[0].rpartition("/")[0], f"@{revision}" if revision else ""
        raise InputError(
            f"{source}: its weights ({len(weights):,} files) lie in folders; name one, such as "
            f"{repository}/{folder}{at}"
        )
