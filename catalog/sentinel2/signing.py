"""Addresses of CDSE's S3 store, and requests signed in their headers: presigned addresses are refused there.

Source: AWS Signature Version 4, as botocore makes it; https://documentation.dataspace.copernicus.eu/APIs/S3.html
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import requests

from catalog.sentinel2.destination import destination, may_have_secrets
from catalog.sentinel2.settings import S3Keys, read_s3_keys
from stratacube.addresses import plain_url
from stratacube.errors import SourceError

__all__ = ["CDSE_S3", "S3Signer"]

CDSE_S3 = "https://eodata.dataspace.copernicus.eu"
_BUCKET = "eodata"
_REGION = "default"


class S3Signer:
    """Signs requests for one endpoint.

    Parameters
    ----------
    keys
        Called at the first request, not before.
    endpoint
        Server that answers as S3 does.
    """

    def __init__(self, keys: Callable[[], S3Keys] = read_s3_keys, endpoint: str = CDSE_S3) -> None:
        self._read_keys, self.endpoint = keys, endpoint.rstrip("/")
        self._keys: S3Keys | None = None

    def url(self, href: str) -> str:
        """Path-style address of an ``s3://`` one.

        Raises
        ------
        SourceError
            If it lies in a bucket that CDSE does not have.
        """
        bucket, _, key = href.removeprefix("s3://").partition("/")
        if bucket != _BUCKET and self.endpoint == CDSE_S3:
            raise SourceError(
                f"{plain_url(href)} lies in bucket {bucket}, but CDSE has only {_BUCKET}; take `access=https` for it"
            )
        return f"{self.endpoint}/{quote(bucket)}/{quote(key)}"

    def sign(self, request: requests.PreparedRequest) -> None:
        """Sign a prepared GET request in its headers.

        Raises
        ------
        SourceError
            If it would go to another host than the endpoint, or over the net without TLS.
        """
        # botocore is slow to load, and only this way of access needs it.
        from botocore.auth import S3SigV4Auth  # noqa: PLC0415
        from botocore.awsrequest import AWSRequest  # noqa: PLC0415
        from botocore.credentials import Credentials  # noqa: PLC0415

        own = destination(requests.Request("GET", self.endpoint).prepare())
        if not may_have_secrets(request, own.__eq__):
            raise SourceError(
                f"{plain_url(request.url or '')} is not signed: keys are for {self.endpoint}, over https; "
                "give an https endpoint"
            )
        keys = self._keys = self._keys or self._read_keys()
        signed = AWSRequest(method="GET", url=request.url)
        S3SigV4Auth(Credentials(keys.access_key, keys.secret_key), "s3", _REGION).add_auth(signed)
        request.headers.update({name: str(value) for name, value in signed.headers.items()})
