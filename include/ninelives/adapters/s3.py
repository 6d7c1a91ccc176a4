"""A site's object store over S3.

Checksums are asked for only where the protocol requires them: ``rclone serve s3`` answers a range request with the
checksum of the whole object, which boto3 would take for corruption. What must be intact is checked against the
SHA-256 in its manifest by whoever reads it; a write is guarded by Content-MD5, which every server verifies.
"""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

from ninelives.errors import NoBucket, Unavailable
from ninelives.ports import Connection, ObjectInfo

_MISSING = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}
_DENIED = {"401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
_OURS = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}

_making = threading.Lock()
"""Clients may be used by several threads, a session may not."""


@cache
def _session() -> Any:
    """One for all stores: reading what S3 is takes it a tenth of a second."""
    import boto3
    import botocore.session

    session = botocore.session.get_session()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_instant)
    return boto3.session.Session(botocore_session=session)


def _instant(text: Any) -> datetime:
    """Half of the time that a listing took was spent on guessing the format of the same ISO 8601 times."""
    from botocore.utils import parse_timestamp

    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):  # the date of a header
        found: datetime = parse_timestamp(text)
        return found


def _read_page(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object) -> None:
    """The objects of one page of a listing, as far as ``list`` needs them; the rest of the page is left to botocore.

    Its own parser walks the model of the answer for each field of each object: 45 µs an object, here 5.
    """
    if response_dict["status_code"] != 200:
        return
    try:
        page = ElementTree.fromstring(response_dict["body"])  # noqa: S314 - as botocore itself reads it
    except ElementTree.ParseError:
        return  # botocore says what is wrong with it
    space = page.tag[: page.tag.find("}") + 1]
    found = page.findall(f"{space}Contents")
    for one in found:
        page.remove(one)
    customized_response_dict["Contents"] = [
        {
            "Key": one.findtext(f"{space}Key", ""),
            "Size": int(one.findtext(f"{space}Size", "")),
            "LastModified": _instant(one.findtext(f"{space}LastModified", "")),
        }
        for one in found
    ]
    response_dict["body"] = ElementTree.tostring(page)


class S3ObjectStore:
    """``ports.ObjectStore`` on boto3; safe to use from several threads.

    :param endpoint_url: ``None`` for AWS itself
    :param bucket_prefix: before the name of every bucket, which is given only once in all of AWS
    :param connect_timeout: seconds
    :param read_timeout: seconds without a byte before the store counts as not answering
    """

    def __init__(
        self,
        site: str,
        *,
        endpoint_url: str | None,
        access_key: str | None,
        secret_key: str | None,
        region: str = "us-east-1",
        bucket_prefix: str = "",
        connect_timeout: float = 2.0,
        read_timeout: float = 15.0,
    ) -> None:
        self.site = site
        self._where = f"the store of site {site} ({endpoint_url or 'AWS'})"
        self._endpoint_url = endpoint_url
        self._keys = (access_key, secret_key)
        self._region = region
        self._prefix = bucket_prefix
        self._timeouts = (connect_timeout, read_timeout)
        self._clients: dict[tuple[float, float, int], Any] = {}

    @classmethod
    def from_connection(cls, connection: Connection, site: str) -> S3ObjectStore:
        """The store that ``ninelives_<site>_store`` names.

        :raises Unavailable: its ``endpoint_url`` is no address
        """
        endpoint = connection.extra.get("endpoint_url")
        if endpoint and not _is_address(str(endpoint)):
            raise Unavailable(
                f"connection {connection.conn_id}: endpoint_url is no address; write it like http://host:9000, without "
                "keys in it, or leave it out for AWS"
            )
        return cls(
            site,
            endpoint_url=endpoint,
            access_key=connection.login,
            secret_key=connection.password,
            region=connection.extra.get("region_name") or "us-east-1",
            bucket_prefix=connection.bucket(""),
        )

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Raises ``Unavailable`` also for a missing bucket: nothing was stored."""
        digest = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        with self._asking(f"write {bucket}/{key}"):
            self._client().put_object(Bucket=self._prefix + bucket, Key=key, Body=data, ContentMD5=digest)

    def get(self, bucket: str, key: str) -> bytes | None:
        from botocore.exceptions import ClientError

        with self._asking(f"read {bucket}/{key}"):
            try:
                body: bytes = self._client().get_object(Bucket=self._prefix + bucket, Key=key)["Body"].read()
            except ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise
        return body

    def chunks(self, bucket: str, key: str) -> Iterator[bytes] | None:
        """The object in pieces of 1 MiB, for one that memory should not hold; ``None`` where it does not exist."""
        from botocore.exceptions import ClientError

        with self._asking(f"read {bucket}/{key}"):
            try:
                body = self._client().get_object(Bucket=self._prefix + bucket, Key=key)["Body"]
            except ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise
        return self._pieces(body, f"read {bucket}/{key} to its end")

    def _pieces(self, body: Any, what: str) -> Iterator[bytes]:
        with self._asking(what), body:
            yield from body.iter_chunks(2**20)

    def head(self, bucket: str, key: str) -> ObjectInfo | None:
        from botocore.exceptions import ClientError

        with self._asking(f"look at {bucket}/{key}"):
            try:
                found = self._client().head_object(Bucket=self._prefix + bucket, Key=key)
            except ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise
        return ObjectInfo(key=key, size=found["ContentLength"], modified=found["LastModified"].astimezone(UTC))

    def list(self, bucket: str, prefix: str = "") -> Iterator[ObjectInfo]:
        """In key order as the store gives it. A missing bucket is ``NoBucket``: it must not look empty."""
        with self._asking(f"list {bucket}/{prefix}"):
            pages = self._client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._prefix + bucket, Prefix=prefix):
                for item in page.get("Contents", ()):
                    modified = item["LastModified"].astimezone(UTC)
                    yield ObjectInfo(key=item["Key"], size=item["Size"], modified=modified)

    def delete(self, bucket: str, key: str) -> None:
        """Deleting what does not exist is not an error."""
        from botocore.exceptions import ClientError

        with self._asking(f"delete {bucket}/{key}"):
            try:
                self._client().delete_object(Bucket=self._prefix + bucket, Key=key)
            except ClientError as error:
                if _code(error) not in _MISSING:
                    raise

    def ensure_bucket(self, bucket: str) -> None:
        from botocore.exceptions import ClientError

        elsewhere = {} if self._region == "us-east-1" else {"LocationConstraint": self._region}
        with self._asking(f"make bucket {bucket}"):
            try:
                self._client().head_bucket(Bucket=self._prefix + bucket)
                return
            except ClientError as error:
                if _code(error) not in _MISSING:
                    raise
            try:
                self._client().create_bucket(
                    Bucket=self._prefix + bucket, **({"CreateBucketConfiguration": elsewhere} if elsewhere else {})
                )
            except ClientError as error:
                if _code(error) not in _OURS:
                    raise

    def ping(self, timeout: float = 1.0) -> None:
        """Asks once, with the keys, and returns or raises within twice ``timeout``."""
        client = self._client(connect=timeout, read=timeout, attempts=1)  # its first import is not the store's time
        started = time.monotonic()
        with self._asking("answer"):
            client.list_buckets()
        if (took := time.monotonic() - started) > timeout:
            raise Unavailable(f"{self._where} answered only after {took:.2f} s; {timeout:g} s were allowed")

    def prepare(self) -> None:
        """Build the client, which takes a fifth of a second, without asking the store anything."""
        self._client()

    def _client(self, *, connect: float | None = None, read: float | None = None, attempts: int = 2) -> Any:
        settings = (connect or self._timeouts[0], read or self._timeouts[1], attempts)
        with _making:
            if settings not in self._clients:
                # Imported and built on first use: DAG parsing and the command line only hold the object.
                from botocore.config import Config

                self._clients[settings] = client = _session().client(
                    "s3",
                    endpoint_url=self._endpoint_url,
                    aws_access_key_id=self._keys[0],
                    aws_secret_access_key=self._keys[1],
                    region_name=self._region,
                    config=Config(
                        connect_timeout=settings[0],
                        read_timeout=settings[1],
                        retries={"total_max_attempts": attempts, "mode": "standard"},
                        request_checksum_calculation="when_required",
                        response_checksum_validation="when_required",
                        # Bucket names in host names do not resolve on a local endpoint.
                        s3={"addressing_style": "path"} if self._endpoint_url else {},
                        proxies={} if self._endpoint_url else None,
                    ),
                )
                client.meta.events.register_first("before-parse.s3.ListObjectsV2", _read_page)
            return self._clients[settings]

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            code = _code(error)
            if code in _DENIED:
                reason = f"it refused the key ({code}); check connection ninelives_{self.site}_store"
            elif code == "NoSuchBucket":
                raise NoBucket(f"{self._where} did not {what}: the bucket does not exist") from error
            else:
                reason = str(error)
            raise Unavailable(f"{self._where} did not {what}: {reason}") from error
        except (BotoCoreError, OSError) as error:
            raise Unavailable(f"{self._where} did not {what}: {error}") from error


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        sound = bool(parts.hostname) and parts.port != 0 and parts.username is None
    except ValueError:  # the port is no number
        return False
    return sound and parts.scheme in ("http", "https") and len(url.split()) == 1


def _code(error: Any) -> str:
    code: str = error.response.get("Error", {}).get("Code", "")
    return code
