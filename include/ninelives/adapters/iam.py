"""IAM and bucket policies of a site, over boto3."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from ninelives.errors import Refused, Unavailable
from ninelives.ports import AccessPolicy, Connection

_NONE = {"NoSuchBucketPolicy", "NoSuchBucket", "NoSuchEntity", "404"}
_DENIED = {"AccessDenied", "AccessDeniedException", "InvalidClientTokenId", "SignatureDoesNotMatch", "403"}
_EVERYBODY = ("AllUsers", "AuthenticatedUsers")
_SERVICES = "/aws-service-role/"
"""Roles that AWS keeps for itself: nobody can change what they may."""


class AwsAccess:
    """``ports.AccessControl`` on IAM and S3. Roles that AWS keeps for itself are left out.

    :param connection: ``ninelives_<site>_access``; it needs ``iam:GetAccountAuthorizationDetails``,
        ``s3:GetBucketPolicy`` and ``s3:GetBucketAcl``, and to grant ``iam:Put/DeleteUserPolicy`` and ``…RolePolicy``
    :param store: ``ninelives_<site>_store``, which says what the site's buckets are called
    """

    def __init__(self, connection: Connection, site: str, store: Connection) -> None:
        self.site = site
        self._connection = connection
        self._store = store

    def bucket(self, name: str) -> str:
        return self._store.bucket(name)

    def policies(self, buckets: Sequence[str]) -> list[AccessPolicy]:
        with self._asking("list its policies"):
            found = list(self._identities())
            account = self._account
            for bucket in buckets:
                if (text := self._ask_bucket(self._s3.get_bucket_policy, bucket)) is not None:
                    where = f"the policy of bucket {bucket}"
                    found.append(AccessPolicy(where, json.loads(text["Policy"]), account=account))
                if writers := self._writers(bucket):
                    found.append(AccessPolicy(f"the access list of bucket {bucket}", writers, account=account))
        return found

    def _writers(self, bucket: str) -> dict[str, Any] | None:
        """What a bucket's access list lets other accounts do to its objects, as a policy says it.

        ``READ`` of a bucket is listing its names; objects are read by their own lists.
        """
        acl = self._ask_bucket(self._s3.get_bucket_acl, bucket) or {"Grants": []}
        who = [
            grant["Grantee"]["ID"]
            for grant in acl["Grants"]
            if grant["Permission"] in ("WRITE", "FULL_CONTROL")
            and grant["Grantee"].get("ID", acl["Owner"]["ID"]) != acl["Owner"]["ID"]
        ]
        statement = {
            "Effect": "Allow",
            "Principal": {"CanonicalUser": who},
            "Action": ["s3:PutObject", "s3:DeleteObject"],
            "Resource": f"arn:aws:s3:::{bucket}/*",
        }
        return {"Statement": [statement]} if who else None

    def public(self, buckets: Sequence[str]) -> dict[str, str]:
        found = {}
        with self._asking("read its buckets' access lists"):
            for bucket in buckets:
                acl = self._ask_bucket(self._s3.get_bucket_acl, bucket) or {"Grants": []}
                for grant in acl["Grants"]:
                    if str(grant["Grantee"].get("URI", "")).endswith(_EVERYBODY):
                        found[bucket] = f"may {grant['Permission'].lower()} by its access list"
        return found

    def put(self, who: str, name: str, document: Mapping[str, Any]) -> None:
        with self._asking(f"give {who} {name}"):
            kind = self._kind(who)
            if kind is None:
                raise Refused("access", [f"{self.site} has no user or role {who}; make it, or correct the estate"])
            call = self._iam.put_role_policy if kind == "Role" else self._iam.put_user_policy
            call(**{f"{kind}Name": who}, PolicyName=name, PolicyDocument=json.dumps(document))

    def remove(self, who: str, name: str) -> None:
        from botocore.exceptions import ClientError

        with self._asking(f"take {name} from {who}"):
            for kind, call in (("Role", self._iam.delete_role_policy), ("User", self._iam.delete_user_policy)):
                try:
                    call(**{f"{kind}Name": who}, PolicyName=name)
                except ClientError as error:
                    if _code(error) not in _NONE:
                        raise

    def _kind(self, who: str) -> str | None:
        from botocore.exceptions import ClientError

        for kind, call in (("Role", self._iam.get_role), ("User", self._iam.get_user)):
            try:
                call(**{f"{kind}Name": who})
            except ClientError as error:
                if _code(error) not in _NONE:
                    raise
            else:
                return kind
        return None

    def _identities(self) -> Iterator[AccessPolicy]:
        users, roles = [], []
        groups: dict[str, Any] = {}
        managed: dict[str, Any] = {}
        pages = self._iam.get_paginator("get_account_authorization_details").paginate(
            Filter=["User", "Role", "Group", "LocalManagedPolicy"]
        )
        for page in pages:
            users += page["UserDetailList"]
            roles += page["RoleDetailList"]
            groups |= {group["GroupName"]: group for group in page["GroupDetailList"]}
            for policy in page["Policies"]:
                default = next(one for one in policy["PolicyVersionList"] if one["IsDefaultVersion"])
                managed[policy["Arn"]] = default["Document"]
        self._account = next((one["Arn"].split(":")[4] for one in [*users, *roles]), "")
        for user in users:
            yield from self._of(user, "user", user["UserName"], user.get("UserPolicyList", ()), managed)
            for name in user.get("GroupList", ()):
                group = groups[name]
                for policy in self._of(group, "group", name, group.get("GroupPolicyList", ()), managed):
                    yield AccessPolicy(policy.where, policy.document, user["UserName"], account=policy.account)
        for role in roles:
            if not role["Path"].startswith(_SERVICES):
                yield from self._of(role, "role", role["RoleName"], role.get("RolePolicyList", ()), managed)

    def _of(
        self, holder: Mapping[str, Any], kind: str, name: str, inline: Sequence[Any], managed: dict[str, Any]
    ) -> Iterator[AccessPolicy]:
        for one in inline:
            where = f"policy {one['PolicyName']} of {kind} {name}"
            yield AccessPolicy(where, _document(one["PolicyDocument"]), name, one["PolicyName"], self._account)
        for one in holder.get("AttachedManagedPolicies", ()):
            arn = one["PolicyArn"]
            if arn not in managed:  # one of AWS's own
                version = self._iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
                managed[arn] = self._iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"][
                    "Document"
                ]
            where = f"policy {one['PolicyName']} attached to {kind} {name}"
            yield AccessPolicy(where, _document(managed[arn]), name, account=self._account)

    _account = ""

    def _ask_bucket(self, call: Any, bucket: str) -> Any:
        from botocore.exceptions import ClientError

        try:
            return call(Bucket=bucket)
        except ClientError as error:
            if _code(error) in _NONE:
                return None
            raise

    @cached_property
    def _iam(self) -> Any:
        return self._client("iam")

    @cached_property
    def _s3(self) -> Any:
        return self._client("s3")

    def _client(self, service: str) -> Any:
        import boto3
        from botocore.config import Config

        extra = self._connection.extra
        session = boto3.Session(
            aws_access_key_id=self._connection.login or None,
            aws_secret_access_key=self._connection.password or None,
            aws_session_token=extra.get("aws_session_token"),
            region_name=extra.get("region_name") or "us-east-1",
        )
        settings = Config(
            connect_timeout=2, read_timeout=15, retries={"total_max_attempts": 2}, s3={"addressing_style": "path"}
        )
        return session.client(service, endpoint_url=extra.get("endpoint_url"), config=settings)

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            message = f"{self.site} does not let us {what}: {error}"
            if _code(error) in _DENIED:
                raise Refused("access", [f"{message}; give ninelives_{self.site}_access the right"]) from error
            raise Unavailable(message) from error
        except BotoCoreError as error:
            raise Unavailable(f"cannot {what} at {self.site}: {error}") from error


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _document(value: Any) -> Mapping[str, Any]:
    document: Mapping[str, Any] = json.loads(value) if isinstance(value, str) else value
    return document
