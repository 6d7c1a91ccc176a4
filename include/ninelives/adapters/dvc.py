"""The exact version of training data, kept with DVC in a site's store."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from ninelives.errors import Corrupted, Unavailable
from ninelives.ports import Connection, ObjectStore
from ninelives.versions.objects import BUCKET, object_key, read_version


def keep_version(folder: Path, remote: Connection, store: ObjectStore, files: Mapping[str, bytes]) -> str:
    """Put ``files`` under version control in the repository at ``folder`` and push them to the store behind ``remote``.

    One snapshot file and its manifest instead of the hundreds of objects of a dataset: DVC spends 4 to 6 times rclone's
    time on small files, and the objects themselves are replicated and verified anyway.

    DVC takes what it once pushed to be there for ever: it says "up to date" over a damaged object and over a missing
    one. So every object of the version is read back, and what is not right is written again from DVC's cache.

    :param remote: without ``endpoint_url`` AWS itself, and without login whatever key AWS finds on this machine
    :param store: the store behind ``remote``
    :return: DVC's hash of the folder of files, ``<md5>.dir``: the same files give the same one
    :raises Unavailable: the store did not take them
    """
    # rclone answers range requests with the checksum of the whole object, which the client would take for corruption.
    os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    from botocore.exceptions import BotoCoreError
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc_objects.errors import ObjectFormatError

    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ".dvc").exists():
        Repo.init(str(folder), no_scm=True).close()
    private = folder / ".dvc" / "config.local"
    private.touch(mode=0o600)
    with Repo(str(folder)) as repo:
        with repo.config.edit("local") as config:
            config["core"] = {"remote": "store", "analytics": False}
            settings = {
                "url": f"s3://{remote.bucket(BUCKET)}",
                "endpointurl": remote.extra.get("endpoint_url"),
                "region": remote.extra.get("region_name"),
                "access_key_id": remote.login,
                "secret_access_key": remote.password,
                "verify": True,  # without it a damaged object is pulled without a word
            }
            config["remote"]["store"] = {name: value for name, value in settings.items() if value}
        private.chmod(0o600)
    cache, data = folder / ".dvc" / "cache", folder / "data"
    data.mkdir(exist_ok=True)
    for name, content in files.items():
        (data / name).write_bytes(content)
    try:
        with Repo(str(folder)) as repo:
            (stage,) = repo.add(str(data))
            version = str(stage.outs[0].hash_info.value)
            _mend(cache, store, version, absent=False)  # a push would fall over a damaged list of files
            repo.push()
    except (DvcException, ObjectFormatError, BotoCoreError, OSError) as error:
        raise Unavailable(
            f"DVC could not keep the version in {BUCKET} at {remote.extra.get('endpoint_url', 'AWS')}: {error}"
        ) from error
    _mend(cache, store, version, absent=True)
    if read_version(store, version) != dict(files):
        raise Corrupted(f"version {version} in {BUCKET} at {store.site} is not what was put under version control")
    return version


def _mend(cache: Path, store: ObjectStore, version: str, *, absent: bool) -> None:
    """Write what the store has damaged again, and with ``absent`` what it lacks."""
    names = [version, *(entry["md5"] for entry in json.loads((cache / object_key(version)).read_bytes()))]
    for name in names:
        good = (cache / object_key(name)).read_bytes()
        there = store.get(BUCKET, object_key(name))
        if there != good and (absent or there is not None):
            store.put(BUCKET, object_key(name), good)
